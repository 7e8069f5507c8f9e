//! What was published and is not settled: kept until fanout says that every edge has it, to be published again when the
//! stream to fanout breaks; and the acks that wait for fanout to have accepted.

use std::collections::VecDeque;
use std::sync::Arc;

use confab_ids::{ChatId, Seq};
use confab_proto::fanout::v1::{self as fanout, Publication, publication};

use super::{Accepted, Origin, Payload};

/// How long an ack waits for fanout, milliseconds; the message is durable, so then it goes out all the same.
pub(crate) const ACCEPT_WAIT_MS: u64 = 250;

#[derive(Debug)]
struct Entry {
    chat: ChatId,
    seq: Seq,
    settled_before: Seq,
    to: Arc<[u64]>,
    payload: Payload,
    settled: bool,
}

#[derive(Debug)]
struct WaitingAck {
    publication: u64,
    since_ms: u64,
    origin: Origin,
    accepted: Accepted,
}

/// Bounded by the owner, which takes no more commands while [`Outbox::len`] is at its limit.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The id of `entries[0]`.
    first: u64,
    entries: VecDeque<Entry>,
    acks: VecDeque<WaitingAck>,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
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
        let entry = Entry { chat, seq, settled_before: settled, to, payload, settled: false };
        let id = self.next_id();
        let publication = wire(id, &entry);
        self.entries.push_back(entry);
        publication
    }

    fn next_id(&self) -> u64 {
        self.first + self.entries.len() as u64 + 1
    }

    /// The ack for the newest publication waits until fanout has accepted it.
    pub(crate) fn ack_when_accepted(&mut self, now_ms: u64, origin: Origin, accepted: Accepted) {
        let publication = self.first + self.entries.len() as u64;
        self.acks.push_back(WaitingAck { publication, since_ms: now_ms, origin, accepted });
    }

    /// Fanout has accepted all up to `id`: the acks that may go.
    pub(crate) fn accepted(&mut self, id: u64) -> impl Iterator<Item = (Origin, Accepted)> + '_ {
        std::iter::from_fn(move || self.acks.pop_front_if(|ack| ack.publication <= id))
            .map(|ack| (ack.origin, ack.accepted))
    }

    /// The acks that have waited long enough.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> impl Iterator<Item = (Origin, Accepted)> + '_ {
        std::iter::from_fn(move || self.acks.pop_front_if(|ack| ack.since_ms + ACCEPT_WAIT_MS <= now_ms))
            .map(|ack| (ack.origin, ack.accepted))
    }

    /// Fanout has settled `id`: which event that was; `None` for receipts and for what is not known (any more).
    pub(crate) fn settle(&mut self, id: u64) -> Option<(ChatId, Seq)> {
        let at = usize::try_from(id.checked_sub(self.first + 1)?).ok()?;
        let entry = self.entries.get_mut(at)?;
        entry.settled = true;
        let event = (entry.seq > Seq::ZERO).then_some((entry.chat, entry.seq));
        while self.entries.pop_front_if(|entry| entry.settled).is_some() {
            self.first += 1;
        }
        event
    }

    /// All that is not settled, in order, for a new stream.
    pub(crate) fn unsettled(&self) -> Vec<Publication> {
        let numbered = self.entries.iter().zip(self.first + 1..);
        numbered.filter(|(entry, _)| !entry.settled).map(|(entry, id)| wire(id, entry)).collect()
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
            Payload::Receipt { user, delivered, read } => {
                let (user_id, delivered, read) = (user.0, delivered.0, read.0);
                Some(publication::Payload::Receipt(fanout::Receipt { user_id, delivered, read }))
            }
        },
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
}
