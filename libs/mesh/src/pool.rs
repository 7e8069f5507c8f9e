//! The instances of one service.

mod discovered;

use std::sync::Arc;

use discovered::Discovered;
use tokio::sync::watch;

use crate::{ConnectConfig, Discovery, Peer, rendezvous};

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
    /// the pool, and of its watches: a [`Member::peer`] that is kept for longer answers `Unavailable`.
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

    /// The instance that `key` belongs to, by [rendezvous hashing](crate::rendezvous): the same one for everybody who has
    /// the same list. `None` if none is listed.
    ///
    /// It is chosen among all that are listed, not among those that are up: who owns a key must not change with a
    /// connection of ours. If it is down, a call to it fails at once with `Unavailable`.
    #[must_use]
    pub fn keyed(&self, key: u64) -> Option<Member> {
        let members = self.members();
        members.iter().max_by_key(|member| (rendezvous::score(key, &member.id), &*member.id)).cloned()
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

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tonic::Status;

    use super::{Member, Members, Peer, Pool, rendezvous};

    fn pool(members: &[(&str, bool)]) -> Pool {
        let unused = tower::service_fn(|_| std::future::ready(Err(Status::unavailable("not called here"))));
        let member = |(id, up): &(&str, bool)| Member { id: (*id).into(), peer: Peer::new(unused), up: *up };
        let members: Members = members.iter().map(member).collect();
        Pool::new(watch::channel(members).1)
    }

    #[test]
    fn a_key_belongs_to_one_of_all_that_are_listed_up_or_not() {
        let all = pool(&[("a:1", true), ("b:1", true), ("c:1", true)]);
        let down = pool(&[("a:1", false), ("b:1", true), ("c:1", false)]);
        for key in 0..1_000 {
            let owner = all.keyed(key).expect("listed").id;
            assert_eq!(*owner, *rendezvous::ranked(key, ["a:1", "b:1", "c:1"], 1)[0]);
            assert_eq!(owner, down.keyed(key).expect("listed").id);
        }
        assert!(pool(&[]).keyed(7).is_none());
    }
}
