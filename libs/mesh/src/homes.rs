//! Clients of the instances where a key's state is kept, as [`Views`] has it at the moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::pool::{Member, Members, Pool};
use crate::views::Views;

/// A pool's instances by the keys that they keep, each with a client.
pub struct Homes<C> {
    pool: Pool,
    make: fn(&Member) -> C,
    known: Mutex<Known<C>>,
    started: Instant,
}

struct Known<C> {
    members: Members,
    views: Views,
    clients: HashMap<Arc<str>, C>,
}

impl<C: Clone> Homes<C> {
    /// `make`: the client of an instance.
    #[must_use]
    pub fn new(pool: Pool, make: fn(&Member) -> C) -> Self {
        let members = pool.members();
        let known = Known { views: Views::new(names(&members)), clients: clients(&members, make), members };
        Self { pool, make, known: Mutex::new(known), started: Instant::now() }
    }

    /// Where a key is followed; `None`: there are no instances.
    #[must_use]
    pub fn first(&self, key: u64) -> Option<C> {
        let known = self.known();
        known.views.follow(key).and_then(|name| known.clients.get(name)).cloned()
    }

    /// There first, then where else something may be known of it.
    #[must_use]
    pub fn all(&self, key: u64) -> Vec<C> {
        let known = self.known();
        let views = &known.views;
        let first = views.follow(key);
        let others = views.names(views.homes(key)).filter(|name| Some(*name) != first);
        first.into_iter().chain(others).filter_map(|name| known.clients.get(name).cloned()).collect()
    }

    /// As of now.
    fn known(&self) -> MutexGuard<'_, Known<C>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.pool.members();
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !Arc::ptr_eq(&known.members, &members) {
            known.views.change(now_ms, names(&members));
            known.clients = clients(&members, self.make);
            known.members = members;
        }
        known.views.tick(now_ms);
        known
    }
}

fn names(members: &Members) -> Arc<[Arc<str>]> {
    members.iter().map(|member| member.id.clone()).collect()
}

fn clients<C>(members: &Members, make: fn(&Member) -> C) -> HashMap<Arc<str>, C> {
    members.iter().map(|member| (member.id.clone(), make(member))).collect()
}
