//! The instances of one service.

mod discovered;

use std::sync::Arc;

use discovered::Discovered;
use tokio::sync::watch;

use crate::{ConnectConfig, Discovery, Peer};

/// The instances of one service, as discovery lists them and connections find them; follows both as they change.
///
/// In one process it has one instance, for good ([`Pool::fixed`]): whoever uses a pool cannot tell which it is.
#[derive(Clone, Debug)]
pub struct Pool {
    members: watch::Receiver<Members>,
    /// Keeps the channel of a fixed pool open.
    _fixed: Option<Arc<watch::Sender<Members>>>,
}

/// All instances at one moment, by ascending id.
pub type Members = Arc<[Member]>;

/// One instance.
#[derive(Clone)]
pub struct Member {
    /// Its name: the address that it is reached at. An instance that starts again at the same address has the same id.
    pub id: Arc<str>,
    /// Calls this instance and no other. It answers `Unavailable` while there is no connection.
    pub peer: Peer,
    /// There is a connection, and the instance says that it serves.
    pub up: bool,
}

impl Pool {
    /// Instances that never change and are always up.
    pub fn fixed<I: Into<Arc<str>>>(members: impl IntoIterator<Item = (I, Peer)>) -> Self {
        let mut members: Vec<Member> =
            members.into_iter().map(|(id, peer)| Member { id: id.into(), peer, up: true }).collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let (sender, receiver) = watch::channel(members.into());
        Self { members: receiver, _fixed: Some(Arc::new(sender)) }
    }

    /// Instances that change: whoever holds the sender says how.
    #[must_use]
    pub fn new(members: watch::Receiver<Members>) -> Self {
        Self { members, _fixed: None }
    }

    /// The instances that `discovery` tells, each connected to; listed at once, and up as soon as there is a connection.
    ///
    /// One that leaves discovery is no longer listed; its streams end by themselves, or after
    /// [`leave_timeout`](ConnectConfig::leave_timeout). One that is down stays listed. All ends with the last clone of
    /// the pool, and of its watches.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn discover(discovery: Discovery, cfg: ConnectConfig) -> Self {
        let mut discovered = Discovered::new(discovery, cfg);
        let (sender, members) = watch::channel(discovered.members());
        tokio::spawn(discovered.run(sender));
        Self::new(members)
    }

    /// All instances now, by ascending id.
    #[must_use]
    pub fn members(&self) -> Members {
        self.members.borrow().clone()
    }

    /// Follows the changes. In a fixed pool [`changed`](watch::Receiver::changed) waits for ever, as long as a clone of
    /// the pool is there.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Members> {
        self.members.clone()
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("up", &self.up).finish_non_exhaustive()
    }
}
