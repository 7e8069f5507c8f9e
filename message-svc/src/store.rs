//! What is kept of chats, and the seam to where: one [`Store`], chosen once. `embedded` is the machine's own disk,
//! `cassandra` a cluster's. The keys are the same in both (see design docs); `suite` tests any of them. `recent` stands in
//! front of a cluster's, where there is Redis.

pub(crate) mod cassandra;
pub(crate) mod embedded;
pub(crate) mod recent;
mod rows;
#[cfg(test)]
pub(crate) mod suite;

use std::sync::Arc;

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, Shard, UserId};
use confab_proto::message::v1::{ChatKind, Event, MembershipKind, Role};

use crate::core::marks::Marks;
use crate::core::ownership::lease::{Incarnation, LeaseRow, Swapped};
use crate::core::ownership::map::ShardMap;
use crate::core::recovery::LogRow;
use crate::core::roster::membership;
use crate::core::sends::Sent;
use crate::core::user::{Block, UserRecord};
use crate::core::{Found, Lookup, RowRead};

/// Members of a chat at most.
pub(crate) const MEMBERS_MAX: usize = 1_000;

/// Seqs per bucket: fixed, and not by time, so that a bucket's size is bounded and a seq names its bucket.
/// (In tests few, so that they are filled.)
pub(crate) const BUCKET: u64 = if cfg!(test) { 12 } else { 4_096 };

/// Buckets that a key is looked for in, where they are kept by bucket: in a chat with more events within a day, a key is
/// remembered for the last so many of them.
const KEY_BUCKETS_MAX: usize = 64;

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// How long a send's key is kept at least, milliseconds.
const SENDS_KEPT_MS: i64 = 2 * DAY_MS;

/// Buckets whose keys are dropped at once: more than one, so that it catches up, and few, for all other chats wait meanwhile.
const DROPPED_MAX: usize = 2;

/// The day, since 1970, that a send's key is kept under.
pub(crate) fn day_of(at_ms: i64) -> u32 {
    u32::try_from(at_ms / DAY_MS).unwrap_or_default()
}

/// The days where a key is looked for, newest first: 24 to 48 hours back, whatever a chat's traffic.
pub(crate) fn send_days(at_ms: i64) -> [u32; 2] {
    let today = day_of(at_ms);
    [today, today.saturating_sub(1)]
}

/// Which bucket of a chat's log holds `seq`.
pub(crate) fn bucket_of(seq: Seq) -> u32 {
    u32::try_from(seq.0 / BUCKET).unwrap_or(u32::MAX)
}

/// One write. A commit's rows are stored all or none.
#[derive(Debug, Clone)]
pub(crate) enum Row {
    Event {
        chat: ChatId,
        seq: Seq,
        /// The recovery that it is written after; 0 where there is no other owner.
        epoch: i64,
        bytes: Bytes,
    },
    Send {
        chat: ChatId,
        key: SendKey,
        sent: Sent,
    },
    /// `roster`: where other owners may write, the members are kept with the chat; else as rows of their own.
    Chat {
        meta: Meta,
        roster: Option<Roster>,
    },
    /// For the lists of a user's chats; where there is no roster, of a chat's members, too.
    Member {
        chat: ChatId,
        kind: ChatKind,
        member: MemberRow,
    },
    /// Whose place in the chat is another's now; where members are rows of their own.
    DropMember {
        chat: ChatId,
        user: UserId,
    },
    Creation {
        key: CreationKey,
        made: Creation,
    },
    Marks {
        chat: ChatId,
        block: u32,
        marks: Vec<(UserId, Marks)>,
    },
    /// The keys of a bucket's sends, old enough to be forgotten.
    DropSends {
        chat: ChatId,
        bucket: u32,
    },
}

impl Row {
    /// Whose it is.
    pub(crate) fn chat(&self) -> ChatId {
        match self {
            Self::Event { chat, .. }
            | Self::Send { chat, .. }
            | Self::Member { chat, .. }
            | Self::DropMember { chat, .. }
            | Self::Marks { chat, .. }
            | Self::DropSends { chat, .. } => *chat,
            Self::Chat { meta, .. } => meta.chat,
            Self::Creation { made, .. } => made.chat,
        }
    }
}

/// A chat's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub chat: ChatId,
    pub kind: ChatKind,
    pub title: String,
    pub created_by: UserId,
    pub created_at_ms: i64,
    /// The buckets whose keys are kept, ascending.
    pub openings: Vec<Opening>,
    /// Up to here the log's events were too old, and say nothing any more.
    pub expired_upto: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    pub bucket: u32,
    pub at_ms: i64,
}

impl Meta {
    /// Changes what an event says of it.
    pub(crate) fn apply(&mut self, event: &Event) {
        if let Some(membership) = membership(event)
            && membership.kind() == MembershipKind::Renamed
        {
            self.title.clone_from(&membership.title);
        }
    }

    /// The buckets that were open since `since_ms`, newest first: a bucket is open until the next one is.
    fn buckets_since(&self, since_ms: i64) -> Vec<u32> {
        let recent = self.openings.iter().filter(|opening| opening.at_ms >= since_ms).count();
        self.openings.iter().rev().take(recent + 1).map(|opening| opening.bucket).collect()
    }

    /// Where the keys of a send's last 24 hours are, newest first, and at most [`KEY_BUCKETS_MAX`].
    pub(crate) fn buckets_of_keys(&self, at_ms: i64) -> Vec<u32> {
        let mut buckets = self.buckets_since(at_ms - DAY_MS);
        buckets.truncate(KEY_BUCKETS_MAX);
        buckets
    }

    /// Opens a bucket, and returns the oldest of those whose keys nobody needs any more.
    pub(crate) fn open_bucket(&mut self, opening: Opening) -> Vec<u32> {
        let since_ms = opening.at_ms - SENDS_KEPT_MS;
        let kept = self.buckets_since(since_ms).last().copied();
        let old = self.openings.iter().take_while(|opening| Some(opening.bucket) < kept).count();
        let dropped = self.openings.drain(..old.min(DROPPED_MAX)).map(|opening| opening.bucket).collect();
        self.openings.push(opening);
        dropped
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRow {
    pub user: UserId,
    /// Their place: see [`roster`](crate::core::roster).
    pub slot: u32,
    pub role: Role,
    pub joined_at_ms: i64,
    /// The first event that they see.
    pub joined_seq: Seq,
    /// The last event that they see, with which they have left; 0: they are there.
    pub left_seq: Seq,
}

impl MemberRow {
    pub(crate) fn is_in(&self) -> bool {
        self.left_seq == Seq::ZERO
    }

    /// As far as a log goes: who leaves with an event beyond it is still there.
    pub(crate) fn is_in_at(&self, head: Seq) -> bool {
        self.is_in() || self.left_seq > head
    }

    /// The last event that they see of a log up to `head`.
    pub(crate) fn sees_upto(&self, head: Seq) -> Seq {
        if self.is_in() { head } else { head.min(self.left_seq) }
    }
}

/// A chat's members as of an event of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roster {
    /// The last event that changed them, or the title; 0: the chat is still being made.
    pub seq: Seq,
    /// By their places, and those who have left, too.
    pub members: Arc<[MemberRow]>,
    pub certain: Certain,
}

/// What a chat's last recovery says of its log, stored before anything else of it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Certain {
    /// The recovery. Rows above `upto` count only if they are of it.
    pub epoch: i64,
    /// The log's end as the recovery found it: up to here each row is what it was, whichever recovery it says it is of.
    pub upto: Seq,
    /// Seqs beyond its head that the recovery's owner may have on their way to the store.
    pub window: u32,
    /// What owners before have had on their way lies no higher than this, whenever it comes.
    pub stale_upto: Seq,
}

/// A chat as it is loaded into memory.
#[derive(Debug, Clone)]
pub(crate) struct ChatRecord {
    pub meta: Meta,
    /// By their places, and those who have left, too.
    pub members: Vec<(MemberRow, Marks)>,
    /// Of the roster; 0 where there is none.
    pub roster_seq: Seq,
    pub certain: Certain,
    pub head: Seq,
    /// Countable events up to the head.
    pub count: u64,
    pub last_at_ms: i64,
    /// Of a direct chat: what its two say of each other.
    pub blocks: Vec<Block>,
}

/// The idempotency key of a send within its chat: sender, device, and `client_id` or else `message_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SendKey(Arc<[u8]>);

impl SendKey {
    pub(crate) fn new(user: UserId, device: &str, client_id: &str, message_id: MessageId) -> Self {
        let mut key = Vec::with_capacity(10 + device.len() + client_id.len().max(16));
        key.extend_from_slice(&user.0.to_be_bytes());
        key.push(u8::try_from(device.len()).unwrap_or(u8::MAX));
        key.extend_from_slice(device.as_bytes());
        if client_id.is_empty() {
            key.push(1);
            key.extend_from_slice(&message_id.0);
        } else {
            key.push(0);
            key.extend_from_slice(client_id.as_bytes());
        }
        Self(Arc::from(key))
    }

    /// Whose it is.
    pub(crate) fn user(&self) -> UserId {
        UserId(self.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What makes a creation idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CreationKey {
    /// A pair has one direct chat; the lower id first.
    Direct(UserId, UserId),
    /// The creator's own key for a group.
    Group { user: UserId, device: String, client_id: String },
}

impl CreationKey {
    /// Whose owner makes the chat: the chat is of the same shard.
    pub(crate) fn shard(&self) -> Shard {
        match self {
            Self::Direct(a, b) => Shard::of_pair(*a, *b),
            Self::Group { user, .. } => Shard::of_user(*user),
        }
    }

    /// As it is stored.
    fn encoded(&self) -> Vec<u8> {
        match self {
            Self::Direct(a, b) => [&[0][..], &a.0.to_be_bytes(), &b.0.to_be_bytes()].concat(),
            Self::Group { user, device, client_id } => {
                [&[1][..], &user.0.to_be_bytes(), device.as_bytes(), &[0], client_id.as_bytes()].concat()
            }
        }
    }
}

/// What a creation's key made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Creation {
    pub chat: ChatId,
    /// Of what was asked for: another body under the same key is a conflict.
    pub body_hash: u64,
}

/// One of a user's chats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChatOfUser {
    pub chat: ChatId,
    pub kind: ChatKind,
}

/// A chat among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EveryChat {
    /// Its place in the store's order.
    pub place: i64,
    pub chat: ChatId,
    pub expired_upto: Seq,
}

/// A part of a log. Bounds are exclusive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub chat: ChatId,
    pub after: Seq,
    pub before: Seq,
    pub limit: usize,
    /// It ends, too, with the event that goes over this.
    pub bytes: usize,
    /// From the upper end downwards.
    pub newest: bool,
}

impl Range {
    /// One event.
    pub(crate) fn of_row(read: &RowRead) -> Self {
        let RowRead { chat, seq, .. } = *read;
        Self { chat, after: seq.prev(), before: seq.next(), limit: 1, bytes: usize::MAX, newest: false }
    }
}

/// Why the store could not do it. The cause is in the log; nobody can act on it but the operator.
#[derive(Debug, Clone, thiserror::Error)]
#[error("storage: {0}")]
pub(crate) struct StoreError(pub Arc<str>);

/// Where chats are kept. Reads see only what is durable, and take what they need at one go: one hop, one round trip.
pub(crate) trait Store: Clone + Send + Sync + 'static {
    /// Stores the rows, all or none; it ends when a power cut can no longer undo them. Commits are stored in the order of
    /// the calls, whenever their futures are polled. Where there are several owners, neither holds beyond a partition:
    /// all or none of each, in any order. `stamp`: the writes' timestamp, where the newest one wins.
    fn commit(&self, rows: Vec<Row>, stamp: i64) -> impl Future<Output = Result<(), StoreError>> + Send + 'static;

    /// Chats for memory; `None`: there is no such chat. Where others may have written to it, without its head: see
    /// [`tails`](Self::tails).
    fn load(&self, chats: Vec<ChatId>) -> impl Future<Output = Result<Vec<Option<ChatRecord>>, StoreError>> + Send;

    /// The same without watermarks, where others may have written to it.
    fn load_again(
        &self,
        chats: Vec<ChatId>,
    ) -> impl Future<Output = Result<Vec<Option<ChatRecord>>, StoreError>> + Send {
        self.load(chats)
    }

    /// The newest rows of buckets of logs, in any order, and at most so many of each.
    fn tails(
        &self,
        asked: Vec<(ChatId, u32, usize)>,
    ) -> impl Future<Output = Result<Vec<Vec<LogRow>>, StoreError>> + Send;

    fn find_sends(&self, lookups: &[Lookup]) -> impl Future<Output = Result<Vec<Found>, StoreError>> + Send;

    fn events(&self, ranges: Vec<Range>) -> impl Future<Output = Result<Vec<Page>, StoreError>> + Send;

    /// A user's chats by ascending id, above `after`; those that they have left, too.
    fn chats_of(
        &self,
        user: UserId,
        after: ChatId,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ChatOfUser>, StoreError>> + Send;

    /// Which of `others` share a chat with `user`: one that neither has left.
    fn acquainted(
        &self,
        user: UserId,
        others: Vec<UserId>,
    ) -> impl Future<Output = Result<Vec<UserId>, StoreError>> + Send;

    /// By their places, and those who have left, too.
    fn members(&self, chat: ChatId) -> impl Future<Output = Result<Vec<MemberRow>, StoreError>> + Send;

    fn creation(&self, key: CreationKey) -> impl Future<Output = Result<Option<Creation>, StoreError>> + Send;

    /// Some chats, in an order of the store's, and up to where they are expired; `after`: where the page before ended. A full page
    /// may be followed by more.
    fn every_chat(
        &self,
        after: Option<i64>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<EveryChat>, StoreError>> + Send;

    /// What users have set, in their order; of version 0 where that is nothing.
    fn users(&self, users: Vec<UserId>) -> impl Future<Output = Result<Vec<UserRecord>, StoreError>> + Send;

    /// Stores what a user has set, if what is there is of the version before; `false`: it isn't. Of an error nobody knows what came.
    fn swap_user(&self, user: UserId, record: UserRecord) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Users whose erasure has begun and isn't done, and perhaps some more.
    fn erasing(&self) -> impl Future<Output = Result<Vec<UserId>, StoreError>> + Send;

    /// The highest chat id that was ever given out; 0: none.
    fn last_chat(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// Leases and the shard map, each changed by compare-and-set only. What came of one is [`Swapped::Unknown`] unless it is certain.
pub(crate) trait Ledger: Clone + Send + Sync + 'static {
    /// Stores the lease, if there is none and its counter is 1, or if the one there is not dead and has a lower counter.
    fn renew(&self, row: LeaseRow) -> impl Future<Output = Swapped<Option<LeaseRow>>> + Send;

    /// All leases; the map, if its version is above `known`.
    fn observe(
        &self,
        known: u64,
    ) -> impl Future<Output = Result<(Vec<LeaseRow>, Option<Arc<ShardMap>>), StoreError>> + Send;

    /// Marks a lease as dead, if its counter is still this. Whatever comes of it, the next observation shows.
    fn mark_dead(&self, incarnation: Incarnation, counter: u64) -> impl Future<Output = ()> + Send;

    /// Removes a lease's row, if it is marked as dead. Whatever comes of it, the next observation shows.
    fn purge(&self, incarnation: Incarnation) -> impl Future<Output = ()> + Send;

    /// Stores the map, if the version before it is there (no map: version 0). Refused with the one that is there.
    fn swap_map(&self, map: Arc<ShardMap>) -> impl Future<Output = Swapped<Arc<ShardMap>>> + Send;

    /// So many chat ids that nobody else gets, ascending from the one returned. Below 2^53.
    fn take_chat_ids(&self, count: u64) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// Events of a range, ascending whichever end it was read from; whether there is more at the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub events: Vec<Bytes>,
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(openings: &[(u32, i64)]) -> Meta {
        Meta {
            chat: ChatId(1),
            kind: ChatKind::Group,
            title: String::new(),
            created_by: UserId(1),
            created_at_ms: 0,
            openings: openings.iter().map(|(bucket, at_ms)| Opening { bucket: *bucket, at_ms: *at_ms }).collect(),
            expired_upto: Seq::ZERO,
        }
    }

    #[test]
    fn a_bucket_is_open_until_the_next_one_is() {
        let meta = meta(&[(0, 10), (1, 20), (2, 30)]);
        assert_eq!(meta.buckets_since(31), [2]);
        assert_eq!(meta.buckets_since(25), [2, 1]);
        assert_eq!(meta.buckets_since(5), [2, 1, 0]);
        assert!(self::meta(&[]).buckets_since(0).is_empty());
    }

    #[test]
    fn opening_a_bucket_drops_what_was_closed_before_the_keys_age() {
        let mut meta = meta(&[(0, 10), (1, 20), (2, 30)]);
        let dropped = meta.open_bucket(Opening { bucket: 3, at_ms: SENDS_KEPT_MS + 25 });
        assert_eq!(dropped, [0]);
        let kept: Vec<u32> = meta.openings.iter().map(|opening| opening.bucket).collect();
        assert_eq!(kept, [1, 2, 3]);
    }
}
