//! Calling one instance over a network: a few HTTP/2 connections that are opened again whenever they end.

mod backoff;
mod calls;
mod connection;
mod errors;
mod heard;
mod instance;
mod open;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub(crate) use instance::Instance;

use crate::Peer;

/// Gives the TLS configuration of a connection that begins now, so that new certificates need no restart. It must ask
/// for `h2` by ALPN. Called once per connection: it should hand out what it has at hand.
pub type ClientTls = Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>;

/// Asks an instance, through its own peer, whether it serves. It is given
/// [`health_interval`](ConnectConfig::health_interval) for the answer; none in time is a no.
pub type HealthCheck = Arc<dyn Fn(Peer) -> BoxFuture<'static, bool> + Send + Sync>;

/// How instances of one service are connected to. Start from [`ConnectConfig::new`].
#[derive(Clone)]
pub struct ConnectConfig {
    /// Whom we call: `message-svc`, … Is named in errors and logs.
    pub target: &'static str,
    /// Connections to each instance, at least one; a call goes to the one with the fewest calls. Default: 2, for each
    /// has one lock.
    pub connections: usize,
    /// Calls under way to one instance, streams included. Default: 1,024. At the bound a call fails at once with
    /// `Unavailable`, unsent.
    pub in_flight_max: u32,
    /// What one call may have been answered that its caller has not read, in bytes. Default: 64 KiB. A connection's
    /// window is [`in_flight_max`](Self::in_flight_max) times as large, so that an answer that nobody reads stalls no
    /// other.
    pub stream_window_bytes: u32,
    /// Until a connection must be there: TCP, TLS and the first bytes of HTTP/2 from the other end. Default: 2 s.
    pub connect_timeout: Duration,
    /// The pause before a failed connection's second attempt; it doubles with each further one … Default: 20 ms.
    pub backoff_min: Duration,
    /// … up to this, and is cut at random by up to a half. Default: 1 s.
    pub backoff_max: Duration,
    /// A connection on which nothing has come for so long is pinged … Default: 1 s.
    pub keepalive_interval: Duration,
    /// … and closed with all its calls if the answer does not come in time. Default: 3 s. An instance that is slow by 2 s
    /// keeps its connections, and what was on its way to one that is gone goes another way within 5 s.
    pub keepalive_timeout: Duration,
    /// How long the streams of an instance that has left discovery may go on. Default: 30 s.
    pub leave_timeout: Duration,
    /// An instance is up only if this says so, besides being connected. Default: none.
    pub health: Option<HealthCheck>,
    /// Between two questions while it serves (at most 250 ms while it doesn't), and until an answer must be there.
    /// Default: 2 s.
    pub health_interval: Duration,
    /// Default: none, plaintext.
    pub tls: Option<ClientTls>,
    /// The name that an instance's certificate is checked for. Default: the target's. Its address is not: instances come
    /// and go.
    pub tls_name: String,
}

impl ConnectConfig {
    /// The documented defaults.
    #[must_use]
    pub fn new(target: &'static str) -> Self {
        Self {
            target,
            connections: 2,
            in_flight_max: 1_024,
            stream_window_bytes: 64 * 1024,
            connect_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(3),
            leave_timeout: Duration::from_secs(30),
            health: None,
            health_interval: Duration::from_secs(2),
            tls: None,
            tls_name: target.to_owned(),
        }
    }
}
