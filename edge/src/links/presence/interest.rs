//! Whom this edge's connections watch, each user once, and what they were told of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use confab_ids::UserId;
use confab_proto::presence::v1::{Presence, PresenceStatus};

use crate::frames::server::{self, SharedFrame};
use crate::mailbox::{Mailbox, Subject};

#[derive(Default)]
struct Watched {
    /// The last state that was told, and its frame.
    state: Option<(PresenceStatus, Arc<SharedFrame>)>,
    by: HashMap<u64, Arc<Mailbox>>,
}

/// Bounded by `watch_max` per connection.
#[derive(Default)]
pub(super) struct Interest {
    users: HashMap<UserId, Watched>,
    /// By session: whom it watches.
    sessions: HashMap<u64, HashSet<UserId>>,
}

/// The interest is under a lock, for connections and the link both change it.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Interest>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Interest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interest {
    /// Tells at once what is known; returns whom nobody has watched before.
    pub(super) fn watch(&mut self, mailbox: &Arc<Mailbox>, users: Vec<UserId>) -> Vec<UserId> {
        let mut fresh = Vec::new();
        for user in users {
            self.sessions.entry(mailbox.session).or_default().insert(user);
            let watched = self.users.entry(user).or_default();
            if watched.by.is_empty() {
                fresh.push(user);
            }
            watched.by.insert(mailbox.session, mailbox.clone());
            if let Some((_, frame)) = &watched.state {
                mailbox.push_passing(Subject::Presence(user), frame);
            }
        }
        fresh
    }

    /// Returns whom nobody watches any more.
    pub(super) fn unwatch(&mut self, mailbox: &Mailbox, users: impl IntoIterator<Item = UserId>) -> Vec<UserId> {
        let mut ended = Vec::new();
        for user in users {
            if let Some(watched) = self.sessions.get_mut(&mailbox.session) {
                watched.remove(&user);
            }
            let Some(watched) = self.users.get_mut(&user) else { continue };
            watched.by.remove(&mailbox.session);
            if watched.by.is_empty() {
                self.users.remove(&user);
                ended.push(user);
            }
        }
        ended
    }

    /// The connection is closed. Returns whom nobody watches any more.
    pub(super) fn forget(&mut self, mailbox: &Mailbox) -> Vec<UserId> {
        let watched = self.sessions.remove(&mailbox.session).unwrap_or_default();
        self.unwatch(mailbox, watched)
    }

    pub(super) fn tell_again(&self, mailbox: &Mailbox) {
        let watched = self.sessions.get(&mailbox.session).into_iter().flatten();
        let states = watched.filter_map(|user| Some((*user, self.users.get(user)?.state.clone()?)));
        states.for_each(|(user, (_, frame))| mailbox.push_passing(Subject::Presence(user), &frame));
    }

    /// Everybody who is watched.
    pub(super) fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.users.keys().copied()
    }

    /// Passes on what has changed. Another instance, or the same after a broken stream, says again what was told before; and
    /// one that does not know says nothing.
    pub(super) fn told(&mut self, presence: &Presence) {
        let Some(watched) = self.users.get_mut(&UserId(presence.user_id)) else { return };
        let Some(frame) = server::presence(presence) else { return };
        let status = presence.status();
        if watched.state.as_ref().is_some_and(|(told, _)| *told == status) {
            return;
        }
        let subject = Subject::Presence(UserId(presence.user_id));
        watched.by.values().for_each(|mailbox| mailbox.push_passing(subject, &frame));
        watched.state = Some((status, Arc::new(frame)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Item;

    fn told(mailbox: &Mailbox) -> usize {
        mailbox.take().iter().filter(|item| matches!(item, Item::Passing(..))).count()
    }

    #[test]
    fn only_transitions_are_passed_on_and_unknown_is_none() {
        let mut interest = Interest::default();
        let [one, two] = [1, 2].map(|session| Arc::new(Mailbox::plain(session, UserId(session), (8, 1_024))));
        let ann = UserId(9);
        assert_eq!(interest.watch(&one, vec![ann]), [ann]);
        let say = |interest: &mut Interest, status: PresenceStatus, last_seen_ms| {
            interest.told(&Presence { user_id: 9, status: status.into(), last_seen_ms });
            told(&one)
        };
        assert_eq!(say(&mut interest, PresenceStatus::Unspecified, 0), 0);
        assert_eq!(say(&mut interest, PresenceStatus::Offline, 5), 1);
        assert_eq!(say(&mut interest, PresenceStatus::Offline, 0), 0);
        assert_eq!(say(&mut interest, PresenceStatus::Online, 0), 1);
        assert!(interest.watch(&two, vec![ann]).is_empty());
        assert_eq!(told(&two), 1);
        assert!(interest.forget(&one).is_empty());
        assert_eq!(interest.unwatch(&two, [ann]), [ann]);
    }
}
