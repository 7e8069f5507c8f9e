//! The rules of a chat, pure and synchronous: inputs and `now` go in, [`Effects`] come out. No clock, no storage, no tokio.
//!
//! [`owner::Owner`] is the whole; [`chat`] is one chat's state; [`roster`] who is in it; [`body`] what is sent to it; [`sends`]
//! remembers idempotency keys; [`marks`] the watermarks; [`outbox`] what fanout has not settled; [`tail`] the newest events, for who
//! reads. Among several owners, [`ownership`] says who has which chats, [`recovery`] what a new owner does with a log, and [`refusals`]
//! what comes too late. [`user`] is what somebody has set for themselves.

pub(crate) mod body;
pub(crate) mod chat;
pub(crate) mod chat_ids;
mod maps;
pub(crate) mod marks;
pub(crate) mod outbox;
pub(crate) mod owner;
pub(crate) mod ownership;
pub(crate) mod recovery;
pub(crate) mod refusals;
pub(crate) mod roster;
pub(crate) mod sends;
#[cfg(test)]
mod simulation;
pub(crate) mod tail;
pub(crate) mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::fanout::v1::Publication;
use confab_proto::message::v1::{ChatKind, Role};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{ChatError, MarkError, SendError};
use crate::store::recent::Kept;
use crate::store::{CreationKey, Row, SendKey};
use body::Body;
use owner::Write;
use ownership::Ask;
use ownership::lease::Incarnation;
use ownership::map::ShardMap;
use sends::Sent;
use tail::Newest;
use user::Block;

/// The time of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Unix time, milliseconds.
    pub wall_ms: i64,
    /// Milliseconds on a clock that never steps back, and that counts the time a machine sleeps.
    pub mono_ms: u64,
}

impl Now {
    /// Unix time, microseconds: what write timestamps are counted in.
    pub(crate) fn wall_us(self) -> i64 {
        self.wall_ms.saturating_mul(1_000)
    }
}

/// Whom an outcome goes to. The core only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A command of a `Converse` stream.
    Stream { stream: u64, session: u64, call: u64, generation: u32 },
    /// A unary call.
    Call(u64),
}

/// What one chat can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    Send(Send),
    Mark(Mark),
    Typing(UserId),
    View(View),
    Receipts(Receipts),
    Change(Change),
    /// What one of two says of the other has changed.
    Block(Block),
    Expire(Expire),
    /// The chat that its key names is to be there; among other owners only.
    Create(Box<Create>),
}

impl Command {
    /// Whether it may append to the log: then it waits for what has to be waited for.
    pub(crate) fn appends(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Change(_) | Self::Expire(_) | Self::Create(_))
    }
}

#[derive(Debug)]
pub(crate) struct Send {
    pub user: UserId,
    pub device: String,
    pub message_id: MessageId,
    /// Empty: none; then `message_id` is the key.
    pub client_id: String,
    pub body: Body,
    /// By an erasure: its user may have left, or been blocked.
    pub erases: bool,
}

/// Raises watermarks; [`Seq::ZERO`] leaves one as it is.
#[derive(Debug)]
pub(crate) struct Mark {
    pub user: UserId,
    pub device: String,
    pub delivered: Seq,
    pub read: Seq,
}

impl Mark {
    /// One that names a message, which is found at `seq`.
    pub(crate) fn at(self, seq: Seq) -> Self {
        let read = if self.read > Seq::ZERO { seq } else { Seq::ZERO };
        Self { delivered: seq, read, ..self }
    }
}

/// What a member's device sees of a chat.
#[derive(Debug)]
pub(crate) struct View {
    /// 0: a service's, which sees everything.
    pub user: UserId,
    pub device: String,
    /// Whether the newest events are wanted, too, as far as they are in memory.
    pub newest: Option<From>,
}

/// Who has got the event at a seq, one page of the members.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipts {
    pub user: UserId,
    pub seq: Seq,
    /// Members before, by their places.
    pub after: usize,
    pub limit: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReceiptPage {
    /// Of who sees the message, without who asked.
    pub receipts: Vec<MemberReceipt>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberReceipt {
    pub user: UserId,
    pub delivered: bool,
    pub read: bool,
}

/// Where a device goes on in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// After what it says that it has.
    Seq(Seq),
    /// After what it has confirmed, or else after the user's read mark.
    Confirmed,
}

/// Old events lose what they say.
#[derive(Debug, Clone)]
pub(crate) struct Expire {
    /// Those that change, encoded.
    pub rows: BTreeMap<Seq, Bytes>,
    /// Up to here no other is so old and says something.
    pub upto: Seq,
    /// The head when they were read: what has changed an event since then would be overwritten.
    pub as_of: Seq,
}

/// Changes a group: what everyone is told by an event of its log.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub by: UserId,
    pub device: String,
    pub message_id: MessageId,
    pub what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Add(Vec<UserId>),
    /// Oneself, too: leaving.
    Remove(Vec<UserId>),
    Role(UserId, Role),
    Rename(String),
    /// Nobody is in it any more.
    Delete,
}

#[derive(Debug)]
pub(crate) struct Create {
    pub key: CreationKey,
    pub kind: ChatKind,
    pub title: String,
    pub by: UserId,
    pub device: String,
    /// With the creator, each once.
    pub members: Vec<UserId>,
    pub message_id: MessageId,
}

impl Create {
    /// Of all that is asked for. A pair's chat is the same whoever asks.
    pub(crate) fn body_hash(&self) -> u64 {
        if matches!(self.key, CreationKey::Direct(..)) {
            return 0;
        }
        let members = self.members.iter().flat_map(|user| user.0.to_be_bytes());
        let body: Vec<u8> = members.chain(self.title.bytes()).collect();
        xxh3_64(&body)
    }
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted(Accepted),
    SendRefused(SendError),
    /// Of a unary call only: in a stream a mark is answered where it is refused.
    Marked,
    MarkRefused(MarkError),
    Viewed(Box<ChatView>),
    Receipts(ReceiptPage),
    Created {
        chat: ChatId,
        existed: bool,
    },
    /// A block counts from here on.
    Blocked,
    /// Those up to here lose, or have lost, what they say.
    Expired {
        upto: Seq,
    },
    /// For whom it has changed something, and how many members there are after it.
    Changed {
        users: Vec<UserId>,
        members: usize,
    },
    ChatRefused(ChatError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub chat: ChatId,
    pub seq: Seq,
    pub message_id: MessageId,
    pub created_at_ms: i64,
    pub duplicate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChatView {
    pub chat: ChatId,
    pub kind: ChatKind,
    pub title: String,
    pub created_by: UserId,
    pub created_at_ms: i64,
    /// The last seq of the durable prefix.
    pub head: Seq,
    /// Countable events up to the head.
    pub count: u64,
    pub members: usize,
    pub role: Role,
    pub joined_seq: Seq,
    /// They have left with this event, which is the head here; 0: they are there.
    pub left_seq: Seq,
    /// Of a direct chat.
    pub peer: Option<UserId>,
    /// That member's watermarks.
    pub peer_delivered: Seq,
    pub peer_read: Seq,
    /// What this device has confirmed; `None`: it never did.
    pub confirmed: Option<Seq>,
    /// The highest over the user's devices.
    pub delivered: Seq,
    pub read: Seq,
    /// The user's own last send.
    pub own: Seq,
    /// The recovery that the head is of; 0: there is no other owner, or an older program's view doesn't say.
    pub epoch: i64,
    /// Of a direct chat: one of the two has blocked the other.
    pub blocked: bool,
    /// Up to here its events have lost what they said; not told to other instances.
    pub expired_upto: Seq,
    /// All events that the device misses, where they were asked for and are in the owner's memory.
    pub newest: Option<Newest>,
}

impl ChatView {
    /// They are in the chat no more: this is what it was to them.
    pub(crate) fn has_left(&self) -> bool {
        self.left_seq > Seq::ZERO
    }
}

/// What the shell has to do after an input.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Read these chats and answer with `loaded`.
    pub loads: Vec<Load>,
    /// Read these once more, without their watermarks, and answer with `loaded`.
    pub loads_again: Vec<Load>,
    /// Read these ends of logs and answer with `tail_read`.
    pub tails: Vec<TailRead>,
    /// Read these events of logs and answer each with `row_read`.
    pub row_reads: Vec<RowRead>,
    /// Look these keys up and answer with `found`, for all at once.
    pub lookups: Vec<Lookup>,
    /// Look up what these keys have made, and answer each with `creation_found`.
    pub creations: Vec<KeyRead>,
    /// Take chat ids that nobody else gets, and answer with `ids_taken`.
    pub take_ids: bool,
    /// To be written: [`owner::Owner::seal`] makes writes of them.
    pub rows: Vec<Row>,
    /// Among other owners: events that are below the head from now on.
    pub recent: Vec<Kept>,
    pub replies: Vec<(Origin, Outcome)>,
    pub publications: Vec<Publication>,
    /// Write these; when one is stored, say `committed`.
    pub writes: Vec<Write>,
    /// These writes need not be tried any more.
    pub abandoned: Vec<u64>,
    /// Leases and the shard map: to be done for this incarnation, and answered with `answered`.
    pub asks: Vec<(Incarnation, Ask)>,
    /// These streams are to be ended.
    pub cut: Vec<u64>,
    /// The map is another one.
    pub map: Option<Arc<ShardMap>>,
    /// And these, where they are called, are to be told of it.
    pub gainers: BTreeSet<Arc<str>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub chat: ChatId,
    pub key: SendKey,
    /// When it was asked: keys are looked for as far back as [`crate::store::send_days`] says, …
    pub at_ms: i64,
    /// … or in these buckets, newest first.
    pub buckets: Vec<u32>,
    /// The recovery since which it was asked, and the log's head then: what is read above that is not certain.
    pub epoch: i64,
    pub head: Seq,
}

/// What the store has of a key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// All that is kept of the key, each with the log's row at its seq where another owner may have written it: one that
    /// was cut off the log may lie in a newer bucket than the true one.
    pub sent: Vec<(Sent, Option<Bytes>)>,
    /// The hashes of all keys of the same sender, where they were read along.
    pub of_sender: Option<Vec<u64>>,
}

/// A chat that is read into memory; the number tells one reading from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub chat: ChatId,
    pub number: u64,
}

/// A creation's key that is looked up; the number tells one reading from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRead {
    pub key: CreationKey,
    pub number: u64,
}

/// The end of one bucket of a chat's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailRead {
    pub load: Load,
    pub bucket: u32,
    /// So many of its newest rows.
    pub limit: usize,
}

/// One event of a chat's log, from below its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowRead {
    pub chat: ChatId,
    pub seq: Seq,
    /// The recovery since which it is asked.
    pub epoch: i64,
}

/// How many have got a sender's last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// The sender.
    pub user: UserId,
    pub seq: Seq,
    pub delivered_by: u32,
    pub read_by: u32,
}

/// Of some senders of a chat.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    pub of: Arc<[Count]>,
    /// The sender, too.
    pub members: u32,
}

/// The payload of a publication.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Event(Bytes),
    /// The log goes up to here; no more is said of it.
    Marker,
    Receipt {
        user: UserId,
        delivered: Seq,
        read: Seq,
    },
    /// In a large chat.
    Counts(Counts),
    Typing(UserId),
}
