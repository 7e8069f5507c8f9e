//! The edge's streams to the services: for all connections one to each instance.

pub(crate) mod conversation;
pub(crate) mod deliveries;
pub(crate) mod presence;

use std::time::Duration;

use tokio::time::Instant;

/// How long a stream that broke waits before it is opened again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// The longest wait, while an instance can't be reached.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The links' clock, milliseconds.
fn now_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Waits longer each time. A fresh one begins with [`RETRY`].
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(RETRY)
    }
}

impl Backoff {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }
}
