//! Three replicas as Cassandra keeps them: of two writes to a row the one with the newer timestamp stays, whenever it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher};

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use xxhash_rust::xxh3::xxh3_64;

use crate::core::ownership::rules::{self, Rule};
use crate::core::recovery::LogRow;
use crate::core::sends::Sent;
use crate::store::{Creation, CreationKey, Meta, Roster, Row, SendKey, bucket_of};

/// Sends are forgotten so long after they were written, milliseconds: the store's time to live, but shorter than some schedules.
const SENDS_KEPT_MS: u64 = 160_000;

/// And nobody tries a send again after this; the rest is for copies that an owner which stands still has yet to read.
pub(super) const TRIED_MS: u64 = SENDS_KEPT_MS / 4;

/// Without the rule they are forgotten while they are still tried.
fn sends_kept_ms() -> u64 {
    if rules::holds(Rule::SendsOutliveTries) { SENDS_KEPT_MS } else { TRIED_MS / 20 }
}

/// What is written whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Partition {
    Log(ChatId, u32),
    Chat(ChatId),
    Marks(ChatId),
    List(UserId),
    Creation(u64),
}

#[derive(Clone, Debug)]
enum Cell {
    Event {
        epoch: i64,
        bytes: Bytes,
    },
    Send {
        sent: Sent,
        at_ms: u64,
    },
    Chat(Meta, Roster),
    /// Whether they are in the chat.
    Listed(bool),
    Creation(Creation),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Event(Seq),
    Send(SendKey),
    Chat,
    Listed(ChatId),
    Creation,
}

impl Key {
    /// Of an event.
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::Event(seq) => Some(*seq),
            _ => None,
        }
    }
}

/// One mutation: the rows of one partition.
#[derive(Clone, Debug)]
pub(super) struct Mutation {
    partition: Partition,
    stamp: i64,
    cells: Vec<(Key, Cell)>,
}

impl Mutation {
    pub(super) fn is_of_sends(&self) -> bool {
        !self.cells.is_empty() && self.cells.iter().all(|(key, _)| matches!(key, Key::Send(_)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Replica(BTreeMap<Partition, BTreeMap<Key, (i64, Cell)>>);

impl Replica {
    /// What is stored, where, and since which write.
    pub(super) fn digest(&self, hasher: &mut impl Hasher) {
        for (partition, rows) in &self.0 {
            partition.hash(hasher);
            for (stamp, cell) in rows.values() {
                hasher.write_i64(*stamp);
                if let Cell::Event { bytes, .. } = cell {
                    hasher.write(bytes);
                }
            }
        }
    }

    pub(super) fn apply(&mut self, mutation: &Mutation) {
        let rows = self.0.entry(mutation.partition).or_default();
        for (key, cell) in &mutation.cells {
            match rows.get(key) {
                Some((stamp, _)) if *stamp >= mutation.stamp => {}
                _ => drop(rows.insert(key.clone(), (mutation.stamp, cell.clone()))),
            }
        }
    }
}

/// The mutations of a write.
pub(super) fn mutations(rows: &[Row], stamp: i64, at_ms: u64) -> Vec<Mutation> {
    let mut by_partition: BTreeMap<(Partition, usize), Vec<(Key, Cell)>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let (partition, cell) = match row {
            Row::Event { chat, seq, epoch, bytes } => {
                let bucket = bucket_of(*seq);
                let cell = Cell::Event { epoch: *epoch, bytes: bytes.clone() };
                (Partition::Log(*chat, bucket), Some((Key::Event(*seq), cell)))
            }
            Row::Send { chat, key, sent } => {
                let bucket = bucket_of(sent.seq);
                let cell = Cell::Send { sent: *sent, at_ms };
                (Partition::Log(*chat, bucket), Some((Key::Send(key.clone()), cell)))
            }
            Row::Chat { meta, roster } => {
                let roster = roster.clone().expect("there are other owners");
                (Partition::Chat(meta.chat), Some((Key::Chat, Cell::Chat(meta.clone(), roster))))
            }
            Row::Member { chat, member, .. } => {
                (Partition::List(member.user), Some((Key::Listed(*chat), Cell::Listed(member.is_in()))))
            }
            Row::Creation { key, made } => (creation(key), Some((Key::Creation, Cell::Creation(*made)))),
            Row::Marks { chat, .. } => (Partition::Marks(*chat), None),
            other => panic!("not simulated: {other:?}"),
        };
        let apart = if rules::holds(Rule::SendsWithTheMessage) { 0 } else { at };
        by_partition.entry((partition, apart)).or_default().extend(cell);
    }
    by_partition.into_iter().map(|((partition, _), cells)| Mutation { partition, stamp, cells }).collect()
}

/// What some replicas have of a partition, merged; and written back to them, as a blocking read repair does.
fn read(
    replicas: &mut [Replica; 3],
    which: &[usize],
    partition: Partition,
    of: impl Fn(&Key) -> bool,
) -> BTreeMap<Key, Cell> {
    let mut merged: BTreeMap<Key, (i64, Cell)> = BTreeMap::new();
    for at in which {
        let rows = replicas[*at].0.get(&partition).into_iter().flatten();
        for (key, (stamp, cell)) in rows.filter(|(key, _)| of(key)) {
            match merged.get(key) {
                Some((known, _)) if known >= stamp => {}
                _ => drop(merged.insert(key.clone(), (*stamp, cell.clone()))),
            }
        }
    }
    if which.len() > 1 {
        for (key, (stamp, cell)) in &merged {
            let repair = Mutation { partition, stamp: *stamp, cells: vec![(key.clone(), cell.clone())] };
            which.iter().for_each(|at| replicas[*at].apply(&repair));
        }
    }
    merged.into_iter().map(|(key, (_, cell))| (key, cell)).collect()
}

pub(super) fn read_chat(replicas: &mut [Replica; 3], which: &[usize], chat: ChatId) -> Option<(Meta, Roster)> {
    let found = read(replicas, which, Partition::Chat(chat), |_| true);
    found.into_values().find_map(|cell| match cell {
        Cell::Chat(meta, roster) => Some((meta, roster)),
        _ => None,
    })
}

fn creation(key: &CreationKey) -> Partition {
    Partition::Creation(xxh3_64(format!("{key:?}").as_bytes()))
}

pub(super) fn read_creation(replicas: &mut [Replica; 3], which: &[usize], key: &CreationKey) -> Option<Creation> {
    let found = read(replicas, which, creation(key), |_| true);
    found.into_values().find_map(|cell| match cell {
        Cell::Creation(made) => Some(made),
        _ => None,
    })
}

/// Whether a user is in a chat, by the list of their chats; `None`: it is not in the list.
pub(super) fn lists(replicas: &mut [Replica; 3], which: &[usize], user: UserId, chat: ChatId) -> Option<bool> {
    let found = read(replicas, which, Partition::List(user), |key| *key == Key::Listed(chat));
    found.into_values().find_map(|cell| match cell {
        Cell::Listed(is_in) => Some(is_in),
        _ => None,
    })
}

/// The newest rows of a bucket. No others are repaired.
pub(super) fn read_tail(
    replicas: &mut [Replica; 3],
    which: &[usize],
    chat: ChatId,
    bucket: u32,
    limit: usize,
) -> Vec<LogRow> {
    let partition = Partition::Log(chat, bucket);
    let stored = which.iter().filter_map(|at| replicas[*at].0.get(&partition));
    let seqs: BTreeSet<Seq> = stored.flat_map(BTreeMap::keys).filter_map(Key::seq).collect();
    let lowest = seqs.iter().rev().take(limit).next_back().copied();
    let is_newest = |key: &Key| key.seq().zip(lowest).is_some_and(|(seq, lowest)| seq >= lowest);
    let found = read(replicas, which, partition, is_newest);
    let row = |(key, cell): (Key, Cell)| match (key, cell) {
        (Key::Event(seq), Cell::Event { epoch, bytes }) => Some(LogRow { seq, epoch, bytes }),
        _ => None,
    };
    found.into_iter().filter_map(row).collect()
}

/// One row of a log.
pub(super) fn read_row(replicas: &mut [Replica; 3], which: &[usize], chat: ChatId, seq: Seq) -> Option<Bytes> {
    let rows = read(replicas, which, Partition::Log(chat, bucket_of(seq)), |at| *at == Key::Event(seq));
    rows.into_values().find_map(|cell| match cell {
        Cell::Event { bytes, .. } => Some(bytes),
        _ => None,
    })
}

/// A sender's keys in some buckets, with the log's rows that they name.
pub(super) fn read_sends(
    replicas: &mut [Replica; 3],
    which: &[usize],
    of: (ChatId, &[u32], &SendKey),
    now_ms: u64,
) -> BTreeMap<SendKey, Vec<(Sent, Option<Bytes>)>> {
    let (chat, buckets, key) = of;
    let mut found: BTreeMap<SendKey, Vec<_>> = BTreeMap::new();
    for bucket in buckets {
        let by_sender = |at: &Key| matches!(at, Key::Send(send) if send.user() == key.user());
        let sends = read(replicas, which, Partition::Log(chat, *bucket), by_sender);
        for (at, cell) in sends {
            let (Key::Send(key), Cell::Send { sent, at_ms }) = (at, cell) else { continue };
            if at_ms + sends_kept_ms() < now_ms {
                continue;
            }
            let row = read_row(replicas, which, chat, sent.seq);
            found.entry(key).or_default().push((sent, row));
        }
    }
    found
}
