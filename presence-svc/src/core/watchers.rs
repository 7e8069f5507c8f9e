//! Who wants to know about whom.

use std::collections::{HashMap, HashSet};

use confab_ids::UserId;
use confab_proto::presence::v1::Presence;

/// A watching stream.
pub(crate) type Watcher = u64;

/// What watchers have to be told.
pub(crate) type Told = Vec<(Watcher, Presence)>;

/// Both ways; grows with what is watched, and that is bounded by the edges' connections.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    watchers: HashMap<UserId, Vec<Watcher>>,
    watched: HashMap<Watcher, HashSet<UserId>>,
}

impl Watchers {
    pub(super) fn watch(&mut self, watcher: Watcher, user: UserId) {
        if self.watched.entry(watcher).or_default().insert(user) {
            self.watchers.entry(user).or_default().push(watcher);
        }
    }

    pub(super) fn unwatch(&mut self, watcher: Watcher, user: UserId) {
        if let Some(watched) = self.watched.get_mut(&watcher) {
            watched.remove(&user);
        }
        self.forget(watcher, user);
    }

    pub(super) fn end(&mut self, watcher: Watcher) {
        for user in self.watched.remove(&watcher).unwrap_or_default() {
            self.forget(watcher, user);
        }
    }

    fn forget(&mut self, watcher: Watcher, user: UserId) {
        if let Some(watchers) = self.watchers.get_mut(&user) {
            watchers.retain(|known| *known != watcher);
            if watchers.is_empty() {
                self.watchers.remove(&user);
            }
        }
    }

    /// Everybody who is watched.
    pub(super) fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.watchers.keys().copied()
    }

    /// Who watches a user.
    pub(super) fn of(&self, user: UserId) -> impl Iterator<Item = Watcher> + '_ {
        self.watchers.get(&user).into_iter().flatten().copied()
    }

    /// Users by watcher: one that two watch counts twice.
    pub(super) fn count(&self) -> usize {
        self.watched.values().map(HashSet::len).sum()
    }

    pub(super) fn tell(&self, presence: Presence) -> Told {
        self.of(UserId(presence.user_id)).map(|watcher| (watcher, presence)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_no_more_is_told_no_more() {
        let (ann, ben) = (UserId(1), UserId(2));
        let mut watchers = Watchers::default();
        for (watcher, user) in [(7, ann), (8, ann), (8, ben)] {
            watchers.watch(watcher, user);
        }
        watchers.unwatch(7, ann);
        let told = watchers.tell(Presence { user_id: 1, ..Presence::default() });
        assert_eq!(told.iter().map(|(watcher, _)| *watcher).collect::<Vec<_>>(), [8]);
        assert_eq!(watchers.count(), 2);
        watchers.end(8);
        assert_eq!(watchers.count(), 0);
        assert!(watchers.watchers.is_empty() && !watchers.watched.contains_key(&8));
    }
}
