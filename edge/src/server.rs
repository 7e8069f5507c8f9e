//! Accepting connections: TCP, TLS where there is a certificate, HTTP/1.1.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::Config;
use crate::http::Peer;
use crate::stream::ClientStream;

const HEADER_BYTES_MAX: usize = 16 * 1_024;
const HEADERS_MAX: usize = 64;
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

const NOT_A_PROXY: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Accepts until it is dropped.
pub(crate) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router, cfg: Config) {
    // Of those in HTTP; open WebSockets are counted by the registry, and bounded at the upgrade.
    let handshakes = Arc::new(Semaphore::new(cfg.connections_max));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, most often: connections that end make room.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Without it small frames wait for each other; a socket that can't is closed already.
        let _closed = stream.set_nodelay(true);
        if !is_let_in(from.ip(), &cfg.behind_proxy) {
            drop(tokio::spawn(refuse(stream, NOT_A_PROXY)));
            continue;
        }
        match handshakes.clone().try_acquire_owned() {
            Ok(permit) => {
                let (tls, router, header_timeout) = (tls.clone(), router.clone(), cfg.header_timeout);
                tokio::spawn(async move {
                    serve(stream, from.ip(), tls, router, header_timeout).await;
                    drop(permit);
                });
            }
            Err(_) => drop(tokio::spawn(refuse(stream, BUSY))),
        }
    }
}

/// Behind a proxy nobody else gets in: what they send would not be encrypted.
fn is_let_in(from: IpAddr, proxies: &[IpNet]) -> bool {
    let from = from.to_canonical();
    proxies.is_empty() || from.is_loopback() || proxies.iter().any(|net| net.contains(&from))
}

async fn refuse(mut stream: TcpStream, answer: &'static [u8]) {
    // Whether it is read or not.
    let _sent = timeout(Duration::from_secs(1), stream.write_all(answer)).await;
}

async fn serve(stream: TcpStream, from: IpAddr, tls: Option<TlsAcceptor>, router: Router, header_timeout: Duration) {
    let stream = match tls {
        None => ClientStream::plain(stream),
        Some(acceptor) => match timeout(header_timeout, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => ClientStream::tls(stream),
            _ => return,
        },
    };
    let router = ServiceExt::<Request<Incoming>>::map_request(router, move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(from));
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    // A client that breaks off is its own affair.
    let _ended = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_proxy_only_it_and_this_machine_get_in() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let proxies: Vec<IpNet> = vec!["10.1.0.0/16".parse().expect("a network")];
        assert!(is_let_in(ip("10.1.2.3"), &proxies) && is_let_in(ip("::ffff:10.1.2.3"), &proxies));
        assert!(is_let_in(ip("127.0.0.1"), &proxies) && is_let_in(ip("192.0.2.1"), &[]));
        assert!(!is_let_in(ip("10.2.0.1"), &proxies) && !is_let_in(ip("192.0.2.1"), &proxies));
    }
}
