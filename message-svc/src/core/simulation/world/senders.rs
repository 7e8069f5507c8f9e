//! What the senders of the world do, and what they hear.

use std::collections::BTreeSet;
use std::sync::Arc;

use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{Content, Deletion, Edit, Reaction};

use super::super::chance::Chance;
use super::super::sender::Stream;
use super::{CHATS, Call, Happening, Input, World};
use crate::core::body::{self, Body};
use crate::core::ownership::map::ShardMap;
use crate::core::{Command, Origin, Outcome, Send};
use crate::error::SendError;

impl World {
    /// A sender says something new, sends again what is due, and finds what it has waited for too long.
    pub(super) fn say(&mut self, sender: usize) {
        if !self.resting {
            let burst = if self.chance.one_in(4) { self.chance.below(8) } else { 1 };
            for _ in 0..burst {
                let chat = CHATS[usize::try_from(self.chance.below(3)).unwrap_or(0)];
                let queue = self.senders[sender].queues.entry(chat).or_default();
                queue.next += 1;
                let n = queue.next;
                queue.unacked.push_back((n, self.now_ms));
                let body = body(&mut self.chance, &queue.messages, format!("{sender}/{n}"));
                if let Body::Deletion(deletion) = &body {
                    queue.deleted.insert(Seq(deletion.target));
                }
                queue.bodies.insert(n, body);
                if queue.again_ms.is_none() {
                    self.send(sender, chat, n);
                }
            }
        }
        // At rest each has to be answered, but for those that had been given up.
        if !self.resting {
            self.give_up(sender);
        }
        for chat in CHATS {
            let now_ms = self.now_ms;
            let Some(queue) = self.senders[sender].queues.get_mut(&chat) else { continue };
            if queue.overdue(now_ms) {
                queue.again(now_ms);
            }
            if queue.again_ms.is_some_and(|at| at <= now_ms) {
                queue.again_ms = None;
                let unacked: Vec<u64> = queue.unacked.iter().map(|(n, _)| *n).collect();
                for n in unacked {
                    self.send(sender, chat, n);
                }
            }
        }
        let next = self.now_ms + self.chance.between(50, 900);
        self.at(next, Happening::Say { sender });
    }

    /// A sender goes on without what it has tried for too long.
    pub(super) fn give_up(&mut self, sender: usize) {
        for (chat, queue) in &mut self.senders[sender].queues {
            queue.give_up(self.now_ms).into_iter().for_each(|n| self.judge.gave_up((sender, *chat, n)));
        }
    }

    fn send(&mut self, sender: usize, chat: ChatId, n: u64) {
        let node = self.node_at(self.senders[sender].owner(chat).as_deref());
        let Some(queue) = self.senders[sender].queues.get_mut(&chat) else { return };
        if queue.again_ms.is_some() {
            return;
        }
        let Some(node) = node else { return queue.again(self.now_ms + 200) };
        queue.sent_ms = self.now_ms;
        let generation = queue.generation;
        let Some(body) = queue.bodies.get(&n).cloned() else { return };
        if self.nodes[node].owner.is_none() {
            return queue.again(self.now_ms + 200);
        }
        let life = self.nodes[node].life;
        let stream = self.senders[sender].streams.get(&node).copied();
        if let Some(old) = stream.filter(|stream| stream.life != life) {
            // Whoever opens a stream knows that the one before is broken, and what was on it.
            return self.broken(sender, node, old.life);
        }
        let delay = if self.resting { 1 } else { self.chance.delay() };
        let mut stream = stream.unwrap_or_else(|| {
            self.next_stream += 1;
            Stream { number: self.next_stream, life, busy_until_ms: 0 }
        });
        stream.busy_until_ms = stream.busy_until_ms.max(self.now_ms + delay);
        self.senders[sender].streams.insert(node, stream);
        self.next_call += 1;
        let call = self.next_call;
        self.calls.insert(call, Call { sender, chat, n, generation });
        let user = UserId(sender as u64 + 1);
        let message_id = MessageId(u128::from(call).to_be_bytes());
        let (device, client_id) = ("d".to_owned(), n.to_string());
        let command = Command::Send(Send { user, device, message_id, client_id, body, erases: false });
        let origin = Origin::Stream { stream: stream.number, session: sender as u64, call, generation };
        let input = Input::Command { origin, chat, command };
        self.at(stream.busy_until_ms, Happening::Input { node, life, input });
    }

    pub(super) fn replied(&mut self, call: u64, outcome: Outcome) {
        let Some(Call { sender, chat, n, generation }) = self.calls.remove(&call) else {
            self.judge.fault.get_or_insert(format!("call {call} is answered twice"));
            return;
        };
        let now_ms = self.now_ms;
        let Some(queue) = self.senders[sender].queues.get_mut(&chat) else { return };
        match outcome {
            Outcome::Accepted(accepted) => {
                self.judge.acked((sender, chat, n), accepted.seq);
                match queue.bodies.get(&n) {
                    Some(Body::Content(_)) => drop(queue.messages.insert(accepted.seq)),
                    Some(Body::Deletion(deletion)) => drop(queue.messages.remove(&Seq(deletion.target))),
                    _ => {}
                }
                // Now and then an ack is lost on its way, and its message is sent again.
                if self.resting || !self.chance.one_in(10) {
                    queue.unacked.retain(|(unacked, _)| *unacked != n);
                    queue.bodies.remove(&n);
                } else {
                    queue.again(now_ms + 300);
                }
            }
            Outcome::SendRefused(SendError::NotOwner | SendError::Unavailable) => {
                if generation == queue.generation {
                    let backoff = self.chance.between(50, 300);
                    queue.again(now_ms + backoff);
                }
            }
            // A deletion came before, whether its sender has heard of it or not, or it has expired. (Or this is a second answer.)
            Outcome::SendRefused(SendError::UnknownTarget)
                if queue.bodies.get(&n).is_none_or(|body| {
                    let is_gone = |target| queue.deleted.contains(&target) || self.judge.may_be_silent(chat, target);
                    body::target(body).is_some_and(is_gone)
                }) =>
            {
                queue.unacked.retain(|(unacked, _)| *unacked != n);
                queue.bodies.remove(&n);
                self.judge.gave_up((sender, chat, n));
            }
            other => drop(self.judge.fault.get_or_insert(format!("{other:?}"))),
        }
    }

    pub(super) fn learned(&mut self, sender: usize, map: Arc<ShardMap>) {
        let now_ms = self.now_ms;
        let this = &mut self.senders[sender];
        if map.version <= this.map.version {
            return;
        }
        let before: Vec<_> = CHATS.iter().map(|chat| this.owner(*chat)).collect();
        this.map = map;
        for (chat, before) in CHATS.iter().zip(before) {
            let moved = this.owner(*chat) != before;
            if let Some(queue) = this.queues.get_mut(chat)
                && moved
                && !queue.unacked.is_empty()
            {
                queue.again(now_ms);
            }
        }
    }

    pub(super) fn broken(&mut self, sender: usize, node: usize, life: u64) {
        let now_ms = self.now_ms;
        let this = &mut self.senders[sender];
        if this.streams.get(&node).is_some_and(|stream| stream.life == life) {
            this.streams.remove(&node);
            for queue in this.queues.values_mut().filter(|queue| !queue.unacked.is_empty()) {
                queue.again(now_ms);
            }
        }
    }
}

/// A message, or something about one of the sender's own.
fn body(chance: &mut Chance, messages: &BTreeSet<Seq>, text: String) -> Body {
    let of = if chance.one_in(3) { usize::try_from(chance.below(messages.len().max(1) as u64)).ok() } else { None };
    // Mostly one of the last: they are changed again.
    let Some(target) = of.and_then(|at| messages.iter().rev().nth(at / 2)).map(|seq| seq.0) else {
        return Body::Content(Content { text, ..Content::default() });
    };
    match chance.below(6) {
        0 => Body::Deletion(Deletion { target, rows: Vec::new() }),
        1 => Body::Reaction(Reaction { target, emoji: text, removed: false }),
        _ => Body::Edit(Edit { target, text, rows: Vec::new() }),
    }
}
