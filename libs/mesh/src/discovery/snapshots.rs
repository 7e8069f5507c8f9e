//! What a source writes its findings to.

use std::sync::Arc;

use tokio::sync::watch;

use super::Endpoint;

/// Instances of one service that are told of. Each has connections and a place in every list that is made.
const ENDPOINTS_MAX: usize = 1_024;

pub(crate) struct Snapshots(watch::Sender<Arc<[Endpoint]>>);

impl Snapshots {
    pub(super) fn channel() -> (Self, watch::Receiver<Arc<[Endpoint]>>) {
        let (sender, receiver) = watch::channel(Arc::from([]));
        (Self(sender), receiver)
    }

    /// Until nobody follows any more.
    pub(super) async fn unwatched(&self) {
        self.0.closed().await;
    }

    /// Whoever follows sees them, unless they are what was there already.
    pub(super) fn publish(&self, mut endpoints: Vec<Endpoint>) {
        endpoints.sort_unstable();
        endpoints.dedup();
        if endpoints.len() > ENDPOINTS_MAX {
            tracing::warn!(found = endpoints.len(), told = ENDPOINTS_MAX, "too many endpoints: the last are left out");
            endpoints.truncate(ENDPOINTS_MAX);
        }
        self.0.send_if_modified(|told| {
            let news = told[..] != endpoints[..];
            if news {
                *told = endpoints.into();
            }
            news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Snapshots};

    fn endpoints(ports: impl IntoIterator<Item = u16>) -> Vec<Endpoint> {
        ports.into_iter().map(|port| Endpoint { address: format!("host:{port}").into() }).collect()
    }

    #[test]
    fn they_are_sorted_once_each_and_bounded_and_told_only_when_they_change() {
        let (snapshots, mut told) = Snapshots::channel();
        snapshots.publish(endpoints([2, 1, 2]));
        assert!(told.has_changed().expect("open"));
        assert_eq!(told.borrow_and_update()[..], endpoints([1, 2])[..]);

        snapshots.publish(endpoints([1, 2]));
        assert!(!told.has_changed().expect("open"));

        snapshots.publish(endpoints(10_000..20_000));
        assert_eq!(told.borrow_and_update()[..], endpoints(10_000..11_024)[..]);
    }
}
