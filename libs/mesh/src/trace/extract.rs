//! The server's layer: a span `rpc` around each call, a child of the caller's.
//!
//! The span is entered while the response's head is awaited, and no longer: a stream's messages belong to whatever sent
//! them. It closes with the call's very end.

use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use opentelemetry::{Context as TraceContext, global, propagation::Extractor, trace::TraceContextExt};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field::Empty, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    call::{CallBody, CallFuture, Ending, code_name},
    method::Method,
};

#[derive(Clone)]
pub(crate) struct ExtractLayer;

impl<S> Layer<S> for ExtractLayer {
    type Service = Extract<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Extract { inner }
    }
}

#[derive(Clone)]
pub(crate) struct Extract<S> {
    inner: S,
}

impl<S, R, B> Service<Request<R>> for Extract<S>
where
    S: Service<Request<R>, Response = Response<B>, Error = Status>,
{
    type Response = Response<CallBody<B, Close>>;
    type Error = Status;
    type Future = CallFuture<Instrumented<S::Future>, Close>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let span = open(&request);
        let call = {
            let _entered = span.enter();
            self.inner.call(request)
        };
        CallFuture::new(call.instrument(span.clone()), Close(span))
    }
}

fn open<R>(request: &Request<R>) -> Span {
    let path = request.uri().path();
    let method = Method::of_path(path);
    // A root here: its parent is the caller's, which in process, too, comes in the headers.
    let span = tracing::info_span!(
        parent: None,
        "rpc",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.service = method.service,
        rpc.method = method.name,
        rpc.response.status_code = Empty,
    );
    if !span.is_disabled() {
        adopt(&span, request.headers());
    }
    span
}

fn adopt(span: &Span, headers: &HeaderMap) {
    let caller = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&TraceContext::new(), &Headers(headers))
    });
    if caller.span().span_context().is_valid() {
        // Fails only where no OpenTelemetry layer listens: then there is no trace to belong to.
        let _ = span.set_parent(caller);
    }
}

/// Notes how the call went; the span closes as its last handle goes.
pub(crate) struct Close(Span);

impl Ending for Close {
    fn end(self, code: Code) {
        self.0.record("rpc.response.status_code", code_name(code));
        if is_our_fault(code) {
            self.0.record("otel.status_code", "ERROR");
        }
    }
}

/// Which codes mark a server's span as failed, after OpenTelemetry's conventions for gRPC.
fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
