//! The streams to presence-svc: the sessions that open and close here, and the users that they watch, each once per edge.
//!
//! ```text
//! registrar.rs   where each session is registered, pure     tracking.rs   the streams around it
//! interest.rs    who watches whom, and what they were told   watching.rs   the streams around it
//! instances.rs   whom to ask beside them                     polls.rs      what is kept of long polls
//! ```

pub(crate) mod instances;
mod interest;
pub(crate) mod polls;
mod registrar;
mod tracking;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use confab_ids::UserId;
use confab_mesh::views::{Names, VIEW_LAG_MS};
use confab_mesh::{ClientConfig, Drain, Member, Members, Peer, Pool, client};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use tokio::sync::mpsc;

use self::interest::Shared;
use self::tracking::Change;
use crate::mailbox::Mailbox;
use crate::registry::Registry;

/// Changes and wishes that go out in one frame at most.
const BATCH_MAX: usize = 512;

/// How long a stream goes on to an instance that is no longer listed: others may still ask there.
const LINGER: Duration = Duration::from_millis(VIEW_LAG_MS);

/// The edge's side of presence. The changes' queues are bounded by the connections.
#[derive(Clone)]
pub(crate) struct Presences {
    changes: mpsc::UnboundedSender<Change>,
    wishes: mpsc::UnboundedSender<(UserId, bool)>,
    interest: Shared,
}

impl Presences {
    pub(crate) fn opened(&self, mailbox: &Mailbox) {
        // Without the link the process is ending.
        drop(self.changes.send(Change::Opened(mailbox.session, mailbox.user)));
    }

    pub(crate) fn closed(&self, mailbox: &Mailbox) {
        drop(self.changes.send(Change::Closed(mailbox.session, mailbox.user)));
        self.wish(self.interest.lock().forget(mailbox), false);
    }

    pub(crate) fn watch(&self, registry: &Registry, mailbox: &Arc<Mailbox>, users: Vec<UserId>) {
        let mut interest = self.interest.lock();
        // A connection that is closed leaves the registry first, and its interest then: nothing is added behind that.
        if registry.read().get(mailbox.session).is_some() {
            // Under the lock, so that wishes go out in the order in which they came about.
            self.wish(interest.watch(mailbox, users), true);
        }
    }

    pub(crate) fn unwatch(&self, mailbox: &Mailbox, users: impl IntoIterator<Item = UserId>) {
        let mut interest = self.interest.lock();
        self.wish(interest.unwatch(mailbox, users), false);
    }

    /// Tells a connection again what is known of whom it watches.
    pub(crate) fn tell_again(&self, mailbox: &Mailbox) {
        self.interest.lock().tell_again(mailbox);
    }

    fn wish(&self, users: Vec<UserId>, on: bool) {
        for user in users {
            // Without the link the process is ending.
            let _ending = self.wishes.send((user, on));
        }
    }
}

/// Starts the links.
pub(crate) fn start(
    presence: Pool,
    messages: MessageServiceClient<Peer>,
    registry: Registry,
    edge_id: String,
    drain: &Drain,
) -> Presences {
    let (changes, changed) = mpsc::unbounded_channel();
    let (wishes, wished) = mpsc::unbounded_channel();
    let interest = Shared::default();
    let watching = watching::run(presence.clone(), messages, interest.clone(), wished);
    // It says goodbye when the drain begins.
    drain.spawn(tracking::run(presence, registry, edge_id, changed, drain.clone()));
    let ended = drain.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = watching => {}
            () = ended.started() => {}
        }
    });
    Presences { changes, wishes, interest }
}

fn names(members: &Members) -> Names {
    members.iter().map(|member| member.id.clone()).collect()
}

fn presence_client(member: &Member) -> PresenceServiceClient<Peer> {
    let to_presence = ClientConfig::new("edge", "presence-svc").streaming(&["Track", "Watch"]);
    PresenceServiceClient::new(client(to_presence, member.peer.clone()))
}
