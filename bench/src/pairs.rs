//! The one-to-one load: pairs of a sender and a recipient, or senders alone against an echo server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Connection, Endpoint};
use crate::clock::{SECOND, now_ns, own_cpu_ns};
use crate::frame::MessageMaker;
use crate::http::direct_chats;
use crate::receiver::Receiver;
use crate::recorder::{Complaints, Recorder, SeqGuard, Tally};
use crate::schedule::Schedule;
use crate::sender::{Sender, Steps};
use crate::server::Server;
use crate::wait;

/// The p99 of ack and delivery up to which a rate holds, milliseconds: beyond it a queue grows, and the rate is one that a
/// server survives, not one that it serves.
pub const HELD_P99_MS: f64 = 100.0;

/// Pairs, and so senders.
pub const PAIRS: u32 = 200;
/// Bytes of a message's content.
pub const CONTENT_BYTES: usize = 128;
/// The first user id; 1 and 2 are those of a fresh data folder.
const FIRST_USER: u64 = 1000;
/// Handshakes at a time.
const OPENING: usize = 64;
/// From the order to the first message, so that all senders know their schedule by then.
const LEAD_NS: u64 = 50_000_000;
/// After the schedule's end: how long what is outstanding may take.
const DRAIN: Duration = Duration::from_secs(60);

/// Connected pairs, ready for steps of load. Dropped, they disconnect.
pub struct Pairs {
    steps: Steps,
    recorder: Arc<Recorder>,
    complaints: Arc<Complaints>,
    recipients: bool,
    _tasks: JoinSet<()>,
}

impl Pairs {
    /// [`PAIRS`] direct chats; each recipient says `delivered`.
    pub async fn confab(endpoint: &Endpoint, in_flight_max: u32) -> Result<Self> {
        let users: Vec<(u64, u64)> =
            (0..u64::from(PAIRS)).map(|pair| (FIRST_USER + 2 * pair, FIRST_USER + 2 * pair + 1)).collect();
        let chats = direct_chats(endpoint, &users).await.context("can't make the direct chats")?;
        let everyone = users.iter().zip(&chats).flat_map(|((a, b), chat)| [(*a, *chat), (*b, *chat)]);
        let mut connections: Vec<(Connection, SeqGuard)> =
            stream::iter(everyone.map(|(user, chat_id)| Connection::open_synced(endpoint, user, chat_id)))
                .buffered(OPENING)
                .try_collect()
                .await?;
        let mut pairs = Self::new(true);
        let confirm = Arc::new(AtomicBool::new(true));
        for (lane, chat_id) in (0..PAIRS).zip(chats).rev() {
            let (connection, guard) = connections.pop().context("a recipient is missing")?;
            let recorder = pairs.recorder.clone();
            let receiver = Receiver {
                connection,
                chat_id,
                guard: Some(guard),
                confirm: confirm.clone(),
                on_message: move |stamp: crate::frame::Stamp, now, _: &str| {
                    recorder.delivered(stamp.at_ns, now);
                    Ok(())
                },
            };
            pairs._tasks.spawn(receiver.run(pairs.complaints.clone()));
            let (connection, guard) = connections.pop().context("a sender is missing")?;
            pairs.add_sender(connection, lane, chat_id, Some(guard), in_flight_max);
        }
        Ok(pairs)
    }

    /// [`PAIRS`] senders against `bare-echo`.
    pub async fn echo(endpoint: &Endpoint, in_flight_max: u32) -> Result<Self> {
        let mut pairs = Self::new(false);
        for lane in 0..PAIRS {
            let connection = Connection::open(endpoint, u64::from(lane)).await?;
            pairs.add_sender(connection, lane, 1, None, in_flight_max);
        }
        Ok(pairs)
    }

    fn new(recipients: bool) -> Self {
        Self {
            steps: watch::Sender::new(None),
            recorder: Arc::default(),
            complaints: Arc::default(),
            recipients,
            _tasks: JoinSet::new(),
        }
    }

    fn add_sender(
        &mut self,
        connection: Connection,
        lane: u32,
        chat_id: u64,
        guard: Option<SeqGuard>,
        in_flight_max: u32,
    ) {
        let sender = Sender {
            connection,
            lane,
            maker: MessageMaker::new(chat_id, CONTENT_BYTES),
            echo: guard.is_none(),
            guard,
            in_flight_max,
            recorder: self.recorder.clone(),
            on_own: |_: crate::frame::Stamp, _: u64, _: &str| Ok(()),
        };
        self._tasks.spawn(sender.run(self.steps.subscribe(), self.complaints.clone()));
    }

    /// Offers `rate` messages/s for `seconds`, and waits until every message is acked and delivered: one that isn't,
    /// or isn't within a minute, is an error.
    pub async fn step(&self, server: &Server, rate: u32, seconds: u32) -> Result<Step> {
        let schedule = Schedule::lasting(now_ns() + LEAD_NS, rate, PAIRS, seconds);
        self.recorder.begin(schedule.end_ns());
        let (server_before, own_before) = (server.cpu_micros()?, own_cpu_ns());
        self.steps.send_replace(Some(schedule));
        let bound = Duration::from_secs(u64::from(seconds)) + DRAIN;
        let finished = wait::until(bound, &self.complaints, || {
            let (acked, refused, delivered) = self.recorder.counts();
            acked + refused >= schedule.total && (!self.recipients || delivered >= acked)
        });
        server.explain(finished.await, || self.unfinished(schedule)).await?;
        let took = now_ns().saturating_sub(schedule.start_ns);
        Ok(Step {
            rate,
            total: schedule.total,
            tally: self.recorder.tally(),
            server_cpu_micros: server.cpu_micros()? - server_before,
            own_cpu_micros: (own_cpu_ns() - own_before) / 1000,
            took_ns: took.max(1),
        })
    }

    fn unfinished(&self, schedule: Schedule) -> String {
        let (acked, refused, delivered) = self.recorder.counts();
        let total = schedule.total;
        format!("of {total} messages {acked} acked, {refused} refused, {delivered} delivered")
    }
}

/// What one step of load came to.
pub struct Step {
    /// Offered, in messages/s.
    pub rate: u32,
    /// Messages offered.
    pub total: u64,
    /// Counts and latencies.
    pub tally: Tally,
    /// CPU of the server process, in µs.
    pub server_cpu_micros: u64,
    /// CPU of the generator, in µs.
    pub own_cpu_micros: u64,
    /// From the first intended time until all was done.
    pub took_ns: u64,
}

impl Step {
    /// Acked by the end of the schedule, of all that was offered: 1 when the server keeps up.
    pub fn share(&self) -> f64 {
        self.tally.acked_in_time as f64 / self.total.max(1) as f64
    }

    /// The worse p99 of ack and delivery, in ms.
    pub fn p99_ms(&self) -> f64 {
        self.tally.ack.ms(0.99).max(self.tally.delivery.ms(0.99))
    }

    /// Whether the rate held: at least 97 % acked in time, p99 at most [`HELD_P99_MS`], nothing refused.
    pub fn held(&self) -> bool {
        self.share() >= 0.97 && self.p99_ms() <= HELD_P99_MS && self.tally.refused == 0
    }

    /// CPU of the server per acked message, in µs.
    pub fn cpu_per_message(&self) -> f64 {
        self.server_cpu_micros as f64 / self.tally.acked.max(1) as f64
    }

    /// Mean number of messages on their way, by Little's law.
    pub fn in_flight(&self) -> f64 {
        self.tally.ack.mean_ms() / 1000.0 * f64::from(self.rate)
    }

    /// Cores that the server and the generator kept busy.
    pub fn cores(&self) -> (f64, f64) {
        let micros = self.took_ns as f64 / (SECOND as f64 / 1e6);
        (self.server_cpu_micros as f64 / micros, self.own_cpu_micros as f64 / micros)
    }

    /// One line for the progress and the notes.
    pub fn describe(&self) -> String {
        let (server, own) = self.cores();
        let delivery = if self.tally.delivered == 0 {
            String::new()
        } else {
            format!("delivery p99 {:.1} ms, ", self.tally.delivery.ms(0.99))
        };
        format!(
            "{} /s: {:.1} % acked in time, ack p50 {:.1} p99 {:.1} ms, {delivery}lateness p99 {:.1} ms, \
             {:.1} µs/message, cores {server:.2} server + {own:.2} generator",
            self.rate,
            self.share() * 100.0,
            self.tally.ack.ms(0.5),
            self.tally.ack.ms(0.99),
            self.tally.lateness.ms(0.99),
            self.cpu_per_message(),
        )
    }
}
