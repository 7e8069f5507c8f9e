//! A server behind TLS on a loopback port, and a client that reaches it.

use std::{net::SocketAddr, sync::Arc};

use confab_mesh::{
    ClientConfig, Peer, PeerAddress, PeerCertificates, client,
    identity::tls::{ClientAuth, Credentials},
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{ServiceExt, service_fn};

/// Serves `peer` until the runtime ends.
pub(crate) async fn listen(credentials: Credentials, client_auth: ClientAuth, peer: Peer) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.expect("a connection");
            let acceptor = TlsAcceptor::from(credentials.server_config(client_auth));
            let peer = peer.clone();
            tokio::spawn(async move {
                // Who fails here is refused by the handshake, which is logged below.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                let certificates = PeerCertificates::new(chain);
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let mut request = request.map(Body::new);
                    request.extensions_mut().insert(certificates.clone());
                    request.extensions_mut().insert(PeerAddress(from));
                    peer.clone().oneshot(request)
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                let _ended = connection.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
            });
        }
    });
    address
}

/// The client's stack over TLS to a server of the role `test-svc`.
pub(crate) fn reach(address: SocketAddr, host: ServerName<'static>, tls: Arc<rustls::ClientConfig>) -> Peer {
    let connector = service_fn(move |_| {
        let (connector, host) = (TlsConnector::from(Arc::clone(&tls)), host.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(host, stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    let channel = endpoint.connect_with_connector_lazy(connector);
    let channel = channel.map_err(|error: tonic::transport::Error| Status::from_error(error.into()));
    client(ClientConfig::new("edge", "test-svc"), Peer::new(channel))
}
