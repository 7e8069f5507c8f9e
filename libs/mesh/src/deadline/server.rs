//! The server's layer: reads the deadline, keeps to it, and makes it what the handler's own calls inherit.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response};
use tokio::time::Instant;
use tonic::Status;
use tower::{Layer, Service};

use super::{
    Deadline,
    scope::Scoped,
    timed::{Timed, TimedBody},
    wire,
};
use crate::{ServerConfig, method::Method};

/// What a call may take.
#[derive(Clone)]
struct Limits {
    service: &'static str,
    default: Duration,
    max: Duration,
    streaming: &'static [&'static str],
}

impl Limits {
    fn timeout(&self, method: Method<'_>, asked: Option<Duration>) -> Option<Duration> {
        if self.streaming.contains(&method.name) {
            return asked;
        }
        Some(asked.unwrap_or(self.default).min(self.max))
    }

    /// # Errors
    /// `InvalidArgument` for a malformed timeout, `DeadlineExceeded` for one that has passed before we began.
    fn deadline<R>(&self, request: &Request<R>) -> Result<Option<Deadline>, Status> {
        let asked = wire::read(request.headers())?;
        let method = Method::of_path(request.uri().path());
        let Some(timeout) = self.timeout(method, asked) else {
            return Ok(None);
        };
        let deadline =
            |at| Deadline { at, late: "the call's deadline passed while it was handled", service: self.service };
        let now = Instant::now();
        if timeout.is_zero() {
            return Err(deadline(now).status());
        }
        // Beyond what the clock can say is for ever.
        Ok(now.checked_add(timeout).map(deadline))
    }
}

#[derive(Clone)]
pub(crate) struct DeadlineLayer(Limits);

impl DeadlineLayer {
    pub(crate) fn new(cfg: &ServerConfig) -> Self {
        Self(Limits {
            service: cfg.service,
            default: cfg.deadline_default,
            max: cfg.deadline_max,
            streaming: cfg.streaming,
        })
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = ServerDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let limits = self.0.clone();
        ServerDeadline { limits, inner }
    }
}

#[derive(Clone)]
pub(crate) struct ServerDeadline<S> {
    limits: Limits,
    inner: S,
}

type Refused<B> = Ready<Result<Response<TimedBody<Scoped<B>>>, Status>>;

impl<S, R, B> Service<Request<R>> for ServerDeadline<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Status>,
{
    type Response = Response<TimedBody<Scoped<B>>>;
    type Error = Status;
    type Future = Either<Timed<Scoped<S::Future>>, Refused<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        match self.limits.deadline(&request) {
            Ok(deadline) => {
                let at = deadline.map(|deadline| deadline.at);
                let call = Scoped::new(at, self.inner.call(request));
                Either::Left(Timed::new(deadline, call))
            }
            Err(refusal) => Either::Right(ready(Err(refusal))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Limits, Method};

    #[test]
    fn a_timeout_is_defaulted_and_capped_but_not_a_streams() {
        let limits = Limits {
            service: "a-svc",
            default: Duration::from_secs(10),
            max: Duration::from_secs(60),
            streaming: &["Converse"],
        };
        let secs = |secs| Some(Duration::from_secs(secs));
        for (path, asked, timeout) in [
            ("/a.v1.A/Get", None, secs(10)),
            ("/a.v1.A/Get", secs(1), secs(1)),
            ("/a.v1.A/Get", secs(61), secs(60)),
            ("/a.v1.A/Converse", None, None),
            ("/a.v1.A/Converse", secs(61), secs(61)),
        ] {
            let got = limits.timeout(Method::of_path(path), asked);
            assert_eq!(got, timeout, "{path} asks for {asked:?}");
        }
    }
}
