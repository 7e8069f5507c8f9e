//! Bounds of the edge.

use std::time::Duration;

use ipnet::IpNet;

use crate::limits::LimitsConfig;

/// What an operator can set; the defaults are in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A larger frame is answered with `TOO_LARGE`, bytes.
    pub frame_bytes_max: usize,
    /// A larger frame closes the connection with 1009, bytes.
    pub frame_bytes_hard_max: usize,
    /// Connections at once; a further one is answered 503.
    pub connections_max: usize,
    /// Sends of one connection that are not answered yet; at the bound the connection is not read.
    pub in_flight_max: usize,
    /// Events that wait for one connection; beyond it they are read from the log when it can take them.
    pub outbound_events_max: usize,
    /// The same in bytes.
    pub outbound_bytes_max: usize,
    /// WebSocket pings go out this often.
    pub ping_interval: Duration,
    /// A connection is closed with 4008 after so long without a byte from the client.
    pub silence_max: Duration,
    /// A connection is closed with 4008 after so long without progress of what is written.
    pub stall_max: Duration,
    /// How long clients have for leaving when the server drains.
    pub drain: Duration,
    /// Users that one connection watches.
    pub watch_max: usize,
    /// A request's head has to be there within this.
    pub header_timeout: Duration,
    /// Where it is not empty, connections come from these networks and from loopback only; others are answered 403.
    pub behind_proxy: Vec<IpNet>,
    /// Whose pages may use the API from a browser, beside this server's own and loopback's: `https://app.example.org`, or `*`.
    pub origins: Vec<String>,
    /// How much one user, and one address, may ask.
    pub limits: LimitsConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frame_bytes_max: 128 * 1_024,
            frame_bytes_hard_max: 1_024 * 1_024,
            connections_max: 100_000,
            in_flight_max: 64,
            outbound_events_max: 256,
            outbound_bytes_max: 256 * 1_024,
            ping_interval: Duration::from_secs(30),
            silence_max: Duration::from_secs(45),
            stall_max: Duration::from_secs(60),
            drain: Duration::from_secs(25),
            watch_max: 200,
            header_timeout: Duration::from_secs(10),
            behind_proxy: Vec::new(),
            origins: Vec::new(),
            limits: LimitsConfig::default(),
        }
    }
}
