//! Bounds of presence-svc.

use serde::Deserialize;

/// What an operator can set; the defaults are in place.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a user whose last session has closed counts as online, seconds: for reconnects.
    pub grace_seconds: u64,
    /// How long after its start an instance says that it may not know everybody yet, seconds: edges tell it their sessions
    /// again within this. 0 where no edge can have sessions from before: in one process.
    pub warm_up_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace_seconds: 10, warm_up_seconds: 15 }
    }
}
