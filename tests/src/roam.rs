//! Clients that drop and reconnect at random, and record what they see for the checker.
//!
//! A roamer is one device of one user in some chats. It keeps a few sends in flight, and after each reconnect it syncs
//! from its positions and sends again, under the same `client_id`, what was not acked.

mod session;

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
use session::Ended;

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

/// A send that isn't acked.
struct Pending {
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

/// Sends `per_chat` messages in each of `chats` and stays until it has seen everyone's.
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
    let mut rng = StdRng::seed_from_u64(field.seed ^ device.user.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut to_send: Vec<u64> = chats.iter().flat_map(|chat| std::iter::repeat_n(*chat, per_chat)).collect();
    to_send.shuffle(&mut rng);
    let mut history = History::new(field.seed);
    for chat in chats {
        history.member(*chat, &device, 0);
    }
    let mut roamer = Roamer {
        field,
        token,
        rng,
        history,
        positions: chats.iter().map(|chat| (*chat, 0)).collect(),
        to_send: to_send.into(),
        pending: VecDeque::new(),
        gaps: VecDeque::new(),
        made: 0,
        connection: 0,
        at: usize::try_from(device.user).unwrap_or(0),
        finished: false,
        next_at: Instant::now(),
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
    Ok(roamer.history)
}

impl Roamer<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let client = self.connect().await;
            let ended = session::run(self, client).await?;
            if matches!(ended, Ended::SeenAll) {
                return Ok(());
            }
            self.connection += 1;
            self.field.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tries until it works; the caller's patience bounds it.
    async fn connect(&mut self) -> Client {
        loop {
            let mode = client::Mode::Json;
            let addr = self.field.addrs[self.at % self.field.addrs.len()];
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
        self.next_at = now + self.field.pace;
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
        self.pending.push_back(Pending { chat, content, client_id });
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
