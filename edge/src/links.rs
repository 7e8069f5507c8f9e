//! The edge's streams to the services: one of each, for all connections.

pub(crate) mod conversation;
pub(crate) mod deliveries;
pub(crate) mod presence;

use std::time::Duration;

/// How long a stream that broke waits before it is opened again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
