//! Who makes chats, adds and removes members, and gives titles, by unary calls: each asks the owner that they believe in, and asks again until there is
//! an answer.

use confab_ids::{ChatId, MessageId, Shard, UserId};
use confab_proto::message::v1::ChatKind;

use super::{CHATS, Happening, Input, World};
use crate::core::{Change, Command, Create, Origin, Outcome, What};
use crate::error::ChatError;
use crate::store::CreationKey;

/// Chats that are made, by as many keys; each more than once.
const KEYS: u64 = 4;

/// A call that has no answer by then is followed by another.
const PATIENCE_MS: u64 = 6_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Chat(u64),
    /// That they are in it, or not.
    Member(ChatId, UserId, bool),
    Title(ChatId, u64),
}

#[derive(Debug)]
pub(super) struct Asking {
    wish: Wish,
    /// The call that is under way.
    call: u64,
    again_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Makers {
    asking: Vec<Asking>,
    users: u64,
}

impl Makers {
    pub(super) fn is_done(&self) -> bool {
        self.asking.is_empty()
    }
}

/// Of even numbers a pair's, of odd ones a group's.
pub(super) fn key(number: u64) -> CreationKey {
    if number.is_multiple_of(2) {
        return CreationKey::Direct(UserId(1), UserId(number + 2));
    }
    CreationKey::Group { user: UserId(number), device: "d".into(), client_id: "group".into() }
}

impl World {
    pub(super) fn wish(&mut self) {
        if !self.resting {
            let wish = self.next_wish();
            self.makers.asking.push(Asking { wish, call: 0, again_ms: self.now_ms });
        }
        for at in 0..self.makers.asking.len() {
            if self.makers.asking[at].again_ms <= self.now_ms {
                self.ask_for(at);
            }
        }
        let next = self.now_ms + self.chance.between(100, 2_000);
        self.at(next, Happening::Wish);
    }

    fn next_wish(&mut self) -> Wish {
        if self.chance.one_in(2) {
            return Wish::Chat(self.chance.below(KEYS));
        }
        let chat = CHATS[usize::try_from(self.chance.below(3)).unwrap_or(0)];
        if self.chance.one_in(6) {
            return Wish::Title(chat, self.now_ms);
        }
        // Who leaves, or comes back; of nobody two things are wished for at once.
        let known: Vec<_> = self.judge.members_granted().collect();
        if !known.is_empty() && self.chance.one_in(2) {
            let (chat, user, is_in) = known[usize::try_from(self.chance.below(known.len() as u64)).unwrap_or(0)];
            let wished = |asking: &Asking| matches!(asking.wish, Wish::Member(of, who, _) if (of, who) == (chat, user));
            if !self.makers.asking.iter().any(wished) {
                return Wish::Member(chat, user, !is_in);
            }
        }
        self.makers.users += 1;
        Wish::Member(chat, UserId(100 + self.makers.users), true)
    }

    fn ask_for(&mut self, at: usize) {
        self.next_call += 1;
        let call = self.next_call;
        let asking = &mut self.makers.asking[at];
        (asking.call, asking.again_ms) = (call, self.now_ms + PATIENCE_MS);
        let wish = asking.wish;
        let shard = match wish {
            Wish::Chat(number) => key(number).shard(),
            Wish::Member(chat, ..) | Wish::Title(chat, _) => Shard::of_chat(chat),
        };
        let map = &self.senders[0].map;
        let addr = map.owner(shard).and_then(|owner| map.addrs.get(&owner));
        let Some(node) = self.node_at(addr.map(|addr| &**addr)) else {
            self.makers.asking[at].again_ms = self.now_ms + 300;
            return;
        };
        let life = self.nodes[node].life;
        let message_id = MessageId(u128::from(call).to_be_bytes());
        let (origin, device) = (Origin::Call(call), "d".to_owned());
        let input = match wish {
            Wish::Chat(number) => {
                let key = key(number);
                let (kind, members) = match &key {
                    CreationKey::Direct(a, b) => (ChatKind::Direct, vec![*a, *b]),
                    CreationKey::Group { user, .. } => (ChatKind::Group, vec![*user, UserId(50), UserId(51)]),
                };
                let by = members[0];
                Input::Create(origin, Create { key, kind, title: String::new(), by, device, members, message_id })
            }
            Wish::Member(chat, ..) | Wish::Title(chat, _) => {
                let what = match wish {
                    Wish::Member(_, user, true) => What::Add(vec![user]),
                    Wish::Member(_, user, false) => What::Remove(vec![user]),
                    _ => What::Rename(format!("{wish:?}")),
                };
                let change = Change { by: UserId(1), device, message_id, what };
                Input::Command { origin, chat, command: Command::Change(change) }
            }
        };
        self.soon(Happening::Input { node, life, input });
    }

    pub(super) fn granted(&mut self, call: u64, outcome: &Outcome) {
        if let Some(expiring) = self.expiring.remove(&call) {
            return self.viewed(expiring, outcome);
        }
        let Some(at) = self.makers.asking.iter().position(|asking| asking.call == call) else { return };
        let wish = self.makers.asking[at].wish;
        match (wish, outcome) {
            (Wish::Chat(number), Outcome::Created { chat, .. }) => self.judge.made(number, *chat),
            (Wish::Member(chat, user, is_in), Outcome::Changed { .. }) => self.judge.granted(chat, user, is_in),
            (Wish::Title(..), Outcome::Changed { .. }) => {}
            (_, Outcome::ChatRefused(ChatError::NotOwner | ChatError::Unavailable)) => {
                self.makers.asking[at].again_ms = self.now_ms + 200;
                return;
            }
            (_, other) => drop(self.judge.fault.get_or_insert(format!("{wish:?}: {other:?}"))),
        }
        self.makers.asking.swap_remove(at);
    }
}
