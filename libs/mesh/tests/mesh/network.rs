//! The same stacks with a real network stack between them: HTTP/2 by tonic's transports, over an in-memory pipe.

use std::{convert::Infallible, future::pending, time::Duration};

use confab_mesh::{ClientConfig, Identity, Peer, ServerConfig, client, server};
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{sync::Mutex, time::Instant};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    transport::{Endpoint, Server},
};
use tower::{Service, ServiceExt};

use crate::kit::{Strings, converse, empty, next, say, streaming, unary};

/// A server stack as tonic wants it: with a name, and without errors.
#[derive(Clone)]
struct Named(Peer);

impl tonic::server::NamedService for Named {
    const NAME: &'static str = "confab.test.v1.Test";
}

impl Service<http::Request<Body>> for Named {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx).map(|ready| {
            ready.expect("a server is always ready");
            Ok(())
        })
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.0.call(request);
        Box::pin(async move { Ok(call.await.expect("a server's refusals are answers")) })
    }
}

/// `server` at the other end of a pipe, and the client's stack at this one.
fn over_http2(cfg: ClientConfig, server: Peer) -> Peer {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let incoming = tokio_stream::iter([Ok::<_, std::io::Error>(far)]).chain(tokio_stream::pending());
    tokio::spawn(Server::builder().add_service(Named(server)).serve_with_incoming(incoming));
    let near = std::sync::Arc::new(Mutex::new(Some(near)));
    let connector = tower::service_fn(move |_| {
        let near = near.clone();
        async move {
            let near = near.lock().await.take();
            near.map(TokioIo::new).ok_or(std::io::ErrorKind::NotConnected)
        }
    });
    let connector = connector.map_err(std::io::Error::from);
    let channel = Endpoint::from_static("http://test").connect_with_connector_lazy(connector);
    client(cfg, Peer::new(channel.map_err(|error| Status::from_error(error.into()))))
}

#[tokio::test(start_paused = true)]
async fn a_late_call_is_deadline_exceeded_whichever_timer_is_first() {
    // Ours, tonic's client's and tonic's server's wait for the same moment.
    for millis in 1..50 {
        let slow = server(ServerConfig::new("test-svc"), unary(|_| pending()));
        let timeout = Duration::from_millis(millis);
        let cfg = ClientConfig::new("edge", "test-svc").timeout(timeout);
        let started = Instant::now();
        let refusal = say(&over_http2(cfg, slow), empty()).await.expect_err("late");
        assert_eq!(refusal.code(), Code::DeadlineExceeded, "{timeout:?}: {refusal}");
        let took = started.elapsed();
        assert!(took <= timeout + Duration::from_millis(2), "{took:?} for {timeout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_ends_a_late_body_with_trailers() {
    let stalls = streaming(|_| async {
        let stream = tokio_stream::iter([Ok("one".to_owned())]).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(stream) as Strings))
    });
    let mut cfg = ServerConfig::new("test-svc");
    cfg.deadline_default = Duration::from_secs(1);
    // This end has none, so that the status is what came over.
    let lasting = ClientConfig::new("edge", "test-svc").streaming(&["Converse"]);
    let peer = over_http2(lasting, server(cfg, stalls));

    let request = Request::new(tokio_stream::pending());
    let mut stream = converse(&peer, request).await.expect("a head");
    assert_eq!(next(&mut stream).await.expect("in time").as_deref(), Some("one"));

    let refusal = next(&mut stream).await.expect_err("late");
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
    assert!(refusal.message().starts_with("test-svc"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_over_as_it_is() {
    let mut cfg = ServerConfig::new("test-svc");
    cfg.in_flight_max = 0;
    let full = server(cfg, unary(|_| pending()));
    let peer = over_http2(ClientConfig::new("edge", "test-svc"), full);
    let refusal = say(&peer, empty()).await.expect_err("full");
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("in_flight_max"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_over_and_nobody_is_known_without_a_certificate() {
    let asks = server(
        ServerConfig::new("test-svc"),
        unary(|request| async move {
            let known = Identity::of(&request).is_some();
            Ok(Response::new(format!("{} {known}", request.into_inner())))
        }),
    );
    let peer = over_http2(ClientConfig::new("edge", "test-svc"), asks);
    let mut request = Request::new("hello".to_owned());
    request.extensions_mut().insert(Identity::new("message-svc"));
    let answer = say(&peer, request).await.expect("an answer");
    assert_eq!(answer.get_ref(), "hello false");
}
