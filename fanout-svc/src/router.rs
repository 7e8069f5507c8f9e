//! The task around [`crate::core`]: one loop that takes what publishers, presence and edges say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use confab_mesh::views::Names;
use confab_mesh::{Drain, Members, Pool};
use confab_proto::fanout::v1::{Publication, PublishResponse, SubscribeResponse};
use confab_proto::presence::v1::{LocateRequest, LocateResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tonic::Status;

use crate::core::{Attachment, Effects, Publisher, Router, Ticket};
use crate::metrics::Metrics;
use crate::presence;

/// What the router may be told at once by publishers, by edges and by presence; whoever has more to say waits.
const INPUTS_MAX: usize = 1_024;

/// Publications whose recipients are being located; beyond it no publication is taken, and their streams wait.
const LOCATING_MAX: usize = 65_536;

/// Deliveries per frame: of the largest events, too, it stays below gRPC's 4 MiB.
const DELIVERIES_PER_FRAME: usize = 64;

/// How often the router looks what is due.
const TICK: Duration = Duration::from_millis(50);

pub(crate) enum FromPublisher {
    Opened { publisher: Publisher, answers: mpsc::Sender<Result<PublishResponse, Status>> },
    Published { publisher: Publisher, batch: Vec<Publication> },
    Gone { publisher: Publisher },
}

pub(crate) enum FromEdge {
    Attached { name: String, attachment: Attachment, deliveries: mpsc::Sender<Result<SubscribeResponse, Status>> },
    Delivered { attachment: Attachment, id: u64 },
    Gone { attachment: Attachment, id: u64, users: Vec<u64> },
    Detached { attachment: Attachment },
}

pub(crate) enum FromPresence {
    /// A new stream.
    Connected(Arc<str>, Asked),
    Located(Arc<str>, LocateResponse),
    Lost(Arc<str>),
}

/// A stream to presence. When it is dropped, the stream is cut, whether its other end reads or not.
pub(crate) struct Asked {
    /// Bounded by [`LOCATING_MAX`] and by the time that an instance may take for an answer.
    pub questions: mpsc::UnboundedSender<LocateRequest>,
    pub _cut: DropGuard,
}

/// The ways to the router. Publishers wait while it is full, edges' acknowledgements are taken all the same.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub publishers: mpsc::Sender<FromPublisher>,
    pub edges: mpsc::Sender<FromEdge>,
}

struct Task {
    router: Router,
    started: Instant,
    publishers: HashMap<Publisher, mpsc::Sender<Result<PublishResponse, Status>>>,
    edges: HashMap<Attachment, mpsc::Sender<Result<SubscribeResponse, Status>>>,
    presences: HashMap<Arc<str>, Asked>,
    metrics: Metrics,
}

/// Starts the router; it ends with the last of its inputs, or once the drain has begun.
pub(crate) fn start(presence: Pool, drain: &Drain) -> Inputs {
    let (publishers, published) = mpsc::channel(INPUTS_MAX);
    let (edges, from_edges) = mpsc::channel(INPUTS_MAX);
    let (events, from_presence) = mpsc::channel(INPUTS_MAX);
    let task = Task {
        router: Router::new(names(&presence.members())),
        started: Instant::now(),
        publishers: HashMap::new(),
        edges: HashMap::new(),
        presences: HashMap::new(),
        metrics: Metrics::new(),
    };
    let listed = presence.watch();
    let ended = drain.clone();
    drain.spawn(async move {
        tokio::select! {
            () = task.run(published, from_edges, from_presence, listed) => {}
            () = presence::ask_each(presence, events) => {}
            () = ended.started() => {}
        }
    });
    Inputs { publishers, edges }
}

fn names(members: &Members) -> Names {
    members.iter().map(|member| member.id.clone()).collect()
}

impl Task {
    async fn run(
        mut self,
        mut publishers: mpsc::Receiver<FromPublisher>,
        mut edges: mpsc::Receiver<FromEdge>,
        mut presence: mpsc::Receiver<FromPresence>,
        mut listed: watch::Receiver<Members>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let room = self.router.waiting() < LOCATING_MAX;
            let mut fx = Effects::default();
            tokio::select! {
                input = publishers.recv(), if room => match input {
                    Some(input) => self.hear_publisher(input, &mut fx),
                    None => return,
                },
                input = edges.recv() => match input {
                    Some(input) => self.hear_edge(input, &mut fx),
                    None => return,
                },
                Some(event) = presence.recv() => self.hear_presence(event, &mut fx),
                Ok(()) = listed.changed() => {
                    let names = names(&listed.borrow_and_update());
                    self.router.presences_listed(self.now_ms(), names);
                }
                _ = tick.tick() => self.router.tick(self.now_ms(), &mut fx),
            }
            self.act(fx);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn hear_publisher(&mut self, input: FromPublisher, fx: &mut Effects) {
        match input {
            FromPublisher::Opened { publisher, answers } => drop(self.publishers.insert(publisher, answers)),
            FromPublisher::Published { publisher, batch } => {
                let accepted = batch.last().map_or(0, |publication| publication.id);
                self.router.publish(self.now_ms(), publisher, batch, fx);
                self.answer(publisher, PublishResponse { accepted, settled: Vec::new() });
            }
            FromPublisher::Gone { publisher } => drop(self.publishers.remove(&publisher)),
        }
    }

    fn hear_edge(&mut self, input: FromEdge, fx: &mut Effects) {
        let now_ms = self.now_ms();
        match input {
            FromEdge::Attached { name, attachment, deliveries } => {
                self.edges.insert(attachment, deliveries);
                self.router.attach(&name, attachment, fx);
            }
            FromEdge::Delivered { attachment, id } => self.router.delivered(attachment, id, fx),
            FromEdge::Gone { attachment, id, users } => self.router.gone(now_ms, attachment, id, users, fx),
            FromEdge::Detached { attachment } => {
                self.edges.remove(&attachment);
                self.router.detach(now_ms, attachment);
            }
        }
    }

    fn hear_presence(&mut self, event: FromPresence, fx: &mut Effects) {
        let now_ms = self.now_ms();
        match event {
            FromPresence::Connected(presence, asked) => {
                self.presences.insert(presence.clone(), asked);
                self.router.presence_connected(presence);
            }
            FromPresence::Located(presence, answer) => self.router.located(now_ms, &presence, answer, fx),
            FromPresence::Lost(presence) => self.lose(&presence, fx),
        }
    }

    fn lose(&mut self, presence: &str, fx: &mut Effects) {
        self.presences.remove(presence);
        self.router.presence_lost(self.now_ms(), presence, fx);
    }

    /// Does what the core has said.
    fn act(&mut self, mut fx: Effects) {
        for presence in std::mem::take(&mut fx.late) {
            tracing::warn!(%presence, "a presence instance that doesn't answer is cut");
            self.lose(&presence, &mut fx);
        }
        for (presence, question) in fx.questions {
            // What a stream that has ended was asked is late, and so it is lost then at last.
            let _lost = self.presences.get(&presence).map(|asked| asked.questions.send(question));
        }
        for (attachment, deliveries) in fx.deliveries {
            self.deliver(attachment, deliveries);
        }
        for attachment in fx.cut {
            tracing::warn!(attachment, "an edge's stream is cut: it acknowledges nothing, or has a newer one");
            self.edges.remove(&attachment);
        }
        if !fx.lost.is_empty() {
            tracing::warn!(count = fx.lost.len(), "publications whose recipients no presence instance could locate");
            self.metrics.unlocated(fx.lost.len());
        }
        if fx.overdue > 0 {
            tracing::warn!(count = fx.overdue, "publications of which an edge that lives has only a marker to come");
            self.metrics.overdue(fx.overdue);
        }
        self.settle(fx.settled);
    }

    fn deliver(&mut self, attachment: Attachment, mut deliveries: Vec<confab_proto::fanout::v1::Delivery>) {
        while !deliveries.is_empty() {
            let rest = deliveries.split_off(deliveries.len().min(DELIVERIES_PER_FRAME));
            let frame = SubscribeResponse { deliveries };
            if self.edges.get(&attachment).is_none_or(|edge| edge.try_send(Ok(frame)).is_err()) {
                tracing::warn!(attachment, "an edge that doesn't read is cut");
                self.edges.remove(&attachment);
                return self.router.detach(self.now_ms(), attachment);
            }
            deliveries = rest;
        }
    }

    fn settle(&mut self, settled: Vec<Ticket>) {
        let mut by_publisher: HashMap<Publisher, Vec<u64>> = HashMap::new();
        for (publisher, id) in settled {
            by_publisher.entry(publisher).or_default().push(id);
        }
        for (publisher, settled) in by_publisher {
            self.answer(publisher, PublishResponse { accepted: 0, settled });
        }
    }

    fn answer(&mut self, publisher: Publisher, response: PublishResponse) {
        let Some(answers) = self.publishers.get(&publisher) else { return };
        if answers.try_send(Ok(response)).is_err() {
            // Its stream ends; it comes again and publishes what it doesn't know to be settled.
            tracing::warn!(publisher, "a publisher that doesn't read is cut");
            self.publishers.remove(&publisher);
        }
    }
}
