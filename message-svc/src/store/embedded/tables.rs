//! The keyspaces and their keys. Numbers in keys are big-endian, so that key order is their order.

use std::path::Path;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Event};
use fjall::config::FilterPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use prost::Message;

use super::OpenError;
use crate::core::Lookup;
use crate::core::marks::Marks;
use crate::core::owner::key_and_sent;
use crate::core::recovery::LogRow;
use crate::core::sends::Sent;
use crate::core::user::{UserRecord, blocks_between};
use crate::store::rows::{ChatOfUserValue, ChatValue, MarksValue, MemberValue, SendValue, UserValue};
use crate::store::{
    BUCKET, Certain, ChatOfUser, ChatRecord, Creation, CreationKey, EveryChat, MemberRow, Page, Range, Row, SendKey,
    StoreError, bucket_of, day_of, send_days,
};

/// Tables in memory before they are written out, bytes per keyspace: the two that every message goes to, and the others.
/// fjall frees a table that was written out under the lock that a commit needs: 90-180 ms for 64 MiB of messages, 30-40 ms
/// for 8 MiB (on a busy machine of two cores).
const LOG_MEMTABLE: u64 = 8 << 20;
const MEMTABLE: u64 = 4 << 20;

/// Events from this size on, bytes, are written out once, to a file of their own, and merging moves only where they are:
/// at 30,000 messages/s, commits 2 ms apart in both, that made the p99 of an ack 72 ms instead of 120.
const SEPARATED: u32 = 64;

/// Blocks of tables kept in memory, bytes.
const CACHE: u64 = 64 << 20;

pub(super) struct Tables {
    database: Database,
    /// (chat, bucket, seq) → event
    messages: Keyspace,
    /// (chat, day, key) → what it was accepted as
    sends: Keyspace,
    /// (chat) → meta
    chats: Keyspace,
    /// (chat, user) → member
    members: Keyspace,
    /// (user, chat) → kind
    chats_by_user: Keyspace,
    /// (pair) or (user, device, client id) → chat, hash of what was asked for
    creations: Keyspace,
    /// (chat, block) → watermarks
    watermarks: Keyspace,
    /// (user) → what they have set
    users: Keyspace,
    /// (user), while what is theirs is being erased
    erasures: Keyspace,
}

impl Tables {
    pub(super) fn open(folder: &Path) -> Result<Self, OpenError> {
        let database = Database::builder(folder).cache_size(CACHE).worker_threads(background_threads()).open()?;
        let keyspace = |name: &str, memtable| {
            database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable))
        };
        let log = || {
            // Compressing one event at a time gains little.
            let separation =
                KvSeparationOptions::default().separation_threshold(SEPARATED).compression(CompressionType::None);
            let options = KeyspaceCreateOptions::default().max_memtable_size(LOG_MEMTABLE);
            // It is read by ranges, where a filter is of no use.
            options.filter_policy(FilterPolicy::disabled()).with_kv_separation(Some(separation))
        };
        Ok(Self {
            messages: database.keyspace("messages", log)?,
            sends: keyspace("sends", LOG_MEMTABLE)?,
            chats: keyspace("chats", MEMTABLE)?,
            members: keyspace("chat_members", MEMTABLE)?,
            chats_by_user: keyspace("chats_by_user", MEMTABLE)?,
            creations: keyspace("creations", MEMTABLE)?,
            watermarks: keyspace("watermarks", MEMTABLE)?,
            users: keyspace("users", MEMTABLE)?,
            erasures: keyspace("erasures", MEMTABLE)?,
            database,
        })
    }

    pub(super) fn write<'a>(
        &self,
        rows: impl Iterator<Item = &'a Row>,
        users: impl Iterator<Item = &'a (UserId, UserRecord)>,
        mode: PersistMode,
    ) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(mode));
        for (user, record) in users {
            batch.insert(&self.users, pair(user.0, &[]), UserValue::of(record).encode_to_vec());
            match record.erasure {
                Some(erasure) if erasure.done_at_ms == 0 => batch.insert(&self.erasures, pair(user.0, &[]), []),
                Some(_) => batch.remove(&self.erasures, pair(user.0, &[])),
                None => {}
            }
        }
        for row in rows {
            match row {
                Row::Event { chat, seq, bytes, .. } => batch.insert(&self.messages, event_key(*chat, *seq), &bytes[..]),
                Row::Send { chat, key, sent } => {
                    let key = send_key(*chat, day_of(sent.created_at_ms), key);
                    batch.insert(&self.sends, key, SendValue::of(sent).encode_to_vec());
                }
                Row::Chat { meta, .. } => {
                    batch.insert(&self.chats, pair(meta.chat.0, &[]), ChatValue::of(meta).encode_to_vec())
                }
                Row::Member { chat, kind, member } => {
                    let key = pair(chat.0, &member.user.0.to_be_bytes());
                    batch.insert(&self.members, key, MemberValue::of(member).encode_to_vec());
                    let key = pair(member.user.0, &chat.0.to_be_bytes());
                    let value = ChatOfUserValue { kind: (*kind).into() };
                    batch.insert(&self.chats_by_user, key, value.encode_to_vec());
                }
                Row::DropMember { chat, user } => {
                    batch.remove(&self.members, pair(chat.0, &user.0.to_be_bytes()));
                }
                Row::Creation { key, made } => {
                    let value = pair(made.chat.0, &made.body_hash.to_be_bytes());
                    batch.insert(&self.creations, key.encoded(), value);
                }
                Row::Marks { chat, block, marks } => {
                    let key = pair(chat.0, &block.to_be_bytes());
                    batch.insert(&self.watermarks, key, MarksValue::of(marks).encode_to_vec());
                }
                Row::DropSends { chat, bucket } => {
                    for entry in self.messages.prefix(bucket_key(*chat, *bucket)) {
                        let event = Event::decode(&entry.value()?[..])?;
                        if let Some((key, _)) = key_and_sent(&event) {
                            batch.remove(&self.sends, send_key(*chat, day_of(event.created_at_ms), &key));
                        }
                    }
                }
            }
        }
        Ok(batch.commit()?)
    }

    pub(super) fn chat(&self, chat: ChatId) -> Result<Option<ChatRecord>, StoreError> {
        let Some(value) = self.chats.get(pair(chat.0, &[]))? else { return Ok(None) };
        let meta = ChatValue::decode(&value[..])?.meta(chat);
        let mut marks = std::collections::HashMap::new();
        for entry in self.watermarks.prefix(pair(chat.0, &[])) {
            marks.extend(MarksValue::decode(&entry.value()?[..])?.marks());
        }
        let members = self.members(chat)?;
        let blocks = match &members[..] {
            [one, other] if meta.kind == ChatKind::Direct => {
                let of = |member: &MemberRow| Ok::<_, StoreError>((member.user, self.user(member.user)?));
                let (one, other) = (of(one)?, of(other)?);
                blocks_between((one.0, &one.1), (other.0, &other.1))
            }
            _ => Vec::new(),
        };
        let last = match self.messages.prefix(pair(chat.0, &[])).next_back() {
            Some(entry) => Some(Event::decode(&entry.value()?[..])?),
            None => None,
        };
        Ok(Some(ChatRecord {
            last_at_ms: last.as_ref().map_or(meta.created_at_ms, |event| event.created_at_ms),
            roster_seq: Seq::ZERO,
            certain: Certain::default(),
            head: Seq(last.as_ref().map_or(0, |event| event.seq)),
            count: last.map_or(0, |event| event.count),
            meta,
            members: members.into_iter().map(|member| with_marks(member, &mut marks)).collect(),
            blocks,
        }))
    }

    /// By ascending id.
    pub(super) fn every_chat(&self, after: Option<i64>, limit: usize) -> Result<Vec<EveryChat>, StoreError> {
        let first = after.map_or(0, |place| place.cast_unsigned() + 1);
        let page = self.chats.range(pair(first, &[])..).take(limit);
        page.map(|entry| {
            let (key, value) = entry.into_inner()?;
            let chat = ChatId(self::first(&key)?);
            let expired_upto = ChatValue::decode(&value[..])?.meta(chat).expired_upto;
            Ok(EveryChat { place: chat.0.cast_signed(), chat, expired_upto })
        })
        .collect()
    }

    pub(super) fn user(&self, user: UserId) -> Result<UserRecord, StoreError> {
        let Some(value) = self.users.get(pair(user.0, &[]))? else { return Ok(UserRecord::default()) };
        Ok(UserValue::decode(&value[..])?.record())
    }

    pub(super) fn erasing(&self) -> Result<Vec<UserId>, StoreError> {
        self.erasures.iter().map(|entry| Ok(UserId(first(&entry.key()?)?))).collect()
    }

    pub(super) fn find_send(&self, lookup: &Lookup) -> Result<Option<Sent>, StoreError> {
        for day in send_days(lookup.at_ms) {
            if let Some(value) = self.sends.get(send_key(lookup.chat, day, &lookup.key))? {
                let sent = SendValue::decode(&value[..])?.sent();
                return sent.map(Some).ok_or_else(|| StoreError("a damaged row in `sends`".into()));
            }
        }
        Ok(None)
    }

    pub(super) fn events(&self, range: Range) -> Result<Page, StoreError> {
        if range.after.next() >= range.before {
            return Ok(Page::default());
        }
        let keys = event_key(range.chat, range.after.next())..event_key(range.chat, range.before);
        let mut entries = self.messages.range(keys);
        let mut page = Page::default();
        let mut bytes = 0;
        while let Some(entry) = if range.newest { entries.next_back() } else { entries.next() } {
            if page.events.len() == range.limit || bytes >= range.bytes {
                page.more = true;
                break;
            }
            let value = entry.value()?;
            bytes += value.len();
            page.events.push(Bytes::copy_from_slice(&value));
        }
        if range.newest {
            page.events.reverse();
        }
        Ok(page)
    }

    /// There is one owner only, whose rows are of one recovery.
    pub(super) fn tail(&self, chat: ChatId, bucket: u32, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        let first = u64::from(bucket) * BUCKET;
        let keys = event_key(chat, Seq(first))..event_key(chat, Seq(first + BUCKET));
        let newest = self.messages.range(keys).rev().take(limit);
        newest
            .map(|entry| {
                let bytes = Bytes::copy_from_slice(&entry.value()?);
                Ok(LogRow { seq: Seq(Event::decode(&bytes[..])?.seq), epoch: 0, bytes })
            })
            .collect()
    }

    pub(super) fn chats_of(&self, user: UserId, after: ChatId, limit: usize) -> Result<Vec<ChatOfUser>, StoreError> {
        let keys = pair(user.0, &(after.0 + 1).to_be_bytes())..pair(user.0 + 1, &[]);
        let mut chats = Vec::new();
        for entry in self.chats_by_user.range(keys).take(limit) {
            let (key, value) = entry.into_inner()?;
            let kind = ChatOfUserValue::decode(&value[..])?.kind();
            chats.push(ChatOfUser { chat: ChatId(second(&key)?), kind });
        }
        Ok(chats)
    }

    pub(super) fn acquainted(&self, user: UserId, others: Vec<UserId>) -> Result<Vec<UserId>, StoreError> {
        let mut chats = Vec::new();
        for ChatOfUser { chat, .. } in self.chats_of(user, ChatId(0), usize::MAX)? {
            if self.is_in(chat, user)? {
                chats.push(chat);
            }
        }
        let mut found = Vec::new();
        for other in others {
            let mut shares = false;
            for chat in &chats {
                shares = shares || self.is_in(*chat, other)?;
            }
            if shares {
                found.push(other);
            }
        }
        Ok(found)
    }

    fn is_in(&self, chat: ChatId, user: UserId) -> Result<bool, StoreError> {
        let Some(value) = self.members.get(pair(chat.0, &user.0.to_be_bytes()))? else { return Ok(false) };
        Ok(MemberValue::decode(&value[..])?.member(user).is_in())
    }

    pub(super) fn members(&self, chat: ChatId) -> Result<Vec<MemberRow>, StoreError> {
        let mut members: Vec<MemberRow> = Vec::new();
        for entry in self.members.prefix(pair(chat.0, &[])) {
            let (key, value) = entry.into_inner()?;
            members.push(MemberValue::decode(&value[..])?.member(UserId(second(&key)?)));
        }
        members.sort_unstable_by_key(|member| member.slot);
        Ok(members)
    }

    pub(super) fn creation(&self, key: &CreationKey) -> Result<Option<Creation>, StoreError> {
        let Some(value) = self.creations.get(key.encoded())? else { return Ok(None) };
        Ok(Some(Creation { chat: ChatId(first(&value)?), body_hash: second(&value)? }))
    }

    pub(super) fn last_chat(&self) -> Result<u64, StoreError> {
        self.chats.last_key_value().map_or(Ok(0), |entry| first(&entry.key()?))
    }
}

/// Threads that write tables out and merge them: half of the cores are for clients. Two would be worse than one: of
/// several, fjall 3.1 keeps one free to write tables out, which spins while there is only merging to do.
fn background_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| if cores.get() < 6 { 1 } else { cores.get() / 2 })
}

fn with_marks(member: MemberRow, marks: &mut std::collections::HashMap<UserId, Marks>) -> (MemberRow, Marks) {
    let marks = marks.remove(&member.user).unwrap_or_default();
    (member, marks)
}

/// A number and what comes behind it.
fn pair(number: u64, rest: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), rest].concat()
}

fn event_key(chat: ChatId, seq: Seq) -> Vec<u8> {
    [&bucket_key(chat, bucket_of(seq))[..], &seq.0.to_be_bytes()].concat()
}

fn bucket_key(chat: ChatId, bucket: u32) -> Vec<u8> {
    pair(chat.0, &bucket.to_be_bytes())
}

fn send_key(chat: ChatId, day: u32, key: &SendKey) -> Vec<u8> {
    [&chat.0.to_be_bytes()[..], &day.to_be_bytes(), key.as_bytes()].concat()
}

fn first(key: &[u8]) -> Result<u64, StoreError> {
    number_at(key, 0)
}

fn second(key: &[u8]) -> Result<u64, StoreError> {
    number_at(key, 8)
}

fn number_at(key: &[u8], at: usize) -> Result<u64, StoreError> {
    let bytes = key.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| StoreError("a key that is too short".into()))
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string().into())
    }
}

impl From<prost::DecodeError> for StoreError {
    fn from(error: prost::DecodeError) -> Self {
        Self(format!("a damaged row: {error}").into())
    }
}
