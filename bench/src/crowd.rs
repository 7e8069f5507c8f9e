//! The group load: one sender and many members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::board::Board;
use crate::client::{Connection, Endpoint};
use crate::clock::{now_ns, own_cpu_ns};
use crate::frame::MessageMaker;
use crate::http::Api;
use crate::receiver::Receiver;
use crate::recorder::{Complaints, Latencies, Recorder, SeqGuard};
use crate::schedule::Schedule;
use crate::sender::{Sender, Steps};
use crate::server::Server;
use crate::wait;

/// Handshakes at a time.
const OPENING: usize = 64;
/// From the order to the first message.
const LEAD_NS: u64 = 50_000_000;
/// After the schedule's end: how long the last deliveries may take.
const DRAIN: Duration = Duration::from_secs(60);

/// A group, and who of it listens.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The creator and only sender; the other members' ids follow.
    pub first_user: u64,
    /// Members, the sender included.
    pub members: u32,
    /// How many of the members connect and read, the sender included.
    pub readers: u32,
    /// Bytes of a message's content.
    pub content_bytes: usize,
}

/// Connected members, ready for steps of load. Dropped, they disconnect.
pub struct Crowd {
    steps: Steps,
    recorder: Arc<Recorder>,
    board: Arc<Board>,
    complaints: Arc<Complaints>,
    confirm: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Makes the group and connects its readers.
    pub async fn confab(endpoint: &Endpoint, shape: Shape, in_flight_max: u32) -> Result<Self> {
        let users: Vec<u64> = (shape.first_user..).take(shape.members as usize).collect();
        let mut api = Api::connect(endpoint).await?;
        let chat_id = api.create_group(users[0], &users[1..]).await.context("can't make the group")?;
        let mut opening = stream::iter(users.into_iter().take(shape.readers as usize))
            .map(|user| Connection::open_synced(endpoint, user, chat_id))
            .buffered(OPENING);
        let mut crowd = Self::new(shape.readers);
        let (connection, guard) = opening.try_next().await?.context("a group needs a sender")?;
        let sender = Sender {
            connection,
            lane: 0,
            maker: MessageMaker::new(chat_id, shape.content_bytes),
            guard: Some(guard),
            echo: false,
            in_flight_max,
            recorder: crowd.recorder.clone(),
            on_own: crowd.board.ticking(),
        };
        crowd.tasks.spawn(sender.run(crowd.steps.subscribe(), crowd.complaints.clone()));
        while let Some((connection, guard)) = opening.try_next().await? {
            crowd.add_receiver(connection, chat_id, Some(guard));
        }
        Ok(crowd)
    }

    /// Receivers alone, of a peer that writes by itself (`bare-write`).
    pub async fn receivers(endpoint: &Endpoint, count: u32) -> Result<Self> {
        let mut crowd = Self::new(count);
        let mut opening = stream::iter(0..u64::from(count)).map(|n| Connection::open(endpoint, n)).buffered(OPENING);
        while let Some(connection) = opening.try_next().await? {
            crowd.add_receiver(connection, 1, None);
        }
        Ok(crowd)
    }

    fn new(readers: u32) -> Self {
        Self {
            steps: watch::Sender::new(None),
            recorder: Arc::default(),
            board: Arc::new(Board::new(readers)),
            complaints: Arc::default(),
            confirm: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    fn add_receiver(&mut self, connection: Connection, chat_id: u64, guard: Option<SeqGuard>) {
        let on_message = self.board.ticking();
        let receiver = Receiver { connection, chat_id, guard, confirm: self.confirm.clone(), on_message };
        self.tasks.spawn(receiver.run(self.complaints.clone()));
    }

    /// Whether the members say `delivered` from now on; they don't at first.
    pub fn confirm(&self, confirm: bool) {
        self.confirm.store(confirm, Ordering::Relaxed);
    }

    /// One delivery frame as it came from the server.
    pub fn sample(&self) -> Option<String> {
        self.board.sample()
    }

    /// Offers `rate` messages/s for `seconds` and waits until every reader has each of them, once and in order.
    pub async fn step(&self, server: &Server, rate: u32, seconds: u32) -> Result<CrowdStep> {
        let watch = self.begin(server, rate, seconds)?;
        let schedule = Schedule::lasting(now_ns() + LEAD_NS, rate, 1, seconds);
        self.recorder.begin(schedule.end_ns());
        self.steps.send_replace(Some(schedule));
        let step = self.finish(server, watch).await?;
        let (acked, refused, _) = self.recorder.counts();
        if acked != schedule.total {
            bail!("of {} messages {acked} were acked and {refused} refused", schedule.total);
        }
        Ok(step)
    }

    /// The same of a peer that is told to write.
    pub async fn peer_step(&self, peer: &mut Server, rate: u32, seconds: u32) -> Result<CrowdStep> {
        let watch = self.begin(peer, rate, seconds)?;
        peer.tell(&format!("write {rate} {seconds}")).await?;
        self.finish(peer, watch).await
    }

    fn begin(&self, server: &Server, rate: u32, seconds: u32) -> Result<Watch> {
        let messages = rate * seconds;
        self.board.begin(messages, 0);
        Ok(Watch { rate, seconds, messages, server_micros: server.cpu_micros()?, own_ns: own_cpu_ns() })
    }

    async fn finish(&self, server: &Server, watch: Watch) -> Result<CrowdStep> {
        let bound = Duration::from_secs(u64::from(watch.seconds)) + DRAIN;
        let sent = || self.board.complete() >= watch.messages && self.acked_or_bare(watch.messages);
        let finished = wait::until(bound, &self.complaints, sent).await;
        let what = || format!("{} of {} messages reached every member", self.board.complete(), watch.messages);
        server.explain(finished, what).await?;
        let (each, last) = self.board.latencies();
        Ok(CrowdStep {
            rate: watch.rate,
            deliveries: each.count(),
            each,
            last,
            server_cpu_micros: server.cpu_micros()? - watch.server_micros,
            own_cpu_micros: (own_cpu_ns() - watch.own_ns) / 1000,
        })
    }

    /// The ack may come after the deliveries; a bare peer's messages have none.
    fn acked_or_bare(&self, messages: u32) -> bool {
        let (acked, refused, _) = self.recorder.counts();
        self.steps.receiver_count() == 0 || acked + refused >= u64::from(messages)
    }
}

struct Watch {
    rate: u32,
    seconds: u32,
    messages: u32,
    server_micros: u64,
    own_ns: u64,
}

/// What one step of group load came to.
pub struct CrowdStep {
    /// Messages/s.
    pub rate: u32,
    /// Messages times readers.
    pub deliveries: u64,
    /// From the intended time to each reader's socket.
    pub each: Latencies,
    /// From the intended time to the last reader's socket.
    pub last: Latencies,
    /// CPU of the server process, in µs.
    pub server_cpu_micros: u64,
    /// CPU of the generator, in µs.
    pub own_cpu_micros: u64,
}

impl CrowdStep {
    /// CPU of the server per delivery, in µs.
    pub fn cpu_per_delivery(&self) -> f64 {
        self.server_cpu_micros as f64 / self.deliveries.max(1) as f64
    }

    /// One line for the progress and the notes.
    pub fn describe(&self) -> String {
        format!(
            "{} /s: last member {}, {:.2} µs of server CPU and {:.2} µs of generator CPU a delivery",
            self.rate,
            self.last,
            self.cpu_per_delivery(),
            self.own_cpu_micros as f64 / self.deliveries.max(1) as f64
        )
    }
}
