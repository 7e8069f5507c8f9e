//! What is written, and what follows when it is durable: heads rise, events are published, senders get their acks.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use confab_ids::{ChatId, Seq};
use confab_proto::fanout::v1::Publication;

use super::{Owner, Slot, unavailable, unavailable_answer};
use crate::core::chat::{Answer, Pending};
use crate::core::maps::HashSet;
use crate::core::ownership::rules::{self, Rule};
use crate::core::{Effects, Now, Outcome, Payload};
use crate::store::recent::Kept;
use crate::store::{CreationKey, Row};

/// One write, stored whole or not at all as far as each partition goes; until it is, it is tried again.
#[derive(Debug)]
pub(crate) struct Write {
    /// For [`Owner::committed`].
    pub number: u64,
    /// Microseconds; 0 where there is no other owner.
    pub stamp: i64,
    pub rows: Vec<Row>,
}

/// What a write is for.
#[derive(Debug)]
pub(super) enum Commit {
    /// Of the only owner: all that was ready at once.
    Round(Vec<(ChatId, Seq)>),
    /// Of one chat: events among them, or none.
    Chat(ChatId, Vec<Seq>),
    /// A chat's row with the next bucket.
    Bucket(ChatId),
    /// Events without what they said, and up to where there is no other.
    Expired(ChatId, Seq, Vec<(Seq, Bytes)>),
    /// A step of a chat's recovery.
    Recovery(ChatId),
    /// What a creation's key makes.
    Creation(CreationKey),
}

impl Commit {
    pub(super) fn chat(&self) -> Option<ChatId> {
        match self {
            Self::Round(_) | Self::Creation(_) => None,
            Self::Chat(chat, _) | Self::Bucket(chat) | Self::Expired(chat, ..) | Self::Recovery(chat) => Some(*chat),
        }
    }
}

impl Owner {
    /// The writes of the effects so far. The only owner makes one of all; among others it is one per chat, so that none
    /// waits for another.
    pub(crate) fn seal(&mut self, now: Now, fx: &mut Effects) -> Vec<Write> {
        let rows = std::mem::take(&mut fx.rows);
        if !rows.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            if self.fence.is_sole() {
                let number = self.number(Commit::Round(gathered));
                fx.writes.push(Write { number, stamp: 0, rows });
            } else {
                let mut by_chat: BTreeMap<ChatId, (Vec<Row>, Vec<Seq>)> = BTreeMap::new();
                for row in rows {
                    by_chat.entry(row.chat()).or_default().0.push(row);
                }
                for (chat, seq) in gathered {
                    by_chat.entry(chat).or_default().1.push(seq);
                }
                for (chat, (rows, seqs)) in by_chat {
                    self.write(now, chat, rows, Commit::Chat(chat, seqs), fx);
                }
            }
        }
        std::mem::take(&mut fx.writes)
    }

    /// Writes rows of one chat. Without a timestamp to write with, the chat is dropped: what it had taken is refused.
    pub(super) fn write(&mut self, now: Now, chat: ChatId, rows: Vec<Row>, commit: Commit, fx: &mut Effects) {
        let Some(stamp) = self.fence.stamp(now) else {
            return self.drop_chats(&HashSet::from_iter([chat]), fx);
        };
        if let Some(chat) = self.hot(chat) {
            chat.writing += 1;
        }
        let number = self.number(commit);
        fx.writes.push(Write { number, stamp, rows });
    }

    pub(super) fn number(&mut self, commit: Commit) -> u64 {
        self.next_commit += 1;
        self.commits.insert(self.next_commit, commit);
        self.next_commit
    }

    /// A write is stored.
    pub(crate) fn committed(&mut self, now: Now, number: u64, fx: &mut Effects) {
        let Some(commit) = self.commits.remove(&number) else { return };
        if let Some(chat) = commit.chat().and_then(|chat| self.hot(chat)) {
            chat.writing -= 1;
        }
        match commit {
            Commit::Round(events) => self.events_stored(now, events, fx),
            Commit::Chat(chat, seqs) => self.events_stored(now, seqs.into_iter().map(|seq| (chat, seq)).collect(), fx),
            Commit::Bucket(id) => {
                if let Some(chat) = self.hot(id) {
                    chat.opening = false;
                }
                self.go_on(now, id, fx);
            }
            Commit::Expired(chat, upto, rows) => self.expired(now, chat, upto, rows, fx),
            Commit::Recovery(chat) => self.go_on_recovering(now, chat, fx),
            Commit::Creation(key) => self.key_written(now, &key, fx),
        }
    }

    pub(super) fn events_stored(&mut self, now: Now, events: Vec<(ChatId, Seq)>, fx: &mut Effects) {
        let holds = self.fence.holds(now);
        let mut chats = BTreeSet::new();
        for (id, seq) in events {
            let Some(chat) = self.hot(id) else { continue };
            if !holds && chat.has_more_to_write(seq) {
                // Another may have recovered the chat meanwhile, to an end below this event: then these rows are of no event.
                self.unwritten.insert((id, seq));
                continue;
            }
            if let Some(rows) = chat.stored(seq) {
                fx.rows.extend(rows);
                self.gathered.push((id, seq));
            }
            chats.insert(id);
        }
        for chat in chats {
            self.advance(now, chat, fx);
        }
    }

    /// Raises a chat's head as far as its log is durable without a hole. Only under a lease that still holds: else another
    /// may have recovered it meanwhile, to an end below this one.
    pub(super) fn advance(&mut self, now: Now, id: ChatId, fx: &mut Effects) {
        if !self.fence.holds(now) && rules::holds(Rule::LeaseAfterQuorum) {
            self.unconfirmed.insert(id);
            return;
        }
        let Some(Slot::Hot { chat, waiting }) = self.slots.get_mut(&id) else { return };
        let ready = chat.advance();
        let waits = !waiting.is_empty();
        let (settled, epoch, any) = (chat.settled, chat.certain.epoch, !ready.is_empty());
        self.pending -= ready.len();
        for Pending { seq, payload, to, answers, changed, .. } in ready {
            if let Payload::Event(bytes) = &payload {
                self.tails.keep(&mut chat.tail, bytes);
                self.tails.change(&mut chat.tail, seq, &changed);
                if !self.fence.is_sole() {
                    fx.recent.push(Kept { chat: id, epoch, seq, bytes: bytes.clone(), replaces: false });
                    fx.recent.extend(Kept::in_place(id, epoch, changed));
                }
            }
            fx.publications.push(self.outbox.publish(id, seq, settled, to, payload));
            for (origin, answer) in answers {
                match answer {
                    Answer::Accepted(accepted) => self.outbox.ack_when_accepted(now.mono_ms, origin, accepted),
                    Answer::Now(outcome) => fx.replies.push((origin, outcome)),
                }
            }
        }
        if any && (waits || !self.fence.is_sole()) {
            self.go_on(now, id, fx);
        }
    }

    /// The store failed. What was not acked is unknown, so it is refused as such, and nothing is taken any more: only a
    /// restart, which reads what is on the disk, can tell.
    pub(crate) fn store_failed(&mut self, fx: &mut Effects) {
        self.failed = true;
        for slot in self.slots.values_mut() {
            let waiting = match slot {
                Slot::Hot { chat, waiting } => {
                    for pending in chat.pending.drain(..) {
                        let refused = |(origin, answer)| (origin, unavailable_answer(&answer));
                        fx.replies.extend(pending.answers.into_iter().map(refused));
                    }
                    waiting
                }
                Slot::Loading { waiting, .. } => waiting,
            };
            let refused = waiting.drain(..).map(|(origin, command)| (origin, unavailable(&command)));
            fx.replies.extend(refused);
        }
        (self.waiting, self.pending) = (0, 0);
        self.commits.clear();
    }

    /// Fanout answers for all publications up to `id`.
    pub(crate) fn fanout_accepted(&mut self, id: u64, fx: &mut Effects) {
        fx.replies.extend(self.outbox.accepted(id).map(|(origin, accepted)| (origin, Outcome::Accepted(accepted))));
    }

    /// Every edge that publication `id` concerns has it.
    pub(crate) fn fanout_settled(&mut self, id: u64) {
        if let Some((id, seq)) = self.outbox.settle(id)
            && let Some(chat) = self.hot(id)
        {
            chat.settle(seq);
        }
    }

    /// What a new stream to fanout begins with.
    pub(crate) fn unsettled(&self) -> Vec<Publication> {
        self.outbox.unsettled()
    }
}
