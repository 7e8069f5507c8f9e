//! Which instance of presence-svc to ask about a user, beside the streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use confab_ids::UserId;
use confab_mesh::views::Views;
use confab_mesh::{Members, Peer, Pool};
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use tokio::time::Instant;

use super::{names, presence_client};
use crate::links::now_ms;

pub(crate) type Client = PresenceServiceClient<Peer>;

pub(crate) struct Instances {
    presence: Pool,
    known: Mutex<Known>,
    started: Instant,
}

struct Known {
    members: Members,
    views: Views,
    clients: HashMap<Arc<str>, Client>,
}

impl Instances {
    pub(crate) fn new(presence: Pool) -> Self {
        let members = presence.members();
        let known = Known { views: Views::new(names(&members)), clients: clients(&members), members };
        Self { presence, known: Mutex::new(known), started: Instant::now() }
    }

    /// Where a user is followed.
    pub(crate) fn home(&self, user: UserId) -> Option<Client> {
        let known = self.known();
        known.views.follow(user.0).and_then(|name| known.clients.get(name)).cloned()
    }

    /// There first, then where else something may be known of them.
    pub(crate) fn homes(&self, user: UserId) -> Vec<Client> {
        let known = self.known();
        let views = &known.views;
        let first = views.follow(user.0);
        let others = views.names(views.homes(user.0)).filter(|name| Some(*name) != first);
        first.into_iter().chain(others).filter_map(|name| known.clients.get(name).cloned()).collect()
    }

    /// As of now.
    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.presence.members();
        let now_ms = now_ms(self.started);
        if !Arc::ptr_eq(&known.members, &members) {
            known.views.change(now_ms, names(&members));
            known.clients = clients(&members);
            known.members = members;
        }
        known.views.tick(now_ms);
        known
    }
}

fn clients(members: &Members) -> HashMap<Arc<str>, Client> {
    members.iter().map(|member| (member.id.clone(), presence_client(member))).collect()
}
