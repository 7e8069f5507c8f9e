//! One connection: opened, and waited for until it takes no more calls.

use std::{future::Future, io, pin::Pin, time::Duration};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;

use super::{ConnectConfig, heard::first_bytes};
use crate::window::connection_window;

/// How soon a GOAWAY is noticed on a connection that nobody calls over: hyper looks for it only when it is polled.
const GOAWAY_TICK: Duration = Duration::from_millis(250);

/// Where the parts of connections run: each lives as long as its streams, and no longer than `stop` lets it.
#[derive(Clone)]
pub(super) struct Tasks {
    pub(super) stop: CancellationToken,
    pub(super) tracker: TaskTracker,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, part: F) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(part).await.map(drop) });
    }
}

/// Is over when the connection takes no more calls: it was lost, or told to go (those under way go on).
pub(super) type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Connects to `address` (`host:port`).
///
/// # Errors
/// What went wrong, or that it took longer than it may.
pub(super) async fn connect(
    address: &str,
    cfg: &ConnectConfig,
    tasks: &Tasks,
) -> io::Result<(SendRequest<Body>, Until)> {
    let connecting = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        match &cfg.tls {
            None => http2(tcp, cfg, tasks).await,
            Some(tls) => {
                let name = ServerName::try_from(cfg.tls_name.clone()).map_err(io::Error::other)?;
                let tls = TlsConnector::from(tls()).connect(name, tcp).await?;
                http2(tls, cfg, tasks).await
            }
        }
    };
    timeout(cfg.connect_timeout, connecting).await?
}

async fn http2<T>(io: T, cfg: &ConnectConfig, tasks: &Tasks) -> io::Result<(SendRequest<Body>, Until)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, heard) = first_bytes(io);
    let handshake = Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(cfg.stream_window_bytes)
        .initial_connection_window_size(connection_window(cfg.in_flight_max, cfg.stream_window_bytes))
        .keep_alive_interval(cfg.keepalive_interval)
        .keep_alive_timeout(cfg.keepalive_timeout)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(io));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    let mut until: Until = Box::pin(until_over(connection));
    tokio::select! {
        biased;
        Ok(()) = heard => Ok((sender, until)),
        () = until.as_mut() => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed before a word was said")),
    }
}

async fn until_over<F: Future>(connection: F) {
    let mut connection = std::pin::pin!(connection);
    let mut tick = interval(GOAWAY_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _over = connection.as_mut() => return,
            // Polls the connection again.
            _ = tick.tick() => {}
        }
    }
}
