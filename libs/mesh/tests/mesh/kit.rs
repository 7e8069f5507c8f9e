//! A tonic server and client of strings, without generated code, and ways to look at a response.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use confab_mesh::{ClientConfig, Identity, Peer, client, local};
use http::uri::PathAndQuery;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming, body::Body, server};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt};

pub(crate) type Codec = ProstCodec<String, String>;
pub(crate) type Reply = Result<Response<String>, Status>;
pub(crate) type Strings = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

type HttpFuture = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// What a generated server is to the mesh.
#[derive(Clone)]
pub(crate) struct TestServer(Arc<dyn Fn(http::Request<Body>) -> HttpFuture + Send + Sync>);

impl Service<http::Request<Body>> for TestServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = HttpFuture;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> HttpFuture {
        (self.0)(request)
    }
}

pub(crate) fn unary<H, F>(handler: H) -> TestServer
where
    H: Fn(Request<String>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    TestServer(Arc::new(move |request| {
        let handler = tower::service_fn(handler.clone());
        Box::pin(async move {
            let mut grpc = server::Grpc::new(Codec::default());
            Ok(grpc.unary(handler, request).await)
        })
    }))
}

/// Serves both server streams and bidirectional ones.
pub(crate) fn streaming<H, F>(handler: H) -> TestServer
where
    H: Fn(Request<Streaming<String>>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Strings>, Status>> + Send + 'static,
{
    TestServer(Arc::new(move |request| {
        let handler = tower::service_fn(handler.clone());
        Box::pin(async move {
            let mut grpc = server::Grpc::new(Codec::default());
            Ok(grpc.streaming(handler, request).await)
        })
    }))
}

/// `server` as the edge reaches it in process, with the client's defaults.
pub(crate) fn in_process(server: Peer) -> Peer {
    in_process_with(ClientConfig::new("edge", "test-svc"), server)
}

pub(crate) fn in_process_with(cfg: ClientConfig, server: Peer) -> Peer {
    client(cfg, local(Identity::new("edge"), server))
}

pub(crate) async fn say(peer: &Peer, request: Request<String>) -> Reply {
    let mut grpc = tonic::client::Grpc::new(peer.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/confab.test.v1.Test/Say");
    soon(grpc.unary(request, path, Codec::default())).await
}

pub(crate) async fn converse<S>(peer: &Peer, request: Request<S>) -> Result<Streaming<String>, Status>
where
    S: Stream<Item = String> + Send + 'static,
{
    let mut grpc = tonic::client::Grpc::new(peer.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/confab.test.v1.Test/Converse");
    let response = soon(grpc.streaming(request, path, Codec::default())).await?;
    Ok(response.into_inner())
}

/// The next message; `None` at a good end.
pub(crate) async fn next(stream: &mut Streaming<String>) -> Result<Option<String>, Status> {
    soon(stream.message()).await
}

/// In a day at the latest, which is no time where time is paused: what never comes must fail a test, not hang it.
pub(crate) async fn soon<F: Future>(awaited: F) -> F::Output {
    let day = Duration::from_secs(24 * 3600);
    let done = tokio::time::timeout(day, awaited).await;
    done.expect("it never comes")
}

/// A request as it comes from a network: one unary message, and headers.
pub(crate) fn raw(headers: &[(&'static str, &'static str)]) -> http::Request<Body> {
    // The frame of an empty string: not compressed, no bytes.
    let frame = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
    let mut request =
        http::Request::post("http://test/confab.test.v1.Test/Say").header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::new(frame)).expect("a valid request")
}

/// Sends `request` as it is, and reads the answer to its end.
pub(crate) async fn send(peer: &Peer, request: http::Request<Body>) -> Status {
    let response = soon(peer.clone().oneshot(request)).await;
    let response = response.expect("a server answers; it has no other errors");
    let (head, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status;
    }
    let trailers = match soon(body.collect()).await {
        Ok(whole) => whole.trailers().cloned(),
        Err(status) => return status,
    };
    trailers
        .and_then(|trailers| Status::from_header_map(&trailers))
        .unwrap_or_else(|| Status::unknown("no status at all"))
}

/// Tells when it is dropped: what a handler holds is dropped when the call is.
pub(crate) fn drop_probe() -> (DropProbe, oneshot::Receiver<()>) {
    let (sender, dropped) = oneshot::channel();
    (DropProbe(Some(sender)), dropped)
}

pub(crate) struct DropProbe(Option<oneshot::Sender<()>>);

impl Drop for DropProbe {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

pub(crate) fn empty() -> Request<String> {
    Request::new(String::new())
}
