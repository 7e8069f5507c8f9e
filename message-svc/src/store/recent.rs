//! The newest events of each chat in Redis, in front of a cluster's store: who connects again reads mostly those.
//!
//! Redis decides nothing. A range is answered from it only by events without a hole, up to the head that the owner has
//! told, and kept under the epoch that it has told; whatever lacks is read from the store. An event below a head that an owner
//! told is in the log for good, so that it doesn't matter who writes it when, nor what is lost of it. Where a message was edited
//! or deleted, the owner takes what is kept of it away and writes it anew; two versions at once are none, and a lost write leaves
//! the one before for at most an hour, with the event that changed it right behind it. `docs/design/0005-redis.md` has all of it.
//!
//! ```text
//! range.rs   which events a range needs, and whether these are they; pure
//! ```

mod range;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::Event;
use confab_redis::{Behind, Command, Redis, Reply, Weighed};
use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};
use prost::Message as _;

use self::range::Wanted;
use super::{Page, Range, Store, StoreError};
use crate::core::ChatView;

/// Events per chat.
const KEPT: u64 = 50;
/// From the last write on. A client that was away for longer mostly misses more than [`KEPT`] in a chat that is worth
/// keeping, and a chat at rest costs nothing after it.
const LIFE_SECONDS: i64 = 3_600;
/// How long Redis may take: less than a read of the store that it saves takes when it is busy.
const TIME: Duration = Duration::from_millis(50);
/// What an event costs in the queue beside its bytes.
const OVERHEAD: usize = 128;

/// An event that is below its chat's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub chat: ChatId,
    pub epoch: i64,
    pub seq: Seq,
    pub bytes: Bytes,
    /// What was kept at this seq goes first.
    pub replaces: bool,
}

impl Kept {
    /// Events that are others now, in the place of what was kept of them.
    pub(crate) fn in_place(chat: ChatId, epoch: i64, changed: Vec<(Seq, Bytes)>) -> impl Iterator<Item = Self> {
        changed.into_iter().map(move |(seq, bytes)| Self { chat, epoch, seq, bytes, replaces: true })
    }
}

/// What an owner has told of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsOf {
    /// 0: not known; then nothing is kept either.
    pub epoch: i64,
    pub head: Seq,
}

impl AsOf {
    pub(crate) fn of(view: &ChatView) -> Self {
        Self { epoch: view.epoch, head: view.head }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub range: Range,
    pub as_of: AsOf,
}

/// Without Redis it is the store alone, and keeps nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(Option<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    redis: Redis,
    behind: Behind<Kept>,
    reads: Counter<u64>,
    #[cfg(test)]
    hits: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Weighed for Kept {
    fn weight(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

impl Recent {
    pub(crate) fn start(redis: Redis) -> Self {
        let reads = global::meter("confab_message_svc")
            .u64_counter("confab.recent.reads")
            .with_description("Parts of logs that were read, by where from: hit is Redis, all others the store")
            .build();
        Self(Some(Inner {
            behind: Behind::start(redis.clone(), "recent", writes),
            redis,
            reads,
            #[cfg(test)]
            hits: Default::default(),
        }))
    }

    /// Never waits. What is not kept after all is read from the store.
    pub(crate) fn keep(&self, events: Vec<Kept>) {
        if let Some(kept) = &self.0 {
            events.into_iter().for_each(|event| kept.behind.push(event));
        }
    }

    /// [`Store::events`], from wherever they are.
    pub(crate) async fn events(&self, store: &impl Store, asked: Vec<Asked>) -> Result<Vec<Page>, StoreError> {
        let Some(kept) = &self.0 else {
            return store.events(asked.into_iter().map(|asked| asked.range).collect()).await;
        };
        let mut pages = kept.pages(&asked).await;
        let missed: Vec<Asked> =
            asked.iter().zip(&pages).filter(|(_, page)| page.is_none()).map(|(asked, _)| *asked).collect();
        if !missed.is_empty() {
            let read = store.events(missed.iter().map(|asked| asked.range).collect()).await?;
            missed.iter().zip(&read).for_each(|(asked, page)| self.keep(of_page(asked, page)));
            let places = pages.iter_mut().filter(|page| page.is_none());
            places.zip(read).for_each(|(place, page)| *place = Some(page));
        }
        Ok(pages.into_iter().map(Option::unwrap_or_default).collect())
    }
}

impl Inner {
    /// Those that Redis has, whole.
    async fn pages(&self, asked: &[Asked]) -> Vec<Option<Page>> {
        let wanted: Vec<Option<Wanted>> = asked.iter().map(Wanted::of).collect();
        let reads = asked.iter().zip(&wanted).filter_map(|(asked, wanted)| Some(read(asked, wanted.as_ref()?)));
        let reads: Vec<Command> = reads.collect();
        let count = reads.len();
        let mut replies = match self.redis.ask(reads, TIME).await {
            Ok(replies) => replies.into_iter(),
            Err(_) => {
                self.count("failed", count);
                self.count("beyond", asked.len() - count);
                return vec![None; asked.len()];
            }
        };
        let answered = asked.iter().zip(&wanted).map(|(asked, wanted)| {
            let wanted = wanted.as_ref()?;
            wanted.answer(&asked.range, rows(replies.next()?))
        });
        let mut pages = Vec::with_capacity(asked.len());
        pages.extend(answered);
        let hits = pages.iter().flatten().count();
        #[cfg(test)]
        self.hits.fetch_add(hits, std::sync::atomic::Ordering::Relaxed);
        self.count("hit", hits);
        self.count("miss", count - hits);
        self.count("beyond", asked.len() - count);
        pages
    }

    fn count(&self, outcome: &'static str, parts: usize) {
        if parts > 0 {
            self.reads.add(parts.try_into().unwrap_or(u64::MAX), &[KeyValue::new("outcome", outcome)]);
        }
    }
}

/// In a cluster, all of a chat is at one node.
fn key(chat: ChatId, epoch: i64) -> String {
    format!("recent:{{{}}}:{epoch}", chat.0)
}

/// The wanted events with their seqs, in the range's direction.
fn read(asked: &Asked, wanted: &Wanted) -> Command {
    let (first, last) = (wanted.first.0.to_string(), wanted.last.0.to_string());
    let key = key(asked.range.chat, asked.as_of.epoch);
    let command = match asked.range.newest {
        true => Command::new("ZREVRANGEBYSCORE", key).text(last).text(first),
        false => Command::new("ZRANGEBYSCORE", key).text(first).text(last),
    };
    command.text("WITHSCORES").text("LIMIT").number(0).number(i64::try_from(wanted.count).unwrap_or(i64::MAX))
}

/// Events and their seqs, as they alternate in the reply. What can't be read ends it: what lacks is a hole.
fn rows(reply: Reply) -> Vec<(Seq, Bytes)> {
    let mut items = reply.into_list().into_iter();
    std::iter::from_fn(|| {
        let bytes = items.next()?.into_bytes()?;
        Some((Seq(items.next()?.parsed()?), bytes))
    })
    .collect()
}

/// What the store has told of a range, to be kept for the next one who asks. Each event's own seq counts.
fn of_page(asked: &Asked, page: &Page) -> Vec<Kept> {
    let Asked { range, as_of: AsOf { epoch, head } } = *asked;
    let lowest = Seq(head.0.saturating_sub(KEPT));
    let events = page.events.iter().filter_map(|bytes| {
        let seq = Seq(Event::decode(&bytes[..]).ok()?.seq);
        let counts = epoch != 0 && seq > lowest && seq <= head;
        counts.then(|| Kept { chat: range.chat, epoch, seq, bytes: bytes.clone(), replaces: false })
    });
    events.collect()
}

/// One command per chat for all its events, then what is too many and too old goes.
fn writes(events: Vec<Kept>) -> Vec<Command> {
    let mut by_key: BTreeMap<(ChatId, i64), Vec<Kept>> = BTreeMap::new();
    for event in events {
        by_key.entry((event.chat, event.epoch)).or_default().push(event);
    }
    let commands = by_key.into_iter().flat_map(|((chat, epoch), mut events)| {
        let key = key(chat, epoch);
        // Of one seq the last one counts.
        let replaced: BTreeSet<Seq> = events.iter().filter(|event| event.replaces).map(|event| event.seq).collect();
        let last: BTreeMap<Seq, usize> = events.iter().enumerate().map(|(at, event)| (event.seq, at)).collect();
        let mut at = 0..;
        events.retain(|event| at.next() == last.get(&event.seq).copied());
        let remove = |seq: Seq| {
            let seq = seq.0.cast_signed();
            Command::new("ZREMRANGEBYSCORE", key.clone()).number(seq).number(seq)
        };
        let mut commands: Vec<Command> = replaced.into_iter().map(remove).collect();
        let add = events.into_iter().fold(Command::new("ZADD", key.clone()), |add, event| {
            add.number(event.seq.0.cast_signed()).bytes(event.bytes)
        });
        let trim = Command::new("ZREMRANGEBYRANK", key.clone()).number(0).number(-1 - KEPT.cast_signed());
        commands.extend([add, trim, Command::new("EXPIRE", key).number(LIFE_SECONDS)]);
        commands
    });
    commands.collect()
}
