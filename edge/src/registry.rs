//! Which connections this edge has. One lock: deliveries read it once per batch, connects and closes write it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use confab_ids::UserId;

use crate::frames::Close;
use crate::mailbox::Mailbox;

/// Connections of one device; the next one closes the oldest.
const PER_DEVICE_MAX: usize = 8;

/// How soon a connection that is sent away comes again, milliseconds: at the earliest, and over how long they are spread.
const AWAY_MS: (u64, u64) = (500, 10_000);

#[derive(Default)]
pub(crate) struct Connections {
    by_session: HashMap<u64, Arc<Mailbox>>,
    by_user: HashMap<UserId, Vec<Arc<Mailbox>>>,
}

impl Connections {
    pub(crate) fn of(&self, user: UserId) -> &[Arc<Mailbox>] {
        self.by_user.get(&user).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn get(&self, session: u64) -> Option<&Arc<Mailbox>> {
        self.by_session.get(&session)
    }

    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Mailbox>> {
        self.by_session.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_session.len()
    }
}

/// The edge's connections, shared by its links.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<RwLock<Connections>>);

impl Registry {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Connections> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Connections> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, mailbox: &Arc<Mailbox>) {
        let mut connections = self.write();
        connections.by_session.insert(mailbox.session, mailbox.clone());
        let of_user = connections.by_user.entry(mailbox.user).or_insert_with(|| Vec::with_capacity(1));
        of_user.push(mailbox.clone());
        let of_device = of_user.iter().filter(|other| other.device == mailbox.device);
        let beyond = of_device.clone().count().saturating_sub(PER_DEVICE_MAX);
        of_device.take(beyond).for_each(|oldest| oldest.close(Close::TooManyConnections));
    }

    /// Tells some connections to come again, spread over a while: something was published that could not reach them.
    pub(crate) fn send_away<'a>(sessions: impl ExactSizeIterator<Item = &'a Arc<Mailbox>>) {
        let count = sessions.len().max(1) as u64;
        sessions.zip(0..).for_each(|(mailbox, at)| mailbox.send_away(AWAY_MS.0 + AWAY_MS.1 * at / count));
    }

    pub(crate) fn remove(&self, mailbox: &Mailbox) {
        let mut connections = self.write();
        connections.by_session.remove(&mailbox.session);
        if let Some(of_user) = connections.by_user.get_mut(&mailbox.user) {
            of_user.retain(|other| other.session != mailbox.session);
            if of_user.is_empty() {
                connections.by_user.remove(&mailbox.user);
            }
        }
    }
}
