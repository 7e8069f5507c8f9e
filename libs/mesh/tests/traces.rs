//! One trace from hop to hop.
//!
//! A process of its own, and one test: `tracing` caches per process whether anybody is interested in a span, and a test
//! beside it that makes the same spans for nobody can win that race.

#[expect(dead_code, reason = "the other tests' part of it")]
#[path = "mesh/kit.rs"]
mod kit;

use std::sync::{Arc, Mutex};

use confab_mesh::{ServerConfig, server};
use opentelemetry::trace::{SpanContext, TraceContextExt, TracerProvider};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tonic::{Code, Request, Response, Status};
use tracing::{Instrument, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use kit::{TestServer, empty, in_process, say, unary};

#[derive(Clone, Debug, Default)]
struct Exported(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Exported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("not poisoned").extend(batch);
        Ok(())
    }
}

/// Traces what this thread does until the guard is dropped.
fn traced() -> (Exported, tracing::subscriber::DefaultGuard) {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let exported = Exported::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exported.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    (exported, tracing::subscriber::set_default(subscriber))
}

fn current() -> SpanContext {
    Span::current().context().span().span_context().clone()
}

/// Answers with the `traceparent` that it got and its own span, or fails if there is no parent.
fn says_its_parent() -> TestServer {
    unary(|request: Request<String>| async move {
        let parent = request.metadata().get("traceparent");
        let parent = parent.ok_or_else(|| Status::not_found("no traceparent"))?;
        let parent = parent.to_str().expect("ascii").to_owned();
        let here = current();
        Ok(Response::new(format!("{parent} {}", here.span_id())))
    })
}

async fn assert_no_header_without_a_trace() {
    let peer = in_process(server(ServerConfig::new("test-svc"), says_its_parent()));
    let status = say(&peer, empty()).await;
    assert_eq!(status.expect_err("no trace").code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_servers_span_is_a_child_of_its_callers() {
    assert_no_header_without_a_trace().await;
    let (exported, _guard) = traced();
    assert_no_header_without_a_trace().await;
    let peer = in_process(server(ServerConfig::new("test-svc"), says_its_parent()));
    let span = info_span!("caller");
    let caller = span.in_scope(current);
    assert!(caller.is_valid());

    let answer = say(&peer, empty()).instrument(span).await;

    let (trace, id) = (caller.trace_id(), caller.span_id());
    let answer = answer.expect("a traceparent").into_inner();
    let exported = exported.0.lock().expect("not poisoned");
    let rpc =
        exported.iter().find(|span| span.name == "confab.test.v1.Test/Say" && span.span_context.trace_id() == trace);
    let rpc = rpc.expect("the call's span, in its caller's trace");
    assert_eq!(rpc.parent_span_id, id);
    let own = rpc.span_context.span_id();
    assert_eq!(answer, format!("00-{trace}-{id}-01 {own}"));
    let attribute = |key: &str| {
        let found = rpc.attributes.iter().find(|kv| kv.key.as_str() == key);
        found.map(|kv| kv.value.to_string())
    };
    assert_eq!(attribute("rpc.service").as_deref(), Some("confab.test.v1.Test"));
    assert_eq!(attribute("rpc.method").as_deref(), Some("Say"));
    assert_eq!(attribute("rpc.response.status_code").as_deref(), Some("OK"));
}
