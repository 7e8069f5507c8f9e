//! Two servers that echo, each behind a port of its own: one bare, one within the mesh's stacks.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use confab_mesh::{ClientConfig, Identity, Peer, Policy, ServerConfig, client, drain, server};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt, service_fn};

pub(crate) const SAY: &str = "/confab.test.v1.Test/Say";
pub(crate) const GET: &str = "/confab.test.v1.Test/Get";
pub(crate) const CONVERSE: &str = "/confab.test.v1.Test/Converse";
const STREAMING: &[&str] = &["Converse"];

pub(crate) struct Ends {
    pub(crate) bare: Peer,
    pub(crate) meshed: Peer,
    _drainer: drain::Drainer,
}

impl Ends {
    pub(crate) async fn start() -> Self {
        let (drainer, drain) = drain::channel();
        let policy = Policy::new().allow("edge", &["/confab.test.v1.Test/*"]);
        let cfg = ServerConfig::new("test-svc").streaming(STREAMING).policy(policy).drain(drain);
        let meshed = channel(Named(KnowsCaller(server(cfg, Echo)))).await;
        let cfg = ClientConfig::new("edge", "test-svc").streaming(STREAMING).idempotent(&["Get"]);
        Self { bare: peer(channel(Named(Echo)).await), meshed: client(cfg, peer(meshed)), _drainer: drainer }
    }
}

/// Both clients are called in this way: its cost is in both.
fn peer(channel: Channel) -> Peer {
    Peer::new(channel.map_err(|error| Status::from_error(error.into())))
}

async fn channel<S>(service: Named<S>) -> Channel
where
    Named<S>: NamedService
        + Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let serving = Server::builder().tcp_nodelay(true).add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    endpoint.tcp_nodelay(true).connect().await.expect("a connection")
}

/// What a generated server is.
#[derive(Clone)]
struct Echo;

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_stream = request.uri().path() == CONVERSE;
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<String, String>::default());
            Ok(if is_stream {
                let echo = |request: Request<Streaming<String>>| async {
                    Ok::<_, Status>(Response::new(Box::pin(request.into_inner())))
                };
                grpc.streaming(service_fn(echo), request).await
            } else {
                let echo = |request: Request<String>| async { Ok::<_, Status>(Response::new(request.into_inner())) };
                grpc.unary(service_fn(echo), request).await
            })
        })
    }
}

/// A server stack, to which the transport says who calls.
#[derive(Clone)]
struct KnowsCaller(Peer);

impl Service<http::Request<Body>> for KnowsCaller {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx).map(|ready| {
            ready.expect("a server is always ready");
            Ok(())
        })
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(Identity::new("edge"));
        let call = self.0.call(request);
        Box::pin(async move { Ok(call.await.expect("a server's refusals are answers")) })
    }
}

/// As tonic wants a service: with a name.
#[derive(Clone)]
struct Named<S>(S);

impl<S> NamedService for Named<S> {
    const NAME: &'static str = "confab.test.v1.Test";
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Named<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}
