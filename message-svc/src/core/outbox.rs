//! What was published and is not settled: kept until fanout says that every edge has it, to be published again when the
//! stream to fanout breaks; and the acks that wait for fanout to have accepted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use confab_ids::{ChatId, Seq};
use confab_proto::fanout::v1::{self as fanout, Publication, publication};

use super::{Accepted, Count, Origin, Payload};

/// How long an ack waits for fanout, milliseconds; the message is durable, so then it goes out all the same.
pub(crate) const ACCEPT_WAIT_MS: u64 = 250;

/// What fanout has accepted and not settled for so long, milliseconds, waits for an edge that is away.
const SLOW_MS: u64 = 1_000;

/// Publications that wait for an edge that is away and hold up nobody meanwhile; those beyond it count like any other.
const SLOW_MAX: usize = 65_536;

#[derive(Debug)]
struct Entry {
    chat: ChatId,
    seq: Seq,
    settled_before: Seq,
    to: Arc<[u64]>,
    payload: Payload,
}

#[derive(Debug)]
struct WaitingAck {
    publication: u64,
    since_ms: u64,
    origin: Origin,
    accepted: Accepted,
}

/// Bounded by the owner, which takes no more commands while [`Outbox::len`] is at its limit, and by [`SLOW_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    last: u64,
    /// What is not settled, by id.
    entries: BTreeMap<u64, Entry>,
    acks: VecDeque<WaitingAck>,
    /// Fanout has accepted all up to this one.
    accepted: u64,
    /// The last id at some times within [`SLOW_MS`].
    times: VecDeque<(u64, u64)>,
    /// Entries up to this one are slow; how many they are.
    slow_up_to: u64,
    slow: usize,
}

impl Outbox {
    /// What is not settled, without what waits for edges that are away: one that has died is known to be so only after a
    /// while, and must not stop everybody's messages until then.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.slow.min(SLOW_MAX)
    }

    /// Queues a publication and returns it for the stream.
    pub(crate) fn publish(
        &mut self,
        chat: ChatId,
        seq: Seq,
        settled: Seq,
        to: Arc<[u64]>,
        payload: Payload,
    ) -> Publication {
        let entry = Entry { chat, seq, settled_before: settled, to, payload };
        self.last += 1;
        let publication = wire(self.last, &entry);
        self.entries.insert(self.last, entry);
        publication
    }

    /// The ack for the newest publication waits until fanout has accepted it.
    pub(crate) fn ack_when_accepted(&mut self, now_ms: u64, origin: Origin, accepted: Accepted) {
        let publication = self.last;
        self.acks.push_back(WaitingAck { publication, since_ms: now_ms, origin, accepted });
    }

    /// Fanout has accepted all up to `id`: the acks that may go.
    pub(crate) fn accepted(&mut self, id: u64) -> impl Iterator<Item = (Origin, Accepted)> + '_ {
        self.accepted = self.accepted.max(id);
        std::iter::from_fn(move || self.acks.pop_front_if(|ack| ack.publication <= id))
            .map(|ack| (ack.origin, ack.accepted))
    }

    /// The acks that have waited long enough; by the way, time goes by.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> impl Iterator<Item = (Origin, Accepted)> + '_ {
        self.find_slow(now_ms);
        std::iter::from_fn(move || self.acks.pop_front_if(|ack| ack.since_ms + ACCEPT_WAIT_MS <= now_ms))
            .map(|ack| (ack.origin, ack.accepted))
    }

    fn find_slow(&mut self, now_ms: u64) {
        self.times.push_back((now_ms, self.last));
        let mut old = self.slow_up_to;
        while let Some((_, last)) = self.times.pop_front_if(|(at, _)| *at + SLOW_MS <= now_ms) {
            old = last;
        }
        let slow_up_to = old.min(self.accepted).max(self.slow_up_to);
        self.slow += self.entries.range(self.slow_up_to + 1..slow_up_to + 1).count();
        self.slow_up_to = slow_up_to;
    }

    /// Fanout has settled `id`: which event that was; `None` for receipts and for what is not known (any more).
    pub(crate) fn settle(&mut self, id: u64) -> Option<(ChatId, Seq)> {
        let entry = self.entries.remove(&id)?;
        self.slow -= usize::from(id <= self.slow_up_to);
        (entry.seq > Seq::ZERO).then_some((entry.chat, entry.seq))
    }

    /// All that is not settled, in order, for a new stream.
    pub(crate) fn unsettled(&self) -> Vec<Publication> {
        self.entries.iter().map(|(id, entry)| wire(*id, entry)).collect()
    }
}

fn wire(id: u64, entry: &Entry) -> Publication {
    Publication {
        id,
        chat_id: entry.chat.0,
        seq: entry.seq.0,
        settled: entry.settled_before.0,
        user_ids: entry.to.to_vec(),
        payload: match &entry.payload {
            Payload::Event(event) => Some(publication::Payload::Event(event.clone())),
            Payload::Marker => None,
            passing => Some(publication::Payload::Receipt(receipt(passing))),
        },
    }
}

/// What is no part of the log; of an event or a marker it says nothing.
fn receipt(payload: &Payload) -> fanout::Receipt {
    let nothing = fanout::Receipt::default();
    match payload {
        Payload::Event(_) | Payload::Marker => nothing,
        Payload::Receipt { user, delivered, read } => {
            fanout::Receipt { user_id: user.0, delivered: delivered.0, read: read.0, ..nothing }
        }
        Payload::Counts(counts) => {
            let count = |count: &Count| fanout::ReceiptCount {
                user_id: count.user.0,
                seq: count.seq.0,
                delivered_by: count.delivered_by,
                read_by: count.read_by,
            };
            fanout::Receipt { counts: counts.of.iter().map(count).collect(), members: counts.members, ..nothing }
        }
        Payload::Typing(user) => fanout::Receipt { user_id: user.0, typing: true, ..nothing },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use confab_ids::MessageId;

    fn publish(outbox: &mut Outbox, seq: u64) -> u64 {
        let to: Arc<[u64]> = Arc::from([1, 2]);
        outbox.publish(ChatId(1), Seq(seq), Seq(seq - 1), to, Payload::Event(Bytes::new())).id
    }

    fn ack(seq: u64) -> Accepted {
        Accepted { chat: ChatId(1), seq: Seq(seq), message_id: MessageId([0; 16]), created_at_ms: 0, duplicate: false }
    }

    #[test]
    fn ids_go_on_over_what_was_settled_and_a_new_stream_gets_only_the_rest() {
        let mut outbox = Outbox::default();
        assert_eq!([publish(&mut outbox, 1), publish(&mut outbox, 2), publish(&mut outbox, 3)], [1, 2, 3]);
        assert_eq!(outbox.settle(2), Some((ChatId(1), Seq(2))));
        assert_eq!(outbox.settle(1), Some((ChatId(1), Seq(1))));
        assert_eq!(outbox.settle(1), None);
        assert_eq!(publish(&mut outbox, 4), 4);
        let again: Vec<u64> = outbox.unsettled().iter().map(|publication| publication.id).collect();
        assert_eq!(again, [3, 4]);
    }

    #[test]
    fn an_ack_goes_when_fanout_has_accepted_or_after_its_wait() {
        let mut outbox = Outbox::default();
        let origin = Origin::Call(7);
        for seq in 1..=3 {
            publish(&mut outbox, seq);
            outbox.ack_when_accepted(seq * 100, origin, ack(seq));
        }
        assert_eq!(outbox.accepted(1).count(), 1);
        assert_eq!(outbox.overdue(200 + ACCEPT_WAIT_MS - 1).count(), 0);
        assert_eq!(outbox.overdue(200 + ACCEPT_WAIT_MS).collect::<Vec<_>>(), [(origin, ack(2))]);
        assert_eq!(outbox.accepted(9).collect::<Vec<_>>(), [(origin, ack(3))]);
    }

    #[test]
    fn what_waits_for_an_edge_that_is_away_holds_up_nobody_within_its_bound() {
        let mut outbox = Outbox::default();
        for seq in 1..=3 {
            publish(&mut outbox, seq);
        }
        assert_eq!(outbox.overdue(0).count() + outbox.accepted(2).count(), 0);
        assert_eq!((outbox.overdue(SLOW_MS - 1).count(), outbox.len()), (0, 3));
        // The third one is not accepted: there may be no fanout at all.
        assert_eq!((outbox.overdue(SLOW_MS).count(), outbox.len()), (0, 1));
        assert!(outbox.settle(1).is_some() && outbox.len() == 1);
        assert!(outbox.settle(3).is_some() && outbox.len() == 0);
        assert_eq!(outbox.unsettled().len(), 1);
        let beyond = SLOW_MAX as u64 + 10;
        (0..beyond).for_each(|seq| assert!(publish(&mut outbox, seq + 4) > 3));
        assert_eq!(outbox.accepted(u64::MAX).count() + outbox.overdue(3 * SLOW_MS).count(), 0);
        assert_eq!(outbox.overdue(5 * SLOW_MS).count(), 0);
        assert_eq!(outbox.len(), 11);
    }
}
