//! Serving over a network: HTTP/2 connections, plaintext or TLS.

mod connection;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use crate::{Drain, Peer};

/// How long to wait when the system has no file or memory left for a connection: others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Gives the TLS configuration of a connection that begins now, so that new certificates need no restart. It must offer
/// `h2` by ALPN. Called once per connection: it should hand out what it has at hand.
pub type ServerTls = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// How a service listens. Start from [`ListenConfig::default`].
#[derive(Clone)]
pub struct ListenConfig {
    /// Connections open at once. Default: 4,096. At the bound a new one is closed at once: its client sees so, and
    /// tries again later or elsewhere.
    pub connections_max: usize,
    /// Calls under way on one connection, streams included. Default: 256. At the bound the client's calls wait for
    /// others to end.
    pub streams_max: u32,
    /// What one call may have sent that its handler has not read, in bytes. Default: 64 KiB. The connection's window is
    /// [`streams_max`](Self::streams_max) times as large, so that a call that nobody reads stalls no other.
    pub stream_window_bytes: u32,
    /// A request's headers, in bytes. Default: 16 KiB. Larger ones are refused.
    pub headers_bytes_max: u32,
    /// A connection without traffic for so long is pinged … Default: 10 s.
    pub keepalive_interval: Duration,
    /// … and closed with all its calls if the answer does not come in time. Default: 10 s.
    pub keepalive_timeout: Duration,
    /// A connection takes no new calls after this time, give or take a tenth (GOAWAY); those under way go on until they
    /// end. So clients find new instances behind a load balancer, and certificates are checked again. Default: 30 min.
    pub connection_age_max: Duration,
    /// How long a client may take to begin: the TLS handshake, or the first byte. Default: 5 s.
    pub handshake_timeout: Duration,
    /// Default: none, plaintext.
    pub tls: Option<ServerTls>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            streams_max: 256,
            stream_window_bytes: 64 * 1024,
            headers_bytes_max: 16 * 1024,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
            connection_age_max: Duration::from_secs(30 * 60),
            handshake_timeout: Duration::from_secs(5),
            tls: None,
        }
    }
}

/// Serves `peer` (one service's stack, or several by [`route`](crate::route)) until `drain` begins: then clients are told
/// to go (GOAWAY), and it returns when the last call under way has ended.
///
/// It sets no limit to that wait: [`Drainer::drain`](crate::drain::Drainer::drain) does, if this runs in
/// [`Drain::spawn`]. Dropped, it ends all connections with what is under way.
pub async fn serve(listener: TcpListener, peer: Peer, cfg: ListenConfig, drain: &Drain) {
    let cfg = Arc::new(cfg);
    let permits = Arc::new(Semaphore::new(cfg.connections_max.min(Semaphore::MAX_PERMITS)));
    // Bounded by the permits. A set, so that the connections end with this future.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.started() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Some(tcp) = arrived(accepted).await else { continue };
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => {
                let connection = connection::run(tcp, peer.clone(), Arc::clone(&cfg), drain.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(_) => tracing::warn!(max = cfg.connections_max, "a connection too many is closed (connections_max)"),
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The connection, or a pause if the system has no room for one.
async fn arrived(accepted: io::Result<(TcpStream, std::net::SocketAddr)>) -> Option<TcpStream> {
    match accepted {
        Ok((tcp, _from)) => Some(tcp),
        // It was there and went before it was accepted.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => None,
        Err(error) => {
            tracing::warn!(%error, "no connection can be accepted for now");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
