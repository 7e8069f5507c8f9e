//! Clients that drop and reconnect at random, and record what they see for the checker.
//!
//! A roamer is one device of one user in some chats. It keeps a few sends in flight, and after each reconnect it syncs
//! from its positions and sends again, under the same `client_id`, what was not acked.

mod session;
mod timeline;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::checker::{Device, History, Sent, digest};
use crate::harness::client::{self, Client};
use crate::harness::wait_for;
use session::Ended;

pub use timeline::{Arrival, Fate, Timeline, Try};

/// How many sends a roamer keeps un-acked.
const WINDOW: usize = 4;

/// Events per request for older ones.
const HISTORY_MAX: u64 = 200;

/// What all roamers of a run share.
pub struct Field {
    /// Where to connect: each roamer has one of them, and goes on to the next one when it fails.
    pub addrs: Vec<SocketAddr>,
    pub seed: u64,
    /// Frames after which a connection is dropped: drawn anew for each.
    pub drop_after: Range<u32>,
    /// Between two sends of a roamer; zero: as fast as acks come.
    pub pace: Duration,
    acked: AtomicU64,
    reconnects: AtomicU64,
    senders_left: AtomicUsize,
    /// The highest acked seq per chat.
    heads: BTreeMap<u64, AtomicU64>,
    /// True once every sender has all its acks: from then on `heads` stand.
    done: watch::Sender<bool>,
}

impl Field {
    #[must_use]
    pub fn new(
        addrs: impl Into<Vec<SocketAddr>>,
        seed: u64,
        drop_after: Range<u32>,
        chats: &[u64],
        senders: usize,
    ) -> Self {
        Self {
            addrs: addrs.into(),
            seed,
            drop_after,
            pace: Duration::ZERO,
            acked: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            senders_left: AtomicUsize::new(senders),
            heads: chats.iter().map(|chat| (*chat, AtomicU64::new(0))).collect(),
            done: watch::Sender::new(false),
        }
    }

    /// Messages acked until now.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until so many messages are acked.
    ///
    /// # Errors
    /// If they aren't within `bound`; `what` names them.
    pub async fn reaches(&self, acked: u64, what: &str, bound: Duration) -> anyhow::Result<()> {
        wait_for(what, bound, || std::future::ready((self.acked() >= acked).then_some(()))).await
    }

    /// Connections made until now, each roamer's first one not counted.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// The highest acked seq of each chat.
    #[must_use]
    pub fn heads(&self) -> BTreeMap<u64, u64> {
        self.heads.iter().map(|(chat, head)| (*chat, head.load(Ordering::SeqCst))).collect()
    }

    /// Every sender has all its acks.
    #[must_use]
    pub fn is_done(&self) -> bool {
        *self.done.borrow()
    }

    fn note_ack(&self, chat: u64, seq: u64) {
        self.acked.fetch_add(1, Ordering::Relaxed);
        if let Some(head) = self.heads.get(&chat) {
            head.fetch_max(seq, Ordering::SeqCst);
        }
    }

    fn sender_finished(&self) {
        if self.senders_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.done.send_replace(true);
        }
    }

    fn head(&self, chat: u64) -> u64 {
        self.heads.get(&chat).map_or(0, |head| head.load(Ordering::SeqCst))
    }
}

/// One roamer's part in a field.
#[derive(Clone, Debug)]
pub struct Part {
    pub device: Device,
    pub token: String,
    pub chats: Vec<u64>,
    /// Messages to send in each of them.
    pub per_chat: usize,
    /// Between two sends; zero: as fast as acks come.
    pub pace: Duration,
    /// Frames after which a connection is dropped: drawn anew for each.
    pub drop_after: Range<u32>,
}

/// A send that isn't acked.
struct Pending {
    /// Its place in the timeline.
    at: usize,
    chat: u64,
    content: String,
    client_id: String,
}

/// A part of a chat that it has to fetch, from its newest event downwards.
struct Gap {
    chat: u64,
    from: u64,
    /// What is fetched already begins here.
    before: u64,
}

struct Roamer<'a> {
    field: &'a Field,
    device: Device,
    token: String,
    rng: StdRng,
    history: History,
    /// The last seq seen, per chat.
    positions: BTreeMap<u64, u64>,
    /// The chats of the messages still to send, in the order to send them.
    to_send: VecDeque<u64>,
    pace: Duration,
    drop_after: Range<u32>,
    timeline: Timeline,
    /// When this connection had caught up.
    synced: Option<std::time::Instant>,
    pending: VecDeque<Pending>,
    gaps: VecDeque<Gap>,
    made: u32,
    connection: u32,
    /// Of the field's addresses, the one to try next, modulo their number.
    at: usize,
    finished: bool,
    /// No send before.
    next_at: Instant,
}

/// Sends `per_chat` messages in each of `chats`, at the field's pace, and stays until it has seen everyone's.
///
/// # Errors
/// If it can't connect for `patience`, or the others don't finish within it after this one.
pub async fn roam(
    field: &Field,
    device: Device,
    token: String,
    chats: &[u64],
    per_chat: usize,
    patience: Duration,
) -> anyhow::Result<History> {
    let (chats, pace, drop_after) = (chats.to_vec(), field.pace, field.drop_after.clone());
    let part = Part { device, token, chats, per_chat, pace, drop_after };
    roam_timed(field, part, patience).await.map(|(history, _)| history)
}

/// As [`roam`], at a pace of its own, and says when it saw what, too.
///
/// # Errors
/// As [`roam`].
pub async fn roam_timed(field: &Field, part: Part, patience: Duration) -> anyhow::Result<(History, Timeline)> {
    let Part { device, token, chats, per_chat, pace, drop_after } = part;
    let mut rng = StdRng::seed_from_u64(field.seed ^ device.user.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut to_send: Vec<u64> = chats.iter().flat_map(|chat| std::iter::repeat_n(*chat, per_chat)).collect();
    to_send.shuffle(&mut rng);
    let mut history = History::new(field.seed);
    for chat in &chats {
        history.member(*chat, &device, 0);
    }
    // They begin one after the other, not all at once.
    let next_at = Instant::now() + pace.mul_f64(rng.random_range(0.0..1.0));
    let mut roamer = Roamer {
        field,
        token,
        rng,
        history,
        positions: chats.iter().map(|chat| (*chat, 0)).collect(),
        to_send: to_send.into(),
        pace,
        drop_after,
        timeline: Timeline::default(),
        synced: None,
        pending: VecDeque::new(),
        gaps: VecDeque::new(),
        made: 0,
        connection: 0,
        at: usize::try_from(device.user).unwrap_or(0),
        finished: false,
        next_at,
        device,
    };
    let who = roamer.device.to_string();
    timeout(patience, roamer.run()).await.with_context(|| {
        let behind = roamer.behind();
        format!(
            "{who} is not through after {patience:?}: {} un-acked, behind in (chat, at, head) {behind:?}",
            roamer.pending.len()
        )
    })??;
    Ok((roamer.history, roamer.timeline))
}

impl Roamer<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let client = self.connect().await;
            self.synced = None;
            let ended = session::run(self, client).await?;
            let tries: Vec<usize> = self.pending.iter().map(|pending| pending.at).collect();
            match ended {
                Ended::SeenAll => return Ok(()),
                Ended::Left => self.timeline.settle(tries, Fate::Left),
                Ended::SentAway => {
                    self.timeline.settle(tries, Fate::Failed);
                    self.at += 1;
                }
                Ended::Broken => {
                    self.timeline.settle(tries, Fate::Failed);
                    self.timeline.breaks.push(Instant::now().into_std());
                    self.at += 1;
                    // The first wait of the full-jitter backoff that docs/protocol.md asks of clients.
                    sleep(Duration::from_millis(self.rng.random_range(0..1_000))).await;
                }
                Ended::Refused { code, after } => {
                    self.timeline.settle(tries, Fate::Failed);
                    self.timeline.refusals.push((Instant::now().into_std(), code));
                    // All of its clients must not come again at once.
                    sleep(after.mul_f64(self.rng.random_range(0.5..1.0))).await;
                }
            }
            self.connection += 1;
            self.timeline.connects.push(Instant::now().into_std());
            self.field.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Of the field's addresses, the one that it is connected to.
    fn edge(&self) -> usize {
        self.at % self.field.addrs.len()
    }

    /// Tries until it works; the caller's patience bounds it.
    async fn connect(&mut self) -> Client {
        loop {
            let mode = client::Mode::Json;
            let addr = self.field.addrs[self.edge()];
            if let Ok(client) = Client::connect(addr, &self.token, mode).await {
                return client;
            }
            self.at += 1;
            // The backoff of a client whose server is down.
            let pause = self.rng.random_range(20..150);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Another message may be sent, if it is time.
    fn has_room(&self) -> bool {
        self.pending.len() < WINDOW && !self.to_send.is_empty()
    }

    /// The next message to send, noted as sent; `None` when the window is full or all are sent.
    fn next_send(&mut self) -> Option<String> {
        let now = Instant::now();
        if !self.has_room() || now < self.next_at {
            return None;
        }
        let chat = self.to_send.pop_front()?;
        // From when it was due, so that a wait for acks does not slow down what comes after it; nothing is made up for.
        self.next_at = now.max(self.next_at + self.pace);
        self.made += 1;
        let padding = "x".repeat(self.rng.random_range(0..200));
        let content = format!("{} says {} {padding}", self.device, self.made);
        let client_id = format!("{}-{}", self.device.user, self.made);
        self.history.sent(Sent {
            device: self.device.clone(),
            chat,
            client_id: client_id.clone(),
            digest: digest(&content),
        });
        let frame = client::message(chat, &content, &client_id).to_string();
        let at = self.timeline.sends.len();
        let edge = self.edge();
        self.timeline.sends.push(Try { chat, at: now.into_std(), edge, fate: Fate::Open, acked: None });
        self.pending.push_back(Pending { at, chat, content, client_id });
        Some(frame)
    }

    /// A request for the next part of what it has to fetch.
    fn next_fetch(&self) -> Option<String> {
        let Gap { chat, from, before } = self.gaps.front()?;
        let limit = (before - from).min(HISTORY_MAX);
        Some(json!({"type": "history", "chat_id": chat, "before": before, "limit": limit}).to_string())
    }

    fn note_finished(&mut self) {
        if !self.finished && self.pending.is_empty() && self.to_send.is_empty() {
            self.finished = true;
            self.field.sender_finished();
        }
    }

    fn behind(&self) -> Vec<(u64, u64, u64)> {
        let places = self.positions.iter().map(|(chat, at)| (*chat, *at, self.field.head(*chat)));
        places.filter(|(_, at, head)| at < head).collect()
    }
}
