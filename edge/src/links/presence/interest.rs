//! Whom this edge's connections watch, each user once, and what they were told of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use confab_ids::UserId;
use confab_proto::presence::v1::{Presence, PresenceStatus};

use crate::frames::server::{self, SharedFrame};
use crate::mailbox::{Mailbox, Subject};

#[derive(Default)]
struct Watched {
    /// What was told last.
    told: Option<Arc<SharedFrame>>,
    by: HashMap<u64, Arc<Mailbox>>,
    /// The last state that was heard.
    heard: Option<Presence>,
    /// Whether they are told when the user was last there; `None`: that is being looked up, or was never needed.
    is_visible: Option<bool>,
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
            if let Some(frame) = &watched.told {
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
        let states = watched.filter_map(|user| Some((*user, self.users.get(user)?.told.clone()?)));
        states.for_each(|(user, frame)| mailbox.push_passing(Subject::Presence(user), &frame));
    }

    /// Everybody who is watched.
    pub(super) fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        self.users.keys().copied()
    }

    /// Passes on what has changed. Another instance, or the same after a broken stream, says again what was told before; and
    /// one that does not know says nothing. `true`: whether its user is visible has to be looked up first.
    pub(super) fn told(&mut self, presence: &Presence) -> bool {
        let Some(watched) = self.users.get_mut(&UserId(presence.user_id)) else { return false };
        let status = presence.status();
        if status == PresenceStatus::Unspecified || watched.heard.is_some_and(|heard| heard.status() == status) {
            return false;
        }
        watched.heard = Some(*presence);
        watched.tell()
    }

    /// Who may watch a user, or what is told of them, has changed: who watches them.
    pub(super) fn changed(&mut self, user: UserId) -> Vec<UserId> {
        let Some(watched) = self.users.get_mut(&user) else { return Vec::new() };
        watched.is_visible = None;
        let watching: HashSet<UserId> = watched.by.values().map(|mailbox| mailbox.user).collect();
        watching.into_iter().collect()
    }

    /// Others are told when a user was last there, or not.
    pub(super) fn is_visible(&mut self, user: UserId, is_visible: bool) {
        let Some(watched) = self.users.get_mut(&user) else { return };
        watched.is_visible = Some(is_visible);
        watched.tell();
    }

    /// These may not watch a user any more: they are told that the user is away, and no more. Whether nobody watches the user then.
    pub(super) fn bar(&mut self, user: UserId, barred: &HashSet<UserId>) -> bool {
        let Some(watched) = self.users.get(&user) else { return false };
        let away = Presence { user_id: user.0, status: PresenceStatus::Offline.into(), last_seen_ms: 0 };
        let away = server::presence(&away);
        let barred: Vec<Arc<Mailbox>> =
            watched.by.values().filter(|mailbox| barred.contains(&mailbox.user)).cloned().collect();
        for mailbox in &barred {
            away.iter().for_each(|frame| mailbox.push_passing(Subject::Presence(user), frame));
        }
        barred.iter().any(|mailbox| !self.unwatch(mailbox, [user]).is_empty())
    }
}

impl Watched {
    /// Tells what was heard. `true`: whether the user is visible has to be looked up first.
    fn tell(&mut self) -> bool {
        let Some(mut presence) = self.heard else { return false };
        match self.is_visible {
            Some(true) => {}
            Some(false) => presence.last_seen_ms = 0,
            None if presence.last_seen_ms > 0 && presence.status() == PresenceStatus::Offline => return true,
            None => {}
        }
        if let Some(frame) = server::presence(&presence) {
            let subject = Subject::Presence(UserId(presence.user_id));
            self.by.values().for_each(|mailbox| mailbox.push_passing(subject, &frame));
            self.told = Some(Arc::new(frame));
        }
        false
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
            if interest.told(&Presence { user_id: 9, status: status.into(), last_seen_ms }) {
                interest.is_visible(ann, true);
            }
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

    /// The last presence that was told, as JSON.
    fn last(mailbox: &Mailbox) -> String {
        let told = mailbox.take().into_iter().filter_map(|item| match item {
            Item::Passing(_, frame) => Some(frame),
            _ => None,
        });
        format!("{:?}", told.last())
    }

    #[test]
    fn when_somebody_was_last_there_is_told_only_once_it_is_known_that_it_may_be() {
        let mut interest = Interest::default();
        let one = Arc::new(Mailbox::plain(1, UserId(1), (8, 1_024)));
        let ann = UserId(9);
        interest.watch(&one, vec![ann]);
        let left = Presence { user_id: 9, status: PresenceStatus::Offline.into(), last_seen_ms: 5 };
        assert!(interest.told(&left), "to be looked up");
        assert_eq!(told(&one), 0);
        interest.is_visible(ann, false);
        let frame = last(&one);
        assert!(frame.contains("offline") && !frame.contains("last_seen\\\":\\\""), "{frame}");
        assert_eq!(interest.changed(ann), [UserId(1)]);
        interest.is_visible(ann, true);
        assert!(last(&one).contains("1970"));
    }

    #[test]
    fn who_may_not_watch_any_more_is_told_that_nobody_is_there() {
        let mut interest = Interest::default();
        let [one, two] = [1, 2].map(|session| Arc::new(Mailbox::plain(session, UserId(session), (8, 1_024))));
        let ann = UserId(9);
        interest.watch(&one, vec![ann]);
        interest.watch(&two, vec![ann]);
        interest.told(&Presence { user_id: 9, status: PresenceStatus::Online.into(), last_seen_ms: 0 });
        assert_eq!((told(&one), told(&two)), (1, 1));
        assert!(!interest.bar(ann, &HashSet::from([UserId(1)])));
        assert!(last(&one).contains("offline"));
        interest.told(&Presence { user_id: 9, status: PresenceStatus::Offline.into(), last_seen_ms: 0 });
        assert_eq!((told(&one), told(&two)), (0, 1));
        assert!(interest.bar(ann, &HashSet::from([UserId(2)])), "nobody watches");
    }
}
