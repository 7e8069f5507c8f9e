//! The client's layer that stops calling a target which fails call after call, and tries now and then whether it works
//! again. `circuit.rs` has the rules, pure; this says what a failure is.
//!
//! A call fails if nobody answers it, if it is late though it was waited for, or if it is answered `Unavailable`. A server
//! that sheds load (see `shed.rs`) works, and is no failure: a circuit that opens for it would turn a part of the calls
//! refused into all of them. Nor is a call that was not even sent, since there is no connection (see `unsent.rs`): that
//! failed at once and cost nobody anything, and connections are looked for at a pace of their own; a circuit that opened
//! for it would stay open when they are back.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::Either;
use http::{Request, Response};
use opentelemetry::{KeyValue, global, metrics::Gauge};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::{
    ClientConfig,
    call::code_in,
    circuit::{Change, Outcome, Pass, SharedCircuit},
    shed, unsent,
};

/// A deadline that left less than this says more of the caller than of the target.
const WAITED_MIN: Duration = Duration::from_millis(250);

/// One circuit, shared by all clones of the client's stack.
#[derive(Clone)]
pub(crate) struct BreakerLayer(Arc<Shared>);

struct Shared {
    target: &'static str,
    circuit: SharedCircuit,
    open: Gauge<u64>,
    ends: [KeyValue; 2],
}

impl BreakerLayer {
    pub(crate) fn new(cfg: &ClientConfig) -> Self {
        let open = global::meter("confab_mesh")
            .u64_gauge("rpc.client.circuit_open")
            .with_description("1 while the target is not called because it fails")
            .build();
        Self(Arc::new(Shared {
            target: cfg.target,
            circuit: SharedCircuit::new(cfg.breaker_failures, cfg.breaker_pause_max),
            open,
            ends: [KeyValue::new("confab.role", cfg.role), KeyValue::new("confab.target", cfg.target)],
        }))
    }
}

impl Shared {
    /// # Errors
    /// The refusal.
    fn admit(&self) -> Result<Pass, Status> {
        self.circuit.admit().map_err(|left| {
            Status::unavailable(format!(
                "{} is not called, for it fails call after call; it is tried again in {} ms",
                self.target,
                left.as_millis()
            ))
        })
    }

    fn end(&self, pass: Pass, outcome: Outcome) {
        match self.circuit.end(pass, outcome) {
            Some(Change::Opened { failures }) => {
                self.open.record(1, &self.ends);
                tracing::warn!(
                    service = self.target,
                    failures,
                    "calls fail one after another: it is not called for now"
                );
            }
            Some(Change::Closed) => {
                self.open.record(0, &self.ends);
                tracing::info!(service = self.target, "it is called again");
            }
            None => {}
        }
    }
}

fn outcome<B>(result: &Result<Response<B>, Status>, waited: Duration) -> Outcome {
    let late = || if waited >= WAITED_MIN { Outcome::Failed } else { Outcome::Unknown };
    match result {
        Ok(response) => match code_in(response.headers()) {
            Some(Code::Unavailable) if shed::is_refusal(response.headers()) => Outcome::Works,
            Some(Code::Unavailable) => Outcome::Failed,
            Some(Code::DeadlineExceeded) => late(),
            _ => Outcome::Works,
        },
        Err(status) if unsent::is_source_of(status) => Outcome::Unknown,
        Err(status) => match status.code() {
            Code::DeadlineExceeded => late(),
            // Of the caller's own making.
            Code::Cancelled | Code::InvalidArgument => Outcome::Unknown,
            _ => Outcome::Failed,
        },
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Breaker { shared: Arc::clone(&self.0), inner }
    }
}

#[derive(Clone)]
pub(crate) struct Breaker<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S, R, B> Service<Request<R>> for Breaker<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Status>,
{
    type Response = Response<B>;
    type Error = Status;
    type Future = Either<Watched<S::Future>, Ready<Result<Response<B>, Status>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        match self.shared.admit() {
            Ok(pass) => {
                let call = Call { shared: Arc::clone(&self.shared), pass: Some(pass), started: Instant::now() };
                Either::Left(Watched { inner: self.inner.call(request), call })
            }
            Err(refusal) => Either::Right(ready(Err(refusal))),
        }
    }
}

pin_project! {
    /// Ends with the response's head: whoever answers works, however long a stream lasts.
    pub(crate) struct Watched<F> {
        #[pin]
        inner: F,
        call: Call,
    }
}

impl<F, B> Future for Watched<F>
where
    F: Future<Output = Result<Response<B>, Status>>,
{
    type Output = Result<Response<B>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        this.call.end(outcome(&result, this.call.started.elapsed()));
        Poll::Ready(result)
    }
}

/// A call under way, which ends once.
struct Call {
    shared: Arc<Shared>,
    pass: Option<Pass>,
    started: Instant,
}

impl Call {
    fn end(&mut self, outcome: Outcome) {
        if let Some(pass) = self.pass.take() {
            self.shared.end(pass, outcome);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}
