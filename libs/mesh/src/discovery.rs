//! Which instances a service has, as one stream of snapshots, whatever says so.
//!
//! | source | says so |
//! |---|---|
//! | `static:10.0.0.1:7000,10.0.0.2:7000` | the operator, for good |

mod parse;
mod snapshots;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

pub use parse::ParseSourceError;
pub(crate) use snapshots::Snapshots;

/// Where one instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// `host:port`, an IPv6 address in brackets: `[::1]:7000`.
    pub address: Arc<str>,
}

/// Who says which instances a service has. Parsed from a string: see the [module's documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// These, for good.
    Static(Vec<Endpoint>),
}

impl Source {
    /// Begins to find instances.
    #[must_use]
    pub fn start(self) -> Discovery {
        match self {
            Self::Static(endpoints) => Discovery::fixed(endpoints),
        }
    }
}

/// The instances of one service as they come and go. What finds them ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Discovery {
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    again: Arc<Notify>,
}

impl Discovery {
    /// All that are known, ascending and at most 1,024 (what is above is left out, and logged); empty until the first
    /// answer. If [`changed`](watch::Receiver::changed) fails, they stay as they are for good.
    #[must_use]
    pub fn endpoints(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.endpoints.clone()
    }

    /// A hint that an endpoint has failed: a source that asks from time to time asks soon.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    fn fixed(endpoints: Vec<Endpoint>) -> Self {
        let (snapshots, discovery) = Self::channel();
        snapshots.publish(endpoints);
        discovery
    }

    fn channel() -> (Snapshots, Self) {
        let (snapshots, endpoints) = Snapshots::channel();
        let again = Arc::new(Notify::new());
        (snapshots, Self { endpoints, again })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}
