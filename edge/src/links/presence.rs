//! The streams to presence-svc: the sessions that open and close here, and the users that they watch, each once per edge.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use confab_ids::UserId;
use confab_mesh::{Drain, Peer};
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use confab_proto::presence::v1::{Presence, SessionClosed, SessionOpened, TrackRequest, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::RETRY;
use crate::frames::server;
use crate::mailbox::{Item, Mailbox, Subject};
use crate::registry::Registry;

const BATCH_MAX: usize = 512;
const FRAMES_MAX: usize = 16;

enum Change {
    Opened(SessionOpened),
    Closed(SessionClosed),
}

#[derive(Default)]
struct Watched {
    /// The last state that was told, as its frame.
    state: Option<Utf8Bytes>,
    by: HashMap<u64, Arc<Mailbox>>,
}

#[derive(Default)]
struct Interest {
    users: HashMap<UserId, Watched>,
    /// By session: whom it watches.
    sessions: HashMap<u64, HashSet<UserId>>,
}

/// The edge's side of presence. The interest is under a lock, for connections and the link both change it; it is bounded
/// by `watch_max` per connection. The changes' queues are bounded by the connections.
#[derive(Clone)]
pub(crate) struct Presences {
    changes: mpsc::UnboundedSender<Change>,
    wishes: mpsc::UnboundedSender<(UserId, bool)>,
    interest: Arc<Mutex<Interest>>,
}

impl Presences {
    fn interest(&self) -> MutexGuard<'_, Interest> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn opened(&self, mailbox: &Mailbox) {
        let opened = SessionOpened { session: mailbox.session, user_id: mailbox.user.0 };
        // Without the link the process is ending.
        drop(self.changes.send(Change::Opened(opened)));
    }

    pub(crate) fn closed(&self, mailbox: &Mailbox) {
        let closed = SessionClosed { session: mailbox.session, user_id: mailbox.user.0 };
        drop(self.changes.send(Change::Closed(closed)));
        let watched = self.interest().sessions.get(&mailbox.session).cloned().unwrap_or_default();
        self.unwatch(mailbox, watched);
        self.interest().sessions.remove(&mailbox.session);
    }

    pub(crate) fn watch(&self, registry: &Registry, mailbox: &Arc<Mailbox>, users: Vec<UserId>) {
        let mut interest = self.interest();
        // A connection that is closed leaves the registry first, and its interest then: nothing is added behind that.
        if registry.read().get(mailbox.session).is_none() {
            return;
        }
        for user in users {
            interest.sessions.entry(mailbox.session).or_default().insert(user);
            let watched = interest.users.entry(user).or_default();
            if watched.by.is_empty() {
                let _ending = self.wishes.send((user, true));
            }
            watched.by.insert(mailbox.session, mailbox.clone());
            if let Some(state) = &watched.state {
                mailbox.push_passing(Subject::Presence(user), state.clone());
            }
        }
    }

    pub(crate) fn unwatch(&self, mailbox: &Mailbox, users: impl IntoIterator<Item = UserId>) {
        let mut interest = self.interest();
        for user in users {
            if let Some(watched) = interest.sessions.get_mut(&mailbox.session) {
                watched.remove(&user);
            }
            let Some(watched) = interest.users.get_mut(&user) else { continue };
            watched.by.remove(&mailbox.session);
            if watched.by.is_empty() {
                interest.users.remove(&user);
                let _ending = self.wishes.send((user, false));
            }
        }
    }

    /// Tells a connection again what is known of whom it watches.
    pub(crate) fn tell_again(&self, mailbox: &Mailbox) {
        let interest = self.interest();
        let watched = interest.sessions.get(&mailbox.session).into_iter().flatten();
        let states = watched.filter_map(|user| Some((*user, interest.users.get(user)?.state.clone()?)));
        states.for_each(|(user, state)| mailbox.push_passing(Subject::Presence(user), state));
    }

    fn told(&self, presences: &[Presence]) {
        let mut interest = self.interest();
        for presence in presences {
            let Some(watched) = interest.users.get_mut(&UserId(presence.user_id)) else { continue };
            let Some(state) = server::presence(presence) else { continue };
            let subject = Subject::Presence(UserId(presence.user_id));
            watched.by.values().for_each(|mailbox| mailbox.push_passing(subject, state.clone()));
            watched.state = Some(state);
        }
    }
}

pub(crate) fn start(
    client: PresenceServiceClient<Peer>,
    registry: Registry,
    edge_id: String,
    drain: &Drain,
) -> Presences {
    let (changes, changed) = mpsc::unbounded_channel();
    let (wishes, wished) = mpsc::unbounded_channel();
    let presences = Presences { changes, wishes, interest: Arc::default() };
    let watching = watch(client.clone(), presences.clone(), wished);
    let tracking = track(client, registry, edge_id, changed);
    let ended = drain.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = tracking => {}
            () = watching => {}
            () = ended.started() => {}
        }
    });
    presences
}

async fn track(
    mut client: PresenceServiceClient<Peer>,
    registry: Registry,
    edge_id: String,
    mut changes: mpsc::UnboundedReceiver<Change>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        // A new stream knows no session yet.
        let opened = |mailbox: &Arc<Mailbox>| SessionOpened { session: mailbox.session, user_id: mailbox.user.0 };
        let all = registry.read().all().map(opened).collect();
        drop(frames.try_send(TrackRequest { edge_id: edge_id.clone(), opened: all, closed: Vec::new() }));
        if let Ok(response) = client.track(ReceiverStream::new(queue)).await {
            let mut answers = response.into_inner();
            loop {
                tokio::select! {
                    answer = answers.message() => match answer {
                        Ok(Some(answer)) => {
                            let connections = registry.read();
                            let tracked = answer.opened.iter().filter_map(|session| connections.get(*session));
                            tracked.for_each(|mailbox| mailbox.push(Item::Tracked));
                        }
                        Ok(None) | Err(_) => break,
                    },
                    _ = changes.recv_many(&mut batch, BATCH_MAX) => {
                        let mut request = TrackRequest { edge_id: edge_id.clone(), ..TrackRequest::default() };
                        for change in batch.drain(..) {
                            match change {
                                Change::Opened(opened) => request.opened.push(opened),
                                Change::Closed(closed) => request.closed.push(closed),
                            }
                        }
                        if frames.send(request).await.is_err() {
                            break;
                        }
                    }
                }
            }
        }
        tracing::warn!("the stream to presence broke: the connections have to come again");
        // What is published until they are tracked again is for nobody.
        registry.send_all_away();
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch(
    mut client: PresenceServiceClient<Peer>,
    presences: Presences,
    mut wishes: mpsc::UnboundedReceiver<(UserId, bool)>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let all = presences.interest().users.keys().map(|user| user.0).collect();
        drop(frames.try_send(WatchRequest { watch: all, unwatch: Vec::new() }));
        if let Ok(response) = client.watch(ReceiverStream::new(queue)).await {
            let mut answers = response.into_inner();
            loop {
                tokio::select! {
                    answer = answers.message() => match answer {
                        Ok(Some(answer)) => presences.told(&answer.presences),
                        Ok(None) | Err(_) => break,
                    },
                    _ = wishes.recv_many(&mut batch, BATCH_MAX) => {
                        // The last wish for a user counts.
                        let last: HashMap<UserId, bool> = batch.drain(..).collect();
                        let of = |wish| last.iter().filter(move |(_, on)| **on == wish).map(|(user, _)| user.0).collect();
                        if frames.send(WatchRequest { watch: of(true), unwatch: of(false) }).await.is_err() {
                            break;
                        }
                    }
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
