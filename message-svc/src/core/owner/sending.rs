//! A message's way into the log.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::Event;
use prost::Message as _;

use super::changing::{Target, with_rows};
use super::marking::block_of;
use super::{Owner, Slot, unavailable};
use crate::core::body::{self, Body, changed_rows, sent_hash, without_rows};
use crate::core::chat::{Answer, Author, Pending, Place};
use crate::core::ownership::rules::{self, Rule};
use crate::core::sends::{Known, Sent};
use crate::core::{Accepted, Command, Effects, Found, Lookup, Now, Origin, Outcome, Payload, Send};
use crate::error::SendError;
use crate::store::{Opening, Row, SendKey, bucket_of};

/// Keys that one chat has looked up at once: no more than it keeps, or the first would be forgotten for the last.
const LOOKUPS_AT_ONCE: usize = if cfg!(test) { 2 } else { 64 };

impl Owner {
    pub(super) fn send(&mut self, now: Now, id: ChatId, origin: Origin, send: Send, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let not_member = (origin, Outcome::SendRefused(SendError::NotMember));
        if chat.slot(send.user).is_none() && !send.erases {
            return fx.replies.push(not_member);
        }
        if let Body::Content(content) = &send.body
            && content.reply_to > chat.last.0
        {
            return fx.replies.push((origin, Outcome::SendRefused(SendError::ReplyBeyondHead)));
        }
        let key = send_key(&send);
        match chat.sends.get(&key) {
            // Who has left learns what became of what they sent before.
            Known::New if !send.erases && chat.joined(send.user).is_none() => fx.replies.push(not_member),
            Known::New if !send.erases && chat.is_blocked_by_one() => {
                fx.replies.push((origin, Outcome::SendRefused(SendError::Blocked)));
            }
            Known::New => match body::target(&send.body) {
                Some(target) => self.change(now, id, origin, send, target, fx),
                None => self.accept(now, id, origin, send, None, fx),
            },
            Known::Sent(sent) if Some(sent.body_hash) == body::hash(&send.body) => self.repeat(id, origin, sent, fx),
            Known::Sent(_) => fx.replies.push((origin, Outcome::SendRefused(SendError::Conflict))),
            Known::Unknown => {
                self.wait_in_front(id, origin, Command::Send(send));
                self.look_up(now, id, fx);
            }
        }
    }

    /// A key that was accepted before: answered like the first time, which may still wait for the disk.
    fn repeat(&mut self, id: ChatId, origin: Origin, sent: Sent, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let accepted = Accepted {
            chat: id,
            seq: sent.seq,
            message_id: sent.message_id,
            created_at_ms: sent.created_at_ms,
            duplicate: true,
        };
        match chat.pending.iter_mut().find(|pending| pending.seq == sent.seq) {
            Some(pending) => pending.answers.push((origin, Answer::Accepted(accepted))),
            None => fx.replies.push((origin, Outcome::Accepted(accepted))),
        }
    }

    /// What is new: gives it its seq and hands it to the disk. `target`: the message that it is about.
    pub(super) fn accept(
        &mut self,
        now: Now,
        id: ChatId,
        origin: Origin,
        send: Send,
        target: Option<&Target>,
        fx: &mut Effects,
    ) {
        let (key, body_hash) = (send_key(&send), body::hash(&send.body).unwrap_or_default());
        let Some(chat) = self.hot(id) else { return };
        let place = chat.take_place(now.wall_ms, target.is_none());
        let Place { seq, created_at_ms, .. } = place;
        let accepted = Accepted { chat: id, seq, message_id: send.message_id, created_at_ms, duplicate: false };
        let sent = Sent { seq, message_id: send.message_id, created_at_ms, body_hash };
        chat.sends.insert(key.clone(), sent, chat.head);
        if target.is_none()
            && let Some(slot) = chat.slot(send.user)
        {
            chat.members[slot].marks.own = seq;
            chat.dirty_blocks.insert(block_of(slot));
            self.dirty.insert(id);
        }
        let Send { user, device, message_id, client_id, body, .. } = send;
        let changed = target.map(|target| target.rows_after(&body, seq)).unwrap_or_default();
        let author = Author { user, device, client_id, message_id };
        let event = with_rows(place.event(id, author, body), &changed);
        fx.rows.push(Row::Send { chat: id, key, sent });
        self.append(now, id, &event, (origin, Answer::Accepted(accepted)), fx);
        self.change_rows(id, changed, fx);
    }

    /// Puts an event into the log.
    pub(super) fn append(&mut self, now: Now, id: ChatId, event: &Event, answer: (Origin, Answer), fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let seq = Seq(event.seq);
        let bytes = Bytes::from(event.encode_to_vec());
        let payload =
            if changed_rows(event).is_empty() { bytes.clone() } else { without_rows(event).encode_to_vec().into() };
        let epoch = chat.certain.epoch;
        if chat.opens_bucket(seq) {
            for bucket in chat.meta.open_bucket(Opening { bucket: bucket_of(seq), at_ms: now.wall_ms }) {
                fx.rows.push(Row::DropSends { chat: id, bucket });
            }
            fx.rows.push(chat.row(true));
        }
        fx.rows.push(Row::Event { chat: id, seq, epoch, bytes });
        chat.pending.push_back(Pending {
            seq,
            count: event.count,
            durable: false,
            payload: Payload::Event(payload),
            to: chat.ids.clone(),
            answers: vec![answer],
            then: VecDeque::new(),
            changed: Vec::new(),
        });
        self.pending += 1;
        self.gathered.push((id, seq));
    }

    /// Has the keys looked up that a chat's first waiting sends need.
    fn look_up(&mut self, now: Now, id: ChatId, fx: &mut Effects) {
        let Some(Slot::Hot { chat, waiting }) = self.slots.get_mut(&id) else { return };
        chat.looking = true;
        let at_ms = chat.last_at_ms.max(now.wall_ms);
        let keys = waiting.iter().take(LOOKUPS_AT_ONCE).filter_map(|(_, command)| key_of(command));
        let unknown = keys.filter(|key| chat.sends.get(key) == Known::Unknown);
        let buckets = chat.meta.buckets_of_keys(at_ms);
        let lookup =
            |key| Lookup { chat: id, key, at_ms, buckets: buckets.clone(), epoch: chat.certain.epoch, head: chat.head };
        fx.lookups.extend(unknown.map(lookup));
    }

    /// The end of some lookups.
    pub(crate) fn found(&mut self, now: Now, found: impl IntoIterator<Item = (Lookup, Found)>, fx: &mut Effects) {
        let mut chats = BTreeSet::new();
        let sole = self.fence.is_sole();
        for (lookup, found) in found {
            // One that was asked before the chat was last recovered says nothing of what came between.
            let Some(chat) = self.hot(lookup.chat).filter(|chat| chat.certain.epoch == lookup.epoch) else { continue };
            if let Some(hashes) = found.of_sender {
                chat.sends.complete(&lookup.key, hashes);
            }
            let mut sent = found.sent.into_iter();
            match sent.find(|(sent, row)| sole || is_in_log(&lookup.key, *sent, row, lookup.head)) {
                Some((sent, _)) => chat.sends.insert(lookup.key, sent, chat.head),
                None => chat.sends.vet(lookup.key),
            }
            chat.looking = false;
            chats.insert(lookup.chat);
        }
        for chat in chats {
            self.go_on(now, chat, fx);
        }
    }

    /// Keys could not be looked up: their sends are refused.
    pub(crate) fn lookups_failed(&mut self, now: Now, lookups: &[Lookup], fx: &mut Effects) {
        let mut chats = BTreeSet::new();
        for lookup in lookups {
            let Some(Slot::Hot { chat, waiting }) = self.slots.get_mut(&lookup.chat) else { continue };
            if chat.certain.epoch != lookup.epoch {
                continue;
            }
            chat.looking = false;
            let at = waiting.iter().position(|(_, command)| key_of(command).as_ref() == Some(&lookup.key));
            if let Some((origin, command)) = at.and_then(|at| waiting.remove(at)) {
                self.waiting -= 1;
                self.refuse(lookup.chat, origin, &command, unavailable(&command), fx);
            }
            chats.insert(lookup.chat);
        }
        for chat in chats {
            self.go_on(now, chat, fx);
        }
    }
}

/// A key's row is another's word until the log says the same: one that owned the chat before may have written it later.
fn is_in_log(key: &SendKey, sent: Sent, row: &Option<Bytes>, head: Seq) -> bool {
    if !rules::holds(Rule::CheckSendAgainstRow) {
        return true;
    }
    let event = row.as_ref().and_then(|bytes| Event::decode(&bytes[..]).ok());
    sent.seq <= head && event.and_then(|event| key_and_sent(&event)).is_some_and(|(found, _)| found == *key)
}

/// What an event in the log says of the send that made it.
pub(crate) fn key_and_sent(event: &Event) -> Option<(SendKey, Sent)> {
    let body_hash = sent_hash(event)?;
    let message_id = MessageId::from_slice(&event.message_id)?;
    let key = SendKey::new(UserId(event.sender_id), &event.device, &event.client_id, message_id);
    Some((key, Sent { seq: Seq(event.seq), message_id, created_at_ms: event.created_at_ms, body_hash }))
}

fn send_key(send: &Send) -> SendKey {
    SendKey::new(send.user, &send.device, &send.client_id, send.message_id)
}

fn key_of(command: &Command) -> Option<SendKey> {
    match command {
        Command::Send(send) => Some(send_key(send)),
        _ => None,
    }
}
