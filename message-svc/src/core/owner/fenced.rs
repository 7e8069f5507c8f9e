//! Among other owners: chats are recovered at their first touch, and dropped when their shard goes.

use std::sync::Arc;

use confab_ids::{ChatId, Seq, Shard};

use super::durable::Commit;
use super::{Fence, Owner, Slot};
use crate::core::chat::{Answer, Chat};
use crate::core::maps::{HashMap, HashSet};
use crate::core::ownership::Ownership;
use crate::core::ownership::lease::{Incarnation, LeaseRow, Swapped};
use crate::core::ownership::map::ShardMap;
use crate::core::ownership::rules::{self, Rule};
use crate::core::recovery::{LogRow, Recovery};
use crate::core::{Effects, Load, Now, Origin, Outcome, Payload, TailRead};
use crate::error::{ChatError, SendError};
use crate::store::{ChatRecord, Opening, bucket_of};

/// What came of an [`Ask`](crate::core::ownership::Ask).
#[derive(Debug)]
pub(crate) enum Answered {
    Renewed(Swapped<Option<LeaseRow>>),
    Observed {
        leases: Vec<LeaseRow>,
        map: Option<Arc<ShardMap>>,
    },
    /// It could not be read.
    Unobserved,
    /// Whatever came of it: the next observation shows.
    MarkedDead,
    Purged,
    Swapped(Swapped<Arc<ShardMap>>),
}

impl Owner {
    /// Its incarnation is dead: it needs a new one.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(&self.fence, Fence::Among(ownership) if ownership.is_dead())
    }

    /// Goes on under a new name. What it had in memory was dropped when the old one died.
    pub(crate) fn reborn(&mut self, incarnation: Incarnation, addr: String) {
        self.fence = Fence::Among(Box::new(Ownership::new(incarnation, addr)));
    }

    /// Begins to give its shards away.
    pub(crate) fn drain(&mut self) {
        if let Fence::Among(ownership) = &mut self.fence {
            ownership.drain();
        }
    }

    /// There is nobody whom it could give its shards to.
    pub(crate) fn is_alone(&self) -> bool {
        matches!(&self.fence, Fence::Among(ownership) if ownership.is_alone())
    }

    /// Its incarnation and its lease's counter.
    pub(crate) fn lease(&self) -> Option<(Incarnation, u64)> {
        match &self.fence {
            Fence::Sole => None,
            Fence::Among(ownership) => Some((ownership.incarnation(), ownership.counter())),
        }
    }

    /// Whether it may take commands, of its shards.
    pub(crate) fn holds(&self, now: Now) -> bool {
        self.fence.holds(now)
    }

    /// It has no shard any more, and gets none.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(&self.fence, Fence::Among(ownership) if ownership.is_drained())
    }

    /// What came of an ask of an incarnation: of one that is dead it is of no use any more.
    pub(crate) fn answered(&mut self, now: Now, of: Incarnation, answered: Answered, fx: &mut Effects) {
        let Fence::Among(ownership) = &mut self.fence else { return };
        if ownership.incarnation() != of {
            return;
        }
        match answered {
            Answered::Renewed(outcome) => ownership.renewed(now, outcome),
            Answered::Observed { leases, map } => ownership.observed(now, leases, map),
            Answered::Unobserved => ownership.unobserved(now),
            Answered::MarkedDead => ownership.marked_dead(now),
            Answered::Purged => ownership.purged(),
            Answered::Swapped(outcome) => ownership.swapped(outcome),
        }
        self.tick_fence(now, fx);
    }

    /// Another instance says that the shard map has this version by now.
    pub(crate) fn noticed(&mut self, now: Now, version: u64, fx: &mut Effects) {
        let Fence::Among(ownership) = &mut self.fence else { return };
        ownership.noticed(version);
        self.tick_fence(now, fx);
    }

    pub(super) fn tick_fence(&mut self, now: Now, fx: &mut Effects) {
        let Fence::Among(ownership) = &mut self.fence else { return };
        let me = ownership.incarnation();
        fx.asks.extend(ownership.tick(now).into_iter().map(|ask| (me, ask)));
        let changes = ownership.take_changes();
        if !changes.lost.is_empty() {
            let lost: HashSet<Shard> = changes.lost.into_iter().collect();
            let chats = self.slots.keys().filter(|chat| lost.contains(&Shard::of_chat(**chat)));
            self.drop_chats(&chats.copied().collect(), fx);
            self.give_up_makings(&lost, fx);
        }
        if !changes.stopped.is_empty() {
            self.stop(changes.stopped, fx);
        }
        fx.map = changes.map.or(fx.map.take());
        fx.gainers.extend(changes.gainers);
        let unwritten = std::mem::take(&mut self.unwritten);
        self.events_stored(now, unwritten.into_iter().collect(), fx);
        for chat in std::mem::take(&mut self.unconfirmed) {
            self.advance(now, chat, fx);
        }
        fx.cut.extend(self.refusals.overfull());
        self.report_quiet();
    }

    /// Takes nothing more for these shards; what is under way goes on.
    fn stop(&mut self, shards: Vec<Shard>, fx: &mut Effects) {
        let shards: HashSet<Shard> = shards.into_iter().collect();
        let stopped = |chat: &&ChatId| shards.contains(&Shard::of_chat(**chat));
        let chats: Vec<ChatId> = self.slots.keys().filter(stopped).copied().collect();
        let mut loading = HashSet::default();
        for id in chats {
            match self.slots.get_mut(&id) {
                Some(Slot::Hot { waiting, .. }) => {
                    let waiting = std::mem::take(waiting);
                    self.waiting -= waiting.len();
                    waiting.into_iter().for_each(|(origin, command)| self.turn_away(id, origin, &command, fx));
                }
                _ => drop(loading.insert(id)),
            }
        }
        self.drop_chats(&loading, fx);
        self.give_up_makings(&shards, fx);
        self.write_marks(fx);
    }

    /// Says which of the stopped shards have nothing under way any more.
    fn report_quiet(&mut self) {
        let Fence::Among(ownership) = &mut self.fence else { return };
        if !ownership.is_stopping() {
            return;
        }
        let busy = self.slots.iter().filter_map(|(id, slot)| match slot {
            Slot::Hot { chat, .. } if !chat.is_written() => Some(Shard::of_chat(*id)),
            _ => None,
        });
        ownership.quiet(&busy.collect());
    }

    /// Forgets chats with all that is under way for them. Their senders are told; whether a write is stored, the next owner
    /// finds out.
    pub(super) fn drop_chats(&mut self, chats: &HashSet<ChatId>, fx: &mut Effects) {
        for id in chats {
            self.unconfirmed.remove(id);
            self.dirty.remove(id);
            let waiting = match self.slots.remove(id) {
                Some(Slot::Hot { chat, waiting }) => {
                    self.drop_pending(*id, *chat, fx);
                    waiting
                }
                Some(Slot::Loading { waiting, .. }) => waiting,
                None => continue,
            };
            self.waiting -= waiting.len();
            for (origin, command) in waiting {
                self.turn_away(*id, origin, &command, fx);
            }
        }
        let dropped: HashMap<u64, Commit> =
            self.commits.extract_if(|_, commit| commit.chat().is_some_and(|chat| chats.contains(&chat))).collect();
        fx.abandoned.extend(dropped.into_keys());
        self.gathered.retain(|(chat, _)| !chats.contains(chat));
        self.unwritten.retain(|(chat, _)| !chats.contains(chat));
        fx.rows.retain(|row| !chats.contains(&row.chat()));
    }

    fn drop_pending(&mut self, id: ChatId, mut chat: Chat, fx: &mut Effects) {
        self.pending -= chat.pending.len();
        for (origin, answer) in chat.pending.drain(..).flat_map(|pending| pending.answers) {
            self.refuse_answer(id, origin, &answer, fx);
        }
    }

    fn refuse_answer(&mut self, chat: ChatId, origin: Origin, answer: &Answer, fx: &mut Effects) {
        let outcome = match answer {
            Answer::Accepted(_) => {
                self.refusals.refused_send(chat, origin);
                Outcome::SendRefused(SendError::NotOwner)
            }
            Answer::Now(_) => Outcome::ChatRefused(ChatError::NotOwner),
        };
        fx.replies.push((origin, outcome));
    }

    /// Nothing comes from a stream any more.
    pub(crate) fn closed(&mut self, stream: u64) {
        self.refusals.closed(stream);
    }

    pub(super) fn recover(&mut self, now: Now, load: Load, record: ChatRecord, fx: &mut Effects) {
        let Some(Slot::Loading { recovery, .. }) = self.slots.get_mut(&load.chat) else { return };
        let record = match recovery {
            Some(begun) => {
                let record = begun.with_marks(record);
                if begun.confirmed(&record) {
                    begun.record = record;
                    return self.cut(now, load, fx);
                }
                record
            }
            None => record,
        };
        let begun = recovery.insert(Box::new(Recovery::new(record)));
        if let Some((bucket, limit)) = begun.next() {
            fx.tails.push(TailRead { load, bucket, limit });
        }
    }

    /// The end of a chat's log was read.
    pub(crate) fn tail_read(&mut self, now: Now, read: TailRead, rows: Vec<LogRow>, fx: &mut Effects) {
        let (load, chat) = (read.load, read.load.chat);
        let Some(Slot::Loading { recovery: Some(recovery), load: asked, .. }) = self.slots.get_mut(&chat) else {
            return;
        };
        if *asked != load {
            return;
        }
        recovery.read(rows);
        if let Some((bucket, limit)) = recovery.next() {
            return fx.tails.push(TailRead { bucket, limit, ..read });
        }
        if rules::holds(Rule::ReadChatAgain) {
            // What it says of the log must be no older than the rows are: an owner before may have written both meanwhile.
            return fx.loads_again.push(load);
        }
        self.cut(now, load, fx);
    }

    /// All is read: keeps what is certain of the log.
    fn cut(&mut self, now: Now, load: Load, fx: &mut Effects) {
        let chat = load.chat;
        let Some(Slot::Loading { recovery: Some(recovery), .. }) = self.slots.get_mut(&chat) else { return };
        let Some(epoch) = self.fence.stamp(now) else {
            return self.drop_chats(&HashSet::from_iter([chat]), fx);
        };
        if recovery.cut(chat, epoch, self.limits.window) {
            self.go_on_recovering(now, chat, fx);
        } else if recovery.is_unmade() {
            self.absent(now, chat, fx);
        } else {
            tracing::error!(chat = chat.0, "a log without its first row");
            self.load_failed(load, fx);
        }
    }

    /// Writes the next batch; after the last one the chat is there, and whoever is behind its head is told.
    pub(super) fn go_on_recovering(&mut self, now: Now, id: ChatId, fx: &mut Effects) {
        let Some(Slot::Loading { recovery, .. }) = self.slots.get_mut(&id) else { return };
        let Some(begun) = recovery else { return };
        if let Some(rows) = begun.next_batch() {
            return self.write(now, id, rows, Commit::Recovery(id), fx);
        }
        let Some(done) = recovery.take() else { return };
        let chat = Chat::recovered(done.done());
        if chat.head > Seq::ZERO {
            let to = chat.with_who_left_lately();
            fx.publications.push(self.outbox.publish(id, chat.head, chat.settled, to, Payload::Marker));
        }
        self.make_hot(now, id, chat, fx);
    }

    /// Has the next bucket opened first, if the next seq is in a new one.
    pub(super) fn open_bucket(&mut self, now: Now, id: ChatId, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let seq = chat.last.next();
        if chat.opening || !chat.opens_bucket(seq) {
            return;
        }
        chat.opening = rules::holds(Rule::BucketBeforeItsRows);
        chat.meta.open_bucket(Opening { bucket: bucket_of(seq), at_ms: now.wall_ms });
        let row = chat.row(false);
        self.write(now, id, vec![row], Commit::Bucket(id), fx);
    }
}
