//! Who has old events expire: as [`crate::expiry`] does it, at whoever they believe to own the chat. What is too old is whatever
//! chance says.

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::Event;
use prost::Message as _;

use super::super::replicas;
use super::{CHATS, Happening, Input, World};
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
        let Some(node) = self.node_at(self.senders[0].owner(chat).as_deref()) else { return };
        let life = self.nodes[node].life;
        let view = Command::View(View { user: UserId(0), device: String::new(), newest: None });
        let call = self.call(node, life, chat, view);
        self.expiring.insert(call, Expiring { node, life, chat, expired_upto: Seq::ZERO, head: Seq::ZERO });
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
        let mut expire = Expire::after(expired_upto, head);
        for seq in (expired_upto.0 + 1..=head.0).take(usize::try_from(count).unwrap_or(usize::MAX)).map(Seq) {
            let Some(event) = self.read(&which, chat, seq) else { break };
            if let Some(edit) = expire.take(&event)
                && let Some(edit) = self.read(&which, chat, edit)
            {
                expire.take_edit(&edit);
            }
        }
        self.judge.asked_to_be_silent(chat, expire.upto);
        self.call(node, life, chat, Command::Expire(expire));
    }

    /// Its answer comes by the number of this call.
    fn call(&mut self, node: usize, life: u64, chat: ChatId, command: Command) -> u64 {
        self.next_call += 1;
        let (call, origin) = (self.next_call, Origin::Call(self.next_call));
        self.soon(Happening::Input { node, life, input: Input::Command { origin, chat, command } });
        call
    }

    fn read(&mut self, which: &[usize], chat: ChatId, seq: Seq) -> Option<Event> {
        Event::decode(&replicas::read_row(&mut self.replicas, which, chat, seq)?[..]).ok()
    }
}
