//! Rate, errors and duration of calls, and how many are in flight, through OpenTelemetry's global meter.
//!
//! | instrument | kind | attributes |
//! |---|---|---|
//! | `rpc.{server,client}.requests` | counter | `confab.role`, `confab.target`, `rpc.service`, `rpc.method`, `rpc.response.status_code` |
//! | `rpc.{server,client}.call.duration` | histogram, seconds | the same |
//! | `rpc.{server,client}.in_flight` | up-down counter | `confab.role`, `confab.target` |
//!
//! `confab.target`, whom it calls, is a client's only.
//! A call counts once, at its very end: a stream's code and duration are those of the whole stream.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, Uri};
use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram, UpDownCounter},
};
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::{
    call::{CallBody, CallFuture, Ending, code_name},
    method::Method,
};

/// The histogram's bounds in seconds: fine where the goal is (an event within 500 ms, end to end), coarse above.
const DURATION_BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Made once per stack, shared by all its calls.
struct Instruments {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
    /// Who calls or serves, and whom.
    ends: Vec<KeyValue>,
}

#[derive(Clone)]
pub(crate) struct MetricsLayer(Arc<Instruments>);

impl MetricsLayer {
    pub(crate) fn server(role: &'static str) -> Self {
        Self::new("server", vec![KeyValue::new("confab.role", role)])
    }

    pub(crate) fn client(role: &'static str, target: &'static str) -> Self {
        let ends = vec![KeyValue::new("confab.role", role), KeyValue::new("confab.target", target)];
        Self::new("client", ends)
    }

    fn new(side: &'static str, ends: Vec<KeyValue>) -> Self {
        let meter = global::meter("confab_mesh");
        Self(Arc::new(Instruments {
            requests: meter
                .u64_counter(format!("rpc.{side}.requests"))
                .with_description("Calls that have ended")
                .build(),
            duration: meter
                .f64_histogram(format!("rpc.{side}.call.duration"))
                .with_description("From a call's start to the end of its response's body")
                .with_unit("s")
                .with_boundaries(DURATION_BOUNDS.to_vec())
                .build(),
            in_flight: meter
                .i64_up_down_counter(format!("rpc.{side}.in_flight"))
                .with_description("Calls whose response's body has not ended")
                .build(),
            ends,
        }))
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let instruments = Arc::clone(&self.0);
        Metrics { instruments, inner }
    }
}

#[derive(Clone)]
pub(crate) struct Metrics<S> {
    instruments: Arc<Instruments>,
    inner: S,
}

impl<S, R, B> Service<Request<R>> for Metrics<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Status>,
{
    type Response = Response<CallBody<B, Measured>>;
    type Error = Status;
    type Future = CallFuture<S::Future, Measured>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let measured = Measured::start(Arc::clone(&self.instruments), request.uri().clone());
        CallFuture::new(self.inner.call(request), measured)
    }
}

/// A call under way.
pub(crate) struct Measured {
    instruments: Arc<Instruments>,
    uri: Uri,
    started: Instant,
}

impl Measured {
    fn start(instruments: Arc<Instruments>, uri: Uri) -> Self {
        instruments.in_flight.add(1, &instruments.ends);
        Self { instruments, uri, started: Instant::now() }
    }

    fn attributes(&self, code: Code) -> Vec<KeyValue> {
        let method = Method::of_path(self.uri.path());
        // A path that no service knows, or whose caller is not known, is a stranger's word: it must not become a time
        // series of its own. (What else is refused before a service has seen it is bounded by the SDK's limit of 2,000
        // sets per instrument.)
        let (service, name) = match code {
            Code::Unimplemented | Code::Unauthenticated => ("_OTHER", "_OTHER"),
            _ => (method.service, method.name),
        };
        let mut attributes = self.instruments.ends.clone();
        attributes.extend([
            KeyValue::new("rpc.service", service.to_owned()),
            KeyValue::new("rpc.method", name.to_owned()),
            KeyValue::new("rpc.response.status_code", code_name(code)),
        ]);
        attributes
    }
}

impl Ending for Measured {
    fn end(self, code: Code) {
        let attributes = self.attributes(code);
        let instruments = &self.instruments;
        instruments.in_flight.add(-1, &instruments.ends);
        instruments.requests.add(1, &attributes);
        let seconds = self.started.elapsed().as_secs_f64();
        instruments.duration.record(seconds, &attributes);
    }
}
