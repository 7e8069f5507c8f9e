//! The checker: a recorded history of sends, acks and deliveries, and the verdict on it.
//!
//! Pure: no I/O, no clock. Clients record into a [`History`] each, [`History::absorb`] joins them, [`History::judge`]
//! says what was broken. Contents are compared by digest, so give each message its own content.

mod judge;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

pub use report::{Counts, Report};

/// A `gap` leaves out only what lies before the newest so many events of a chat (docs/protocol.md, "Catch-up").
pub const GAP_LEAVES: u64 = 1_000;

/// One device of one user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    pub user: u64,
    pub name: String,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.user, self.name)
    }
}

/// A message as its sender meant it: the first try; retries carry the same `client_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub device: Device,
    pub chat: u64,
    pub client_id: String,
    pub digest: u64,
}

/// An `ack`. A retry's is recorded, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    pub device: Device,
    pub chat: u64,
    pub client_id: String,
    pub seq: u64,
    pub message_id: String,
    pub duplicate: bool,
}

/// An event of a chat as a device received it. What isn't a message has no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Which of the device's connections, counted from 0.
    pub connection: u32,
    pub seq: u64,
    /// `None`: not a message (a chat event, an edit).
    pub message: Option<Message>,
}

/// A message as it was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub message_id: String,
    pub sender: u64,
    pub digest: u64,
    /// Only on the sender's own devices.
    pub client_id: Option<String>,
}

/// What a device got in a chat, in the order it came.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// The position before the first event: the first expected seq is `start + 1`.
    start: u64,
    events: Vec<Delivered>,
    /// What it was told that it must fetch itself, inclusive.
    gaps: Vec<(u64, u64)>,
    /// What it fetched of them.
    fetched: Vec<Delivered>,
}

impl Stream {
    fn all(&self) -> impl Iterator<Item = &Delivered> {
        self.events.iter().chain(&self.fetched)
    }
}

/// Everything that clients saw in one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    seed: u64,
    sent: Vec<Sent>,
    acked: Vec<Acked>,
    streams: BTreeMap<(u64, Device), Stream>,
    notes: BTreeSet<String>,
}

impl History {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Declares that `device` is to get every event of `chat` after `start`. Its deliveries may come before or after.
    pub fn member(&mut self, chat: u64, device: &Device, start: u64) {
        self.streams.entry((chat, device.clone())).or_default().start = start;
    }

    /// Records the first try of a message, in the order of the device's sends.
    pub fn sent(&mut self, sent: Sent) {
        self.sent.push(sent);
    }

    pub fn acked(&mut self, acked: Acked) {
        self.acked.push(acked);
    }

    pub fn delivered(&mut self, chat: u64, device: &Device, event: Delivered) {
        self.streams.entry((chat, device.clone())).or_default().events.push(event);
    }

    /// Records a `gap` frame: all of `from..=to` is to be fetched.
    pub fn gap(&mut self, chat: u64, device: &Device, from: u64, to: u64) {
        self.streams.entry((chat, device.clone())).or_default().gaps.push((from, to));
    }

    /// Records an event that came by `history`, in any order.
    pub fn fetched(&mut self, chat: u64, device: &Device, event: Delivered) {
        self.streams.entry((chat, device.clone())).or_default().fetched.push(event);
    }

    /// Something that a client saw and that must not be (an error frame): a violation as it is.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.insert(what.into());
    }

    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// Adds another client's record.
    pub fn absorb(&mut self, other: Self) {
        self.sent.extend(other.sent);
        self.acked.extend(other.acked);
        self.notes.extend(other.notes);
        for (key, stream) in other.streams {
            let mine = self.streams.entry(key).or_default();
            mine.start = mine.start.max(stream.start);
            mine.events.extend(stream.events);
            mine.gaps.extend(stream.gaps);
            mine.fetched.extend(stream.fetched);
        }
    }

    /// The verdict:
    /// - each device got each event of its chats once, by ascending seq, without a hole, from its start up to the
    ///   highest seq that anyone was acked or sent; what a `gap` left out, it fetched, and at least [`GAP_LEAVES`] events
    ///   came after that;
    /// - all devices agree on what a seq is;
    /// - an acked message is in its chat exactly once, where its ack says, with its content; acks of one `client_id`
    ///   agree, and only the first may not be a duplicate;
    /// - a message that was never acked is there at most once;
    /// - nobody got what nobody sent;
    /// - a device's messages in a chat have the order in which it sent them first.
    #[must_use]
    pub fn judge(&self) -> Report {
        judge::judge(self)
    }
}

/// A digest of a message's content.
#[must_use]
pub fn digest(content: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
