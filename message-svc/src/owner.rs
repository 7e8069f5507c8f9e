//! The task around [`crate::core::owner`]: gives it its inputs and does what it says.
//!
//! Everything that is ready is taken at once, so that one round of the loop makes one commit, one frame to fanout and one
//! frame of replies per stream, however many messages it is about.

mod clock;
#[cfg(feature = "failpoints")]
mod failpoints;
pub(crate) mod shared;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use confab_ids::ChatId;
use confab_mesh::Drain;
use confab_proto::fanout::v1::PublishRequest;
use confab_proto::message::v1::{self as pb, ConverseResponse, Reply, reply};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use self::shared::{NoLedger, Place};
use crate::core::owner::{Answered, Limits, Owner, Write};
use crate::core::ownership::lease::Incarnation;
use crate::core::ownership::map::ShardMap;
use crate::core::ownership::{Ask, Ownership};
use crate::core::recovery::LogRow;
use crate::core::{
    Accepted, Command, Create, Effects, Found, KeyRead, Load, Lookup, Now, Origin, Outcome, RowRead, TailRead,
};
use crate::error::ChatError;
use crate::metrics::Metrics;
use crate::publisher::{FanoutEvent, PUBLICATIONS_PER_FRAME};
use crate::store::recent::Recent;
use crate::store::{ChatRecord, Creation, Ledger, Page, Range, Store, StoreError};
use crate::watching::Heads;

/// Requests that wait for the owner; whoever has one more waits to hand it over.
const REQUESTS_MAX: usize = 1_024;

/// Requests taken per round.
const ROUND_MAX: usize = 256;

const TICK: Duration = Duration::from_millis(50);

/// How long a drain waits for what was taken to be answered.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// And for its heirs to hear that they are: each looks by itself once a second.
const NOTICE_MAX: Duration = Duration::from_secs(1);

enum Request {
    Open { stream: u64, replies: mpsc::Sender<ConverseResponse> },
    Close { stream: u64 },
    Commands { stream: u64, commands: Vec<StreamCommand> },
    Call { chat: ChatId, command: Command, answer: oneshot::Sender<Outcome> },
    Create { create: Create, answer: oneshot::Sender<Outcome> },
    Notice { version: u64 },
}

/// A command of a `Converse` stream.
pub(crate) struct StreamCommand {
    pub session: u64,
    pub call: u64,
    /// Of a send: see [`crate::core::refusals`].
    pub generation: u32,
    pub chat: ChatId,
    pub command: Command,
}

/// The way to the owner.
#[derive(Clone)]
pub(crate) struct OwnerHandle {
    requests: mpsc::Sender<Request>,
    healthy: Arc<AtomicBool>,
    map: watch::Receiver<Arc<ShardMap>>,
    heads: Heads,
}

impl OwnerHandle {
    /// Of the chats that are watched.
    pub(crate) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Who owns what; where there is one owner only, it stays empty.
    pub(crate) fn map(&self) -> watch::Receiver<Arc<ShardMap>> {
        self.map.clone()
    }

    pub(crate) async fn open(&self, stream: u64, replies: mpsc::Sender<ConverseResponse>) {
        self.ask(Request::Open { stream, replies }).await;
    }

    pub(crate) async fn close(&self, stream: u64) {
        self.ask(Request::Close { stream }).await;
    }

    pub(crate) async fn commands(&self, stream: u64, commands: Vec<StreamCommand>) {
        self.ask(Request::Commands { stream, commands }).await;
    }

    pub(crate) async fn call(&self, chat: ChatId, command: Command) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        self.ask(Request::Call { chat, command, answer }).await;
        outcome.await.unwrap_or(Outcome::ChatRefused(ChatError::Unavailable))
    }

    pub(crate) async fn create(&self, create: Create) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        self.ask(Request::Create { create, answer }).await;
        outcome.await.unwrap_or(Outcome::ChatRefused(ChatError::Unavailable))
    }

    /// Another instance says that there is a shard map of this version.
    pub(crate) async fn notice(&self, version: u64) {
        self.ask(Request::Notice { version }).await;
    }

    /// The store has not failed.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// After the owner's end whoever waits for an answer gets none, and says so.
    async fn ask(&self, request: Request) {
        drop(self.requests.send(request).await);
    }
}

/// Unix time, milliseconds.
pub(crate) fn now_ms() -> i64 {
    clock::now().wall_ms
}

/// What the store has done.
enum Done {
    Committed(u64, Result<(), StoreError>),
    Loaded(Vec<Load>, Result<Vec<Option<ChatRecord>>, StoreError>),
    Found(Vec<Lookup>, Result<Vec<Found>, StoreError>),
    Tails(Vec<TailRead>, Result<Vec<Vec<LogRow>>, StoreError>),
    Rows(Vec<RowRead>, Result<Vec<Page>, StoreError>),
    Key(KeyRead, Result<Option<Creation>, StoreError>),
    Ids(Option<u64>),
    Answered(Incarnation, Answered),
    /// It was not wanted any more.
    Nothing,
}

struct Task<S, L> {
    owner: Owner,
    store: S,
    /// Where there are other owners.
    place: Option<Place<L>>,
    recent: Recent,
    streams: HashMap<u64, mpsc::Sender<ConverseResponse>>,
    calls: HashMap<u64, oneshot::Sender<Outcome>>,
    next_call: u64,
    fanout: Option<mpsc::UnboundedSender<PublishRequest>>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Writes that are tried until they are stored.
    tried: HashMap<u64, AbortHandle>,
    /// Instances are being told of a new map.
    notices: JoinSet<()>,
    fx: Effects,
    metrics: Metrics,
    healthy: Arc<AtomicBool>,
    map: watch::Sender<Arc<ShardMap>>,
    heads: Heads,
}

/// Starts the only owner of what is in the store. `next_chat`: a chat id above all that were given out.
///
/// It ends when the drain has begun and what was taken is done, or [`DRAIN_MAX`] later.
pub(crate) fn start(
    limits: Limits,
    next_chat: u64,
    store: impl Store,
    events: mpsc::Receiver<FanoutEvent>,
    drain: &Drain,
) -> OwnerHandle {
    spawn::<_, NoLedger>(Owner::sole(limits, next_chat), store, None, Recent::default(), events, drain)
}

/// Starts one of several owners. It ends when the drain has begun and its shards are another's, or [`DRAIN_MAX`] later.
pub(crate) fn start_among<L: Ledger>(
    limits: Limits,
    store: impl Store,
    place: Place<L>,
    recent: Recent,
    events: mpsc::Receiver<FanoutEvent>,
    drain: &Drain,
) -> OwnerHandle {
    let ownership = Ownership::new(shared::new_incarnation(), place.addr.clone());
    spawn(Owner::among(limits, ownership), store, Some(place), recent, events, drain)
}

fn spawn<S: Store, L: Ledger>(
    owner: Owner,
    store: S,
    place: Option<Place<L>>,
    recent: Recent,
    events: mpsc::Receiver<FanoutEvent>,
    drain: &Drain,
) -> OwnerHandle {
    let (requests, queue) = mpsc::channel(REQUESTS_MAX);
    // Among others it is of use once it has a lease.
    let healthy = Arc::new(AtomicBool::new(place.is_none()));
    let (map, known_map) = watch::channel(Arc::default());
    let heads = Heads::default();
    let task = Task {
        owner,
        store,
        place,
        recent,
        streams: HashMap::new(),
        calls: HashMap::new(),
        next_call: 0,
        fanout: None,
        under_way: FuturesUnordered::new(),
        tried: HashMap::new(),
        notices: JoinSet::new(),
        fx: Effects::default(),
        metrics: Metrics::new(),
        healthy: healthy.clone(),
        map,
        heads: heads.clone(),
    };
    drain.spawn(task.run(queue, events, drain.clone()));
    OwnerHandle { requests, healthy, map: known_map, heads }
}

impl<S: Store, L: Ledger> Task<S, L> {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, mut events: mpsc::Receiver<FanoutEvent>, drain: Drain) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut round = Vec::with_capacity(ROUND_MAX);
        let mut drain_until: Option<Instant> = None;
        loop {
            let room = self.owner.has_room();
            tokio::select! {
                taken = queue.recv_many(&mut round, ROUND_MAX), if room => {
                    if taken == 0 {
                        return;
                    }
                    for request in round.drain(..) {
                        self.take(request);
                    }
                }
                Some(done) = self.under_way.next() => self.done(done),
                Some(event) = events.recv() => {
                    self.heard(event);
                    while let Ok(event) = events.try_recv() {
                        self.heard(event);
                    }
                }
                _ = tick.tick() => self.tick(drain_until.is_some()),
                () = drain.started(), if drain_until.is_none() => {
                    tracing::info!("it ends: its shards are given away");
                    drain_until = Some(Instant::now() + DRAIN_MAX);
                    self.owner.drain();
                    self.tick(true);
                }
            }
            if drain_until.is_some() {
                self.owner.write_marks(&mut self.fx);
            }
            self.act();
            if let Some(until) = drain_until
                && (Instant::now() > until || self.has_ended() && queue.is_empty())
            {
                // Who still asks is to hear that nobody answers, and to go to the heirs.
                drop(queue);
                self.streams.clear();
                self.calls.clear();
                return self.leave().await;
            }
        }
    }

    /// After a drain has begun: nothing is left to do here.
    fn has_ended(&self) -> bool {
        match self.place {
            None => self.owner.is_quiet() && self.under_way.is_empty(),
            Some(_) => self.owner.is_drained() || self.owner.is_alone() && self.owner.is_quiet(),
        }
    }

    /// Says that nobody need wait for its lease to end, and lets its heirs hear of their chats.
    async fn leave(self) {
        let Some(place) = self.place else { return };
        let told = timeout(NOTICE_MAX, self.notices.join_all());
        let marked = async {
            if let Some((incarnation, counter)) = self.owner.lease() {
                let _answered = shared::ask(&place.ledger, Ask::MarkDead { incarnation, counter }).await;
            }
        };
        let _in_time = tokio::join!(told, marked);
    }

    fn tick(&mut self, draining: bool) {
        let now = self.now();
        if let Some(place) = &self.place {
            if self.owner.is_dead() && !draining {
                tracing::warn!("the lease is over: it goes on under a new name, without a shard at first");
                self.owner.reborn(shared::new_incarnation(), place.addr.clone());
            }
            self.healthy.store(self.owner.holds(now), Ordering::Relaxed);
        }
        self.owner.tick(now, &mut self.fx);
    }

    fn now(&self) -> Now {
        clock::now()
    }

    fn take(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Open { stream, replies } => drop(self.streams.insert(stream, replies)),
            Request::Close { stream } => {
                self.streams.remove(&stream);
                self.owner.closed(stream);
            }
            Request::Commands { stream, commands } => {
                for StreamCommand { session, call, generation, chat, command } in commands {
                    let origin = Origin::Stream { stream, session, call, generation };
                    self.owner.command(now, chat, origin, command, &mut self.fx);
                }
            }
            Request::Call { chat, command, answer } => {
                let origin = self.expect(answer);
                self.owner.command(now, chat, origin, command, &mut self.fx);
            }
            Request::Create { create, answer } => {
                let origin = self.expect(answer);
                self.owner.create(now, origin, create, &mut self.fx);
            }
            Request::Notice { version } => self.owner.noticed(now, version, &mut self.fx),
        }
    }

    fn expect(&mut self, answer: oneshot::Sender<Outcome>) -> Origin {
        self.next_call += 1;
        self.calls.insert(self.next_call, answer);
        Origin::Call(self.next_call)
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        let (owner, fx) = (&mut self.owner, &mut self.fx);
        match done {
            Done::Committed(commit, Ok(())) => {
                self.tried.remove(&commit);
                owner.committed(now, commit, fx);
            }
            Done::Committed(_, Err(error)) => {
                if self.healthy.swap(false, Ordering::Relaxed) {
                    tracing::error!(%error, "the store failed: nothing is accepted any more; restart when its cause is mended");
                }
                owner.store_failed(fx);
            }
            Done::Loaded(loads, Ok(records)) => {
                for (load, record) in loads.into_iter().zip(records) {
                    owner.loaded(now, load, record, fx);
                }
            }
            Done::Loaded(loads, Err(error)) => {
                tracing::error!(%error, "chats could not be read");
                loads.into_iter().for_each(|load| owner.load_failed(load, fx));
            }
            Done::Found(lookups, Ok(sent)) => {
                owner.found(now, lookups.into_iter().zip(sent), fx);
            }
            Done::Tails(reads, Ok(rows)) => {
                for (read, rows) in reads.into_iter().zip(rows) {
                    owner.tail_read(now, read, rows, fx);
                }
            }
            Done::Tails(reads, Err(error)) => {
                tracing::error!(%error, "the ends of logs could not be read");
                reads.into_iter().for_each(|read| owner.load_failed(read.load, fx));
            }
            Done::Rows(reads, Ok(pages)) => {
                for (read, page) in reads.into_iter().zip(pages) {
                    owner.row_read(now, read, page.events.into_iter().next(), fx);
                }
            }
            Done::Rows(reads, Err(error)) => {
                tracing::error!(%error, "events could not be read");
                reads.into_iter().for_each(|read| owner.row_unread(now, read, fx));
            }
            Done::Key(read, Ok(made)) => owner.creation_found(now, &read, made, fx),
            Done::Key(read, Err(error)) => {
                tracing::error!(%error, "the key of a new chat could not be read");
                owner.creation_failed(&read, fx);
            }
            Done::Ids(first) => owner.ids_taken(now, first, fx),
            Done::Answered(of, answered) => owner.answered(now, of, answered, fx),
            Done::Nothing => {}
            Done::Found(lookups, Err(error)) => {
                tracing::error!(%error, "keys could not be read");
                owner.lookups_failed(now, &lookups, fx);
            }
        }
    }

    fn heard(&mut self, event: FanoutEvent) {
        match event {
            FanoutEvent::Connected(stream) => {
                self.fanout = Some(stream);
                let unsettled = self.owner.unsettled();
                self.publish(unsettled);
            }
            FanoutEvent::Said(response) => {
                self.owner.fanout_accepted(response.accepted, &mut self.fx);
                for id in response.settled {
                    self.owner.fanout_settled(id);
                }
            }
            FanoutEvent::Lost => self.fanout = None,
        }
    }

    /// Does what the core has said.
    fn act(&mut self) {
        let mut fx = std::mem::take(&mut self.fx);
        let writes = self.owner.seal(self.now(), &mut fx);
        for number in fx.abandoned.drain(..) {
            let _aborted = self.tried.remove(&number).map(|write| write.abort());
        }
        writes.into_iter().for_each(|write| self.write(write));
        self.read_for_recovery(&mut fx);
        self.ask(&mut fx);
        if !fx.loads.is_empty() {
            let store = self.store.clone();
            self.under_way.push(Box::pin(async move {
                let records = store.load(fx.loads.iter().map(|load| load.chat).collect()).await;
                Done::Loaded(fx.loads, records)
            }));
        }
        if !fx.loads_again.is_empty() {
            let (store, loads) = (self.store.clone(), std::mem::take(&mut fx.loads_again));
            self.under_way.push(Box::pin(async move {
                let records = store.load_again(loads.iter().map(|load| load.chat).collect()).await;
                Done::Loaded(loads, records)
            }));
        }
        if !fx.row_reads.is_empty() {
            let (store, reads) = (self.store.clone(), std::mem::take(&mut fx.row_reads));
            self.under_way.push(Box::pin(async move {
                let rows = store.events(reads.iter().map(Range::of_row).collect()).await;
                Done::Rows(reads, rows)
            }));
        }
        if !fx.lookups.is_empty() {
            let store = self.store.clone();
            self.under_way.push(Box::pin(async move {
                let sent = store.find_sends(&fx.lookups).await;
                Done::Found(fx.lookups, sent)
            }));
        }
        if let Some(map) = fx.map {
            let own = self.owner.lease().map_or(0, |(me, _)| map.shards_of(me).count());
            tracing::info!(
                version = map.version,
                own_shards = own,
                owners = map.addrs.len(),
                "the shard map is another one"
            );
            self.notice(std::mem::take(&mut fx.gainers), map.version);
            self.map.send_replace(map);
        }
        self.recent.keep(fx.recent);
        self.heads.published(&fx.publications);
        self.publish(fx.publications);
        self.reply(fx.replies);
        for stream in fx.cut {
            tracing::warn!(stream, "a stream with too many refusals is cut");
            self.streams.remove(&stream);
        }
    }

    fn write(&mut self, write: Write) {
        self.metrics.written(&write.rows);
        if self.place.is_none() {
            let stored = self.store.commit(write.rows, write.stamp);
            let number = write.number;
            return self.under_way.push(Box::pin(async move { Done::Committed(number, stored.await) }));
        }
        #[cfg(feature = "failpoints")]
        failpoints::delay(&self.store, &write);
        let number = write.number;
        let stored = tokio::spawn(shared::write(self.store.clone(), write));
        self.tried.insert(number, stored.abort_handle());
        self.under_way.push(Box::pin(async move {
            match stored.await {
                Ok(number) => Done::Committed(number, Ok(())),
                Err(_) => Done::Nothing,
            }
        }));
    }

    fn read_for_recovery(&mut self, fx: &mut Effects) {
        if !fx.tails.is_empty() {
            let (store, reads) = (self.store.clone(), std::mem::take(&mut fx.tails));
            self.under_way.push(Box::pin(async move {
                let asked = reads.iter().map(|read| (read.load.chat, read.bucket, read.limit)).collect();
                let rows = store.tails(asked).await;
                Done::Tails(reads, rows)
            }));
        }
        for read in fx.creations.drain(..) {
            let store = self.store.clone();
            self.under_way.push(Box::pin(async move {
                let made = store.creation(read.key.clone()).await;
                Done::Key(read, made)
            }));
        }
    }

    fn ask(&mut self, fx: &mut Effects) {
        let Some(place) = &self.place else { return };
        for (of, ask) in fx.asks.drain(..) {
            let ledger = place.ledger.clone();
            self.under_way.push(Box::pin(async move { Done::Answered(of, shared::ask(&ledger, ask).await) }));
        }
        if fx.take_ids {
            let ledger = place.ledger.clone();
            self.under_way.push(Box::pin(async move { Done::Ids(shared::take_ids(&ledger).await) }));
        }
    }

    /// Tells who has gained shards by the map that was made here.
    fn notice(&mut self, gainers: BTreeSet<Arc<str>>, version: u64) {
        while self.notices.try_join_next().is_some() {}
        if let Some(place) = self.place.as_ref().filter(|_| !gainers.is_empty()) {
            let others = place.others.clone();
            self.notices.spawn(async move { others.notice(gainers, version).await });
        }
    }

    fn publish(&mut self, mut publications: Vec<confab_proto::fanout::v1::Publication>) {
        let Some(fanout) = &self.fanout else { return };
        while !publications.is_empty() {
            let rest = publications.split_off(publications.len().min(PUBLICATIONS_PER_FRAME));
            // A broken stream is told by its end; what was not settled is published again.
            drop(fanout.send(PublishRequest { publications }));
            publications = rest;
        }
    }

    fn reply(&mut self, replies: Vec<(Origin, Outcome)>) {
        let mut by_stream: HashMap<u64, Vec<Reply>> = HashMap::new();
        for (origin, outcome) in replies {
            match origin {
                Origin::Stream { stream, session, call, .. } => {
                    by_stream.entry(stream).or_default().extend(wire(session, call, outcome));
                }
                Origin::Call(call) => {
                    // Whoever gave up waiting needs no answer.
                    let _gone = self.calls.remove(&call).map(|answer| answer.send(outcome));
                }
            }
        }
        for (stream, replies) in by_stream {
            let Some(queue) = self.streams.get(&stream) else { continue };
            if queue.try_send(ConverseResponse { replies }).is_err() {
                // Its edge doesn't take its replies. Without its sender the stream ends, and the edge asks again.
                tracing::warn!(stream, "a stream that doesn't read is cut");
                self.streams.remove(&stream);
            }
        }
    }
}

fn wire(session: u64, call: u64, outcome: Outcome) -> Option<Reply> {
    let outcome = match outcome {
        Outcome::Accepted(accepted) => reply::Outcome::Accepted(accepted_wire(accepted)),
        Outcome::SendRefused(error) => reply::Outcome::Refused(error.into()),
        Outcome::MarkRefused(error) => reply::Outcome::Refused(error.into()),
        // Not asked for by any command of a stream.
        Outcome::Viewed(_)
        | Outcome::Receipts(_)
        | Outcome::Marked
        | Outcome::Created { .. }
        | Outcome::Changed { .. }
        | Outcome::Blocked
        | Outcome::Expired { .. }
        | Outcome::ChatRefused(_) => return None,
    };
    Some(Reply { session, call, outcome: Some(outcome) })
}

pub(crate) fn accepted_wire(accepted: Accepted) -> pb::Accepted {
    pb::Accepted {
        chat_id: accepted.chat.0,
        seq: accepted.seq.0,
        message_id: Bytes::copy_from_slice(&accepted.message_id.0),
        created_at_ms: accepted.created_at_ms,
        duplicate: accepted.duplicate,
    }
}
