//! The streams around [`super::registrar`]: one to each instance, which is this edge's heartbeat there.

use std::collections::HashMap;
use std::time::Duration;

use confab_ids::UserId;
use confab_mesh::{Drain, Member, Members, Pool, each};
use confab_proto::presence::v1::{TrackRequest, TrackResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;

use super::registrar::{Effects, Name, Registrar};
use super::{BATCH_MAX, LINGER, names, presence_client};
use crate::frames::{Close, Frame};
use crate::links::{Backoff, now_ms};
use crate::mailbox::Item;
use crate::registry::Registry;

const TICK: Duration = Duration::from_secs(1);

/// Answers that wait for the registrar; beyond it their streams wait.
const EVENTS_MAX: usize = 64;

/// How long instances have for hearing the goodbye.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// What happens to a session here.
pub(super) enum Change {
    Opened(u64, UserId),
    Closed(u64, UserId),
}

enum Event {
    Connected(Name, Stream),
    Answered(Name, TrackResponse),
    Lost(Name),
}

/// When it is dropped, the stream is cut, whether its other end reads or not.
struct Stream {
    /// Bounded by the connections, and by the time that an instance may be silent.
    requests: mpsc::UnboundedSender<TrackRequest>,
    cut: DropGuard,
}

struct Task {
    registrar: Registrar,
    registry: Registry,
    streams: HashMap<Name, Stream>,
    started: Instant,
}

/// Keeps the sessions registered until the drain begins, and says goodbye then.
pub(super) async fn run(
    presence: Pool,
    registry: Registry,
    edge_id: String,
    changes: mpsc::UnboundedReceiver<Change>,
    drain: Drain,
) {
    let (events, happened) = mpsc::channel(EVENTS_MAX);
    let registrar = Registrar::new(edge_id, names(&presence.members()));
    let task = Task { registrar, registry, streams: HashMap::new(), started: Instant::now() };
    let listed = presence.watch();
    tokio::select! {
        () = task.run(changes, happened, listed, drain) => {}
        () = each(presence, LINGER, |member| keep_open(member, events.clone())) => {}
    }
}

impl Task {
    async fn run(
        mut self,
        mut changes: mpsc::UnboundedReceiver<Change>,
        mut events: mpsc::Receiver<Event>,
        mut listed: watch::Receiver<Members>,
        drain: Drain,
    ) {
        let mut tick = tokio::time::interval(TICK);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let mut fx = Effects::default();
            tokio::select! {
                _ = changes.recv_many(&mut batch, BATCH_MAX), if !changes.is_closed() || !changes.is_empty() => {
                    for change in batch.drain(..) {
                        match change {
                            Change::Opened(session, user) => self.registrar.opened((session, user), &mut fx),
                            Change::Closed(session, user) => self.registrar.closed((session, user), &mut fx),
                        }
                    }
                }
                Some(event) = events.recv() => self.hear(event, &mut fx),
                Ok(()) = listed.changed() => {
                    let names = names(&listed.borrow_and_update());
                    let connections = self.registry.read();
                    let sessions = connections.all().map(|mailbox| (mailbox.session, mailbox.user));
                    self.registrar.listed(now_ms(self.started), names, sessions, &mut fx);
                }
                _ = tick.tick() => {
                    let connections = self.registry.read();
                    let sessions = connections.all().map(|mailbox| (mailbox.session, mailbox.user));
                    self.registrar.tick(now_ms(self.started), sessions, &mut fx);
                }
                () = drain.started() => return self.leave(events).await,
            }
            self.act(fx);
        }
    }

    fn hear(&mut self, event: Event, fx: &mut Effects) {
        let now_ms = now_ms(self.started);
        match event {
            Event::Connected(name, stream) => {
                let connections = self.registry.read();
                let sessions = connections.all().map(|mailbox| (mailbox.session, mailbox.user));
                self.registrar.connected(now_ms, &name, sessions, fx);
                self.streams.insert(name, stream);
            }
            Event::Answered(name, answer) => {
                self.registrar.answered(now_ms, &name, &answer.opened, fx);
                let connections = self.registry.read();
                let revoked = answer.revoked.iter().filter_map(|session| connections.get(*session));
                revoked.for_each(|mailbox| mailbox.close(Close::Revoked));
                let poll = |user_id: u64, session: &[u8]| {
                    connections.of(UserId(user_id)).iter().find(|mailbox| mailbox.name.as_bytes()[..] == *session)
                };
                for taken in &answer.taken {
                    let taken_by = Item::Taken { generation: taken.generation };
                    let _elsewhere = poll(taken.user_id, &taken.session).map(|mailbox| mailbox.push(taken_by));
                }
                for passed in answer.passed {
                    let Some(mailbox) = poll(passed.user_id, &passed.session) else { continue };
                    let frames = passed.frames.into_iter().map(|frame| Frame::Text(frame.into()));
                    mailbox.push(Item::Passed(frames.collect()));
                }
            }
            Event::Lost(name) => {
                self.streams.remove(&name);
                self.registrar.lost(&name, fx);
            }
        }
    }

    /// What presence tells users of their sessions.
    fn describe(&self, request: &mut TrackRequest) {
        if request.opened.is_empty() {
            return;
        }
        let connections = self.registry.read();
        for opened in &mut request.opened {
            let Some(mailbox) = connections.get(opened.session) else { continue };
            opened.name = mailbox.name.as_bytes().to_vec().into();
            opened.device = mailbox.device.to_string();
            opened.opened_at_ms = mailbox.opened_at_ms;
        }
    }

    /// Does what the core has said.
    fn act(&mut self, fx: Effects) {
        for (name, mut request) in fx.requests {
            self.describe(&mut request);
            // A stream that has ended says so.
            let _ended = self.streams.get(&name).map(|stream| stream.requests.send(request));
        }
        for name in fx.cut {
            tracing::warn!(presence = %name, "the stream to a presence instance is cut: it is silent, or listed no longer");
            self.streams.remove(&name);
        }
        let connections = self.registry.read();
        for mailbox in fx.registered.iter().filter_map(|session| connections.get(*session)) {
            mailbox.push(Item::Tracked);
        }
        if !fx.away.is_empty() {
            tracing::warn!(count = fx.away.len(), "connections that could not be found for a while have to come again");
            let away: Vec<_> = fx.away.iter().filter_map(|session| connections.get(*session)).collect();
            Registry::send_away(away.into_iter());
        }
    }

    /// Without it, presence would take its time for finding out that this edge is gone.
    async fn leave(mut self, mut events: mpsc::Receiver<Event>) {
        let mut fx = Effects::default();
        self.registrar.leave(&mut fx);
        self.act(fx);
        let mut ending: HashMap<Name, DropGuard> =
            self.streams.drain().map(|(name, stream)| (name, stream.cut)).collect();
        let all_ended = async {
            while !ending.is_empty() {
                match events.recv().await {
                    Some(Event::Lost(name)) => drop(ending.remove(&name)),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // Who has not heard it finds out by the silence.
        let _late = tokio::time::timeout(GOODBYE_MAX, all_ended).await;
    }
}

async fn keep_open(member: Member, events: mpsc::Sender<Event>) {
    let mut presence = presence_client(&member);
    let mut backoff = Backoff::default();
    loop {
        let (requests, queue) = mpsc::unbounded_channel();
        match presence.track(UnboundedReceiverStream::new(queue)).await {
            Ok(response) => {
                backoff = Backoff::default();
                let cut = CancellationToken::new();
                let stream = Stream { requests, cut: cut.clone().drop_guard() };
                // The receiver is gone only when the registrar is.
                drop(events.send(Event::Connected(member.id.clone(), stream)).await);
                pass_on(&member, response.into_inner(), &cut, &events).await;
                drop(events.send(Event::Lost(member.id.clone())).await);
            }
            Err(status) => tracing::warn!(presence = %member.id, code = ?status.code(), "presence can't be reached"),
        }
        backoff.wait().await;
    }
}

async fn pass_on(
    member: &Member,
    mut answers: Streaming<TrackResponse>,
    cut: &CancellationToken,
    events: &mpsc::Sender<Event>,
) {
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => drop(events.send(Event::Answered(member.id.clone(), answer)).await),
                Ok(None) | Err(_) => return,
            },
            () = cut.cancelled() => return,
        }
    }
}
