//! One connection, from its first byte to its last call's end.

use std::{io, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body};
use tower::ServiceExt;

use super::ListenConfig;
use crate::{Drain, Peer, PeerAddress, PeerCertificates, window::connection_window};

/// Serves what comes over `tcp`. What goes wrong with a connection is the client's to act on; here it is only traced.
pub(super) async fn run(tcp: TcpStream, peer: Peer, cfg: Arc<ListenConfig>, drain: Drain) {
    let served = async {
        tcp.set_nodelay(true)?;
        let from = PeerAddress(tcp.peer_addr()?);
        match &cfg.tls {
            None => {
                timeout(cfg.handshake_timeout, tcp.peek(&mut [0])).await??;
                http2(tcp, peer, (from, None), &cfg, &drain).await
            }
            Some(tls) => {
                let handshake = TlsAcceptor::from(tls()).accept(tcp);
                let tls = timeout(cfg.handshake_timeout, handshake).await??;
                let shown = tls.get_ref().1.peer_certificates();
                let client = shown.map(|chain| PeerCertificates::new(chain.to_vec()));
                http2(tls, peer, (from, client), &cfg, &drain).await
            }
        }
    };
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn http2<T>(
    io: T,
    peer: Peer,
    client: (PeerAddress, Option<PeerCertificates>),
    cfg: &ListenConfig,
    drain: &Drain,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| answer(peer.clone(), client.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(cfg.streams_max)
        .initial_stream_window_size(cfg.stream_window_bytes)
        .initial_connection_window_size(connection_window(cfg.streams_max, cfg.stream_window_bytes))
        .max_header_list_size(cfg.headers_bytes_max)
        .keep_alive_interval(cfg.keepalive_interval)
        .keep_alive_timeout(cfg.keepalive_timeout)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let over = async {
        tokio::select! {
            () = drain.started() => {}
            () = sleep(about(cfg.connection_age_max)) => {}
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = over => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

/// Give or take a tenth, so that not all connections of a moment end in one.
fn about(age: Duration) -> Duration {
    Duration::try_from_secs_f64(age.as_secs_f64() * rand::random_range(0.9..1.1)).unwrap_or(age)
}

async fn answer(
    peer: Peer,
    client: (PeerAddress, Option<PeerCertificates>),
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let mut request = request.map(Body::new);
    let (from, certificates) = client;
    request.extensions_mut().insert(from);
    if let Some(client) = certificates {
        request.extensions_mut().insert(client);
    }
    Ok(peer.oneshot(request).await.unwrap_or_else(Status::into_http))
}
