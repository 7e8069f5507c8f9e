//! A process's telemetry is set up once, so this is one test: it goes through what can be wrong, then exports for real.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use confab_telemetry::{Config, LogFormat, init};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry::global;
use tokio::net::TcpListener;

/// What a collector was sent: paths and bodies.
type Received = Arc<Mutex<Vec<(String, Bytes)>>>;

/// Answers every export with success.
async fn collect(received: Received, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let body = body.expect("a whole body").to_bytes();
    received.lock().expect("not poisoned").push((path, body));
    let ok =
        Response::builder().header("content-type", "application/grpc").header("grpc-status", "0").body(Full::default());
    Ok(ok.expect("a valid response"))
}

/// A collector on a free port, until the runtime ends.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let kept = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let received = Arc::clone(&kept);
            let service = service_fn(move |request| collect(Arc::clone(&received), request));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (format!("http://{address}"), received)
}

fn config(log_filter: &str, otlp_endpoint: Option<String>) -> Config {
    Config {
        service: "exporting-svc".to_owned(),
        log_format: LogFormat::Json,
        log_filter: log_filter.to_owned(),
        otlp_endpoint,
    }
}

fn holds(bytes: &Bytes, text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_and_what_is_left_is_exported_at_shutdown() {
    for wrong in [config("info,confab=loud", None), config("info", Some("not a url".to_owned()))] {
        let error = init(wrong.clone()).expect_err("it is wrong");
        let named = format!("{error:#}");
        let part = wrong.otlp_endpoint.unwrap_or(wrong.log_filter);
        assert!(named.contains(&part), "{named}");
    }

    // Spans are exported though the log filter wants none.
    let (endpoint, received) = collector().await;
    let guard = init(config("off", Some(endpoint))).expect("all is right");
    init(config("info", None)).expect_err("only once");
    tracing::info_span!("a_span_of_ours").in_scope(|| tracing::debug!("below the level"));
    let meter = global::meter("test");
    meter.u64_counter("a_counter_of_ours").build().add(1, &[]);
    tokio::task::spawn_blocking(|| guard.shutdown()).await.expect("no panic");

    let received = received.lock().expect("not poisoned");
    for (service, name) in
        [("trace.v1.TraceService", "a_span_of_ours"), ("metrics.v1.MetricsService", "a_counter_of_ours")]
    {
        let path = format!("/opentelemetry.proto.collector.{service}/Export");
        let sent = |(at, body): &&(String, Bytes)| *at == path && holds(body, name) && holds(body, "exporting-svc");
        assert!(received.iter().any(|export| sent(&export)), "{received:?}");
    }
}
