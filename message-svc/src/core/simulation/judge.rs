//! What must hold, whatever happens.

use std::collections::{BTreeMap, HashMap};

use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::Event;
use prost::Message as _;

use crate::core::recovery::LogRow;

/// A sender's message in a chat.
pub(super) type Sending = (usize, ChatId, u64);

#[derive(Default)]
pub(super) struct Judge {
    acked: HashMap<Sending, Seq>,
    published: BTreeMap<(ChatId, Seq), Vec<u8>>,
    pub fault: Option<String>,
}

impl Judge {
    pub(super) fn acked(&mut self, sending: Sending, seq: Seq) {
        let first = *self.acked.entry(sending).or_insert(seq);
        if first != seq {
            self.blame(format!("{sending:?} acked at {first} and at {seq}"));
        }
    }

    pub(super) fn published(&mut self, chat: ChatId, seq: Seq, event: &[u8]) {
        let first = self.published.entry((chat, seq)).or_insert_with(|| event.to_vec());
        if first != event {
            self.blame(format!("two events were published at {seq} of chat {chat}"));
        }
    }

    pub(super) fn acks(&self) -> u64 {
        self.acked.len() as u64
    }

    fn blame(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// The whole log of a chat, at the end.
    pub(super) fn log(&mut self, chat: ChatId, rows: &[LogRow]) {
        let acked = self.acked.iter().filter(|((_, of, _), _)| *of == chat).map(|(_, seq)| *seq);
        let published = self.published.keys().filter(|(of, _)| *of == chat).map(|(_, seq)| *seq);
        let head = acked.chain(published).max().unwrap_or(Seq::ZERO);
        let mut last_of_sender: HashMap<u64, u64> = HashMap::new();
        let mut at: HashMap<(u64, u64), Seq> = HashMap::new();
        for (row, expected) in rows.iter().zip(0..).take_while(|(row, _)| row.seq <= head) {
            if row.seq != Seq(expected) {
                return self.blame(format!("chat {chat} has {} where {expected} should be", row.seq));
            }
            if row.seq == Seq::ZERO {
                continue;
            }
            if self.published.get(&(chat, row.seq)).is_some_and(|published| *published != row.bytes) {
                return self.blame(format!("what was published at {} of chat {chat} is not in the log", row.seq));
            }
            let event = Event::decode(&row.bytes[..]).unwrap_or_default();
            let n: u64 = event.client_id.parse().unwrap_or_default();
            if let Some(before) = at.insert((event.sender_id, n), row.seq) {
                return self.blame(format!("chat {chat}: {}'s {n} is at {before} and at {}", event.sender_id, row.seq));
            }
            if last_of_sender.insert(event.sender_id, n).is_some_and(|last| last > n) {
                return self.blame(format!("chat {chat}: {}'s {n} comes too late, at {}", event.sender_id, row.seq));
            }
        }
        if rows.last().map_or(Seq::ZERO, |row| row.seq) < head {
            return self.blame(format!("chat {chat} ends before {head}"));
        }
        let missing = self
            .acked
            .iter()
            .find(|((sender, of, n), seq)| *of == chat && at.get(&(*sender as u64 + 1, *n)) != Some(seq));
        if let Some(((sender, _, n), seq)) = missing {
            self.blame(format!("chat {chat}: {sender}'s {n}, acked at {seq}, is not there"));
        }
    }
}
