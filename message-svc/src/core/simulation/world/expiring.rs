//! Who has old events expire: as [`crate::expiry`] does it, at whoever they believe to own the chat. What is too old is whatever
//! chance says.

use std::collections::BTreeMap;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, Shard, UserId};
use confab_proto::message::v1::Event;
use prost::Message as _;

use super::super::replicas;
use super::{CHATS, Happening, Input, World};
use crate::core::body::{as_expired, without_words};
use crate::core::{Command, Expire, Origin, Outcome, View};

/// What has to be known of a chat before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiring {
    node: usize,
    life: u64,
    chat: ChatId,
    expired_upto: Seq,
    head: Seq,
}

impl World {
    pub(super) fn expire(&mut self) {
        if self.resting {
            return;
        }
        let next = self.now_ms + self.chance.between(50, 1_000);
        self.at(next, Happening::Expire);
        let chat = CHATS[usize::try_from(self.chance.below(3)).unwrap_or(0)];
        let map = &self.senders[0].map;
        let addr = map.owner(Shard::of_chat(chat)).and_then(|owner| map.addrs.get(&owner));
        let Some(node) = addr.and_then(|addr| self.nodes.iter().position(|node| *node.addr == **addr)) else { return };
        let life = self.nodes[node].life;
        self.next_call += 1;
        let expiring = Expiring { node, life, chat, expired_upto: Seq::ZERO, head: Seq::ZERO };
        self.expiring.insert(self.next_call, expiring);
        let command = Command::View(View { user: UserId(0), device: String::new(), newest: None });
        self.soon(Happening::Input {
            node,
            life,
            input: Input::Command { origin: Origin::Call(self.next_call), chat, command },
        });
    }

    pub(super) fn viewed(&mut self, expiring: Expiring, outcome: &Outcome) {
        if let Outcome::Viewed(view) = outcome {
            let expiring = Expiring { expired_upto: view.expired_upto, head: view.head, ..expiring };
            self.soon(Happening::ReadOld(expiring));
        }
    }

    pub(super) fn read_old(&mut self, Expiring { node, life, chat, expired_upto, head }: Expiring) {
        // Some, or all.
        let some = self.chance.between(1, 6);
        let count = if self.chance.one_in(3) { head.0 } else { some };
        let which = self.quorum();
        let mut upto = expired_upto;
        let mut rows = BTreeMap::new();
        for seq in (expired_upto.0 + 1..=head.0).take(usize::try_from(count).unwrap_or(usize::MAX)).map(Seq) {
            let Some(event) = self.read(&which, chat, seq) else { break };
            upto = seq;
            let Some(silent) = without_words(&event) else { continue };
            rows.insert(seq, Bytes::from(silent.encode_to_vec()));
            if event.changed_seq > event.seq
                && let Some(edit) = self.read(&which, chat, Seq(event.changed_seq))
                && let Some(silent) = as_expired(&edit, upto)
            {
                rows.insert(Seq(silent.seq), silent.encode_to_vec().into());
            }
        }
        self.judge.asked_to_be_silent(chat, upto);
        self.next_call += 1;
        let command = Command::Expire(Expire { rows: rows.into_iter().collect(), upto, as_of: head });
        self.soon(Happening::Input {
            node,
            life,
            input: Input::Command { origin: Origin::Call(self.next_call), chat, command },
        });
    }

    fn read(&mut self, which: &[usize], chat: ChatId, seq: Seq) -> Option<Event> {
        Event::decode(&replicas::read_row(&mut self.replicas, which, chat, seq)?[..]).ok()
    }
}
