//! The client's layer: writes the deadline into the call, and keeps to it whatever the server does.

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
    Deadline, remaining,
    timed::{Timed, TimedBody},
    wire,
};
use crate::{ClientConfig, method::Method};

/// What a call may take.
#[derive(Clone)]
struct Limits {
    target: &'static str,
    timeout: Duration,
    streaming: &'static [&'static str],
}

impl Limits {
    fn timeout(&self, method: Method<'_>, asked: Option<Duration>, inherited: Option<Duration>) -> Option<Duration> {
        // A stream outlives the call that happened to open it.
        if self.streaming.contains(&method.name) {
            return asked;
        }
        let timeout = asked.unwrap_or(self.timeout);
        Some(inherited.map_or(timeout, |inherited| inherited.min(timeout)))
    }

    /// # Errors
    /// `InvalidArgument` for a malformed timeout, `DeadlineExceeded` if there is no time left to begin.
    fn apply<R>(&self, request: &mut Request<R>) -> Result<Option<Deadline>, Status> {
        let asked = wire::read(request.headers())?;
        let method = Method::of_path(request.uri().path());
        let Some(timeout) = self.timeout(method, asked, remaining()) else {
            return Ok(None);
        };
        let deadline = |at| Deadline { at, late: "no whole answer before the call's deadline", service: self.target };
        let now = Instant::now();
        if timeout.is_zero() {
            return Err(deadline(now).status());
        }
        wire::write(request.headers_mut(), timeout);
        // Beyond what the clock can say is for ever.
        Ok(now.checked_add(timeout).map(deadline))
    }
}

#[derive(Clone)]
pub(crate) struct DeadlineLayer(Limits);

impl DeadlineLayer {
    pub(crate) fn new(cfg: &ClientConfig) -> Self {
        Self(Limits { target: cfg.target, timeout: cfg.timeout, streaming: cfg.streaming })
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = ClientDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let limits = self.0.clone();
        ClientDeadline { limits, inner }
    }
}

#[derive(Clone)]
pub(crate) struct ClientDeadline<S> {
    limits: Limits,
    inner: S,
}

type Refused<B> = Ready<Result<Response<TimedBody<B>>, Status>>;

impl<S, R, B> Service<Request<R>> for ClientDeadline<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Status>,
{
    type Response = Response<TimedBody<B>>;
    type Error = Status;
    type Future = Either<Timed<S::Future>, Refused<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<R>) -> Self::Future {
        match self.limits.apply(&mut request) {
            Ok(deadline) => Either::Left(Timed::new(deadline, self.inner.call(request))),
            Err(refusal) => Either::Right(ready(Err(refusal))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Limits, Method};

    #[test]
    fn the_smallest_timeout_counts_but_a_stream_has_only_its_own() {
        let limits = Limits { target: "a-svc", timeout: Duration::from_secs(5), streaming: &["Converse"] };
        let secs = |secs| Some(Duration::from_secs(secs));
        for (path, asked, inherited, timeout) in [
            ("/a.v1.A/Get", None, None, secs(5)),
            ("/a.v1.A/Get", secs(9), None, secs(9)),
            ("/a.v1.A/Get", None, secs(3), secs(3)),
            ("/a.v1.A/Get", None, secs(7), secs(5)),
            ("/a.v1.A/Get", secs(9), secs(7), secs(7)),
            ("/a.v1.A/Converse", None, secs(3), None),
            ("/a.v1.A/Converse", secs(9), secs(3), secs(9)),
        ] {
            let got = limits.timeout(Method::of_path(path), asked, inherited);
            assert_eq!(got, timeout, "{path} asks for {asked:?} within {inherited:?}");
        }
    }
}
