//! One edge session that sends: keeps what has no ack, in order, and begins again with the next generation where it was
//! refused, lost its stream, heard of another owner, or waited for too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use confab_ids::{ChatId, Seq, Shard};

use super::replicas::TRIED_MS;
use crate::core::body::Body;
use crate::core::ownership::map::ShardMap;

/// What was sent last is sent again after this, milliseconds.
const PATIENCE_MS: u64 = 8_000;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Messages without an ack: their numbers, and when each was there to be sent, milliseconds.
    pub unacked: VecDeque<(u64, u64)>,
    pub generation: u32,
    /// When all of it is to be sent again; nothing new goes out before.
    pub again_ms: Option<u64>,
    pub sent_ms: u64,
    pub next: u64,
    /// What has no ack, by its number.
    pub bodies: BTreeMap<u64, Body>,
    /// The sender's messages that can be changed.
    pub messages: BTreeSet<Seq>,
    /// Those whose deletion was sent.
    pub deleted: BTreeSet<Seq>,
}

impl Queue {
    /// Begins again, soon.
    pub(super) fn again(&mut self, at_ms: u64) {
        if self.again_ms.is_none() {
            self.generation += 1;
            self.again_ms = Some(at_ms);
        }
    }

    /// Nobody asks any more for what has waited for so long; the numbers of those.
    pub(super) fn give_up(&mut self, now_ms: u64) -> Vec<u64> {
        let is_over = |(_, since_ms): &mut (u64, u64)| now_ms >= *since_ms + TRIED_MS;
        std::iter::from_fn(|| self.unacked.pop_front_if(is_over)).map(|(n, _)| n).collect()
    }

    pub(super) fn overdue(&self, now_ms: u64) -> bool {
        !self.unacked.is_empty() && self.again_ms.is_none() && now_ms > self.sent_ms + PATIENCE_MS
    }
}

/// A stream to one life of one node: what goes in comes out in the same order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub number: u64,
    pub life: u64,
    /// Nothing sent later is there before this.
    pub busy_until_ms: u64,
}

#[derive(Default)]
pub(super) struct Sender {
    pub queues: BTreeMap<ChatId, Queue>,
    pub map: Arc<ShardMap>,
    pub streams: BTreeMap<usize, Stream>,
}

impl Sender {
    /// The address of the owner that it believes in.
    pub(super) fn owner(&self, chat: ChatId) -> Option<Arc<str>> {
        let owner = self.map.owner(Shard::of_chat(chat))?;
        self.map.addrs.get(&owner).cloned()
    }
}
