//! Bounds of message-svc.

use std::time::Duration;

use serde::Deserialize;

/// What an operator can set; the defaults are in place.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Chats kept in memory. Beyond it the least recently used idle ones are forgotten, and read again when needed.
    pub hot_chats_max: usize,
    /// Sends that wait for the disk or for fanout, and commands that wait for a chat to be read. At the bound no more are
    /// taken: their senders wait.
    pub in_flight_max: usize,
    /// How long what was said is kept; none: for good.
    pub retention: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self { hot_chats_max: 50_000, in_flight_max: 16_384, retention: None }
    }
}
