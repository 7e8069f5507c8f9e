//! What must hold, whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{Event, MembershipKind, event};
use prost::Message as _;

use crate::core::body::checks::{changes, is_or_was, is_same};
use crate::core::body::{Body, without_words};
use crate::core::recovery::LogRow;
use crate::store::MemberRow;

/// A sender's message in a chat.
pub(super) type Sending = (usize, ChatId, u64);

#[derive(Default)]
pub(super) struct Judge {
    acked: BTreeMap<Sending, Seq>,
    /// Their senders were told so, and went on without them: if they come yet, it is in no order.
    given_up: BTreeSet<Sending>,
    published: BTreeMap<(ChatId, Seq), Vec<u8>>,
    /// By the number of its key.
    made: BTreeMap<u64, ChatId>,
    /// Whether they are in the chat, by what was answered last.
    granted: BTreeMap<(ChatId, UserId), bool>,
    /// Of whom more than one thing was asked: a call that was given up may yet be done after the next one.
    unsure: BTreeSet<(ChatId, UserId)>,
    /// Events up to here, and what has changed them, were to expire.
    asked_to_be_silent: BTreeMap<ChatId, Seq>,
    pub fault: Option<String>,
}

impl Judge {
    pub(super) fn acked(&mut self, sending: Sending, seq: Seq) {
        let first = *self.acked.entry(sending).or_insert(seq);
        if first != seq {
            self.blame(format!("{sending:?} acked at {first} and at {seq}"));
        }
    }

    /// One that was acked before, though its sender didn't hear of it, has its place in the order.
    pub(super) fn gave_up(&mut self, sending: Sending) {
        if !self.acked.contains_key(&sending) {
            self.given_up.insert(sending);
        }
    }

    pub(super) fn published(&mut self, chat: ChatId, seq: Seq, event: &[u8]) {
        let first = self.published.entry((chat, seq)).or_insert_with(|| event.to_vec());
        if first != event {
            self.blame(format!("two events were published at {seq} of chat {chat}"));
        }
    }

    pub(super) fn made(&mut self, key: u64, chat: ChatId) {
        let first = *self.made.entry(key).or_insert(chat);
        if first != chat {
            self.blame(format!("key {key} has made chats {first} and {chat}"));
        }
    }

    pub(super) fn chats_made(&self) -> impl Iterator<Item = ChatId> + use<> {
        self.made.clone().into_values()
    }

    pub(super) fn granted(&mut self, chat: ChatId, user: UserId, is_in: bool) {
        if self.granted.insert((chat, user), is_in).is_some() {
            self.unsure.insert((chat, user));
        }
    }

    /// Of those who were added later: who is in a chat, or has been.
    pub(super) fn members_granted(&self) -> impl Iterator<Item = (ChatId, UserId, bool)> {
        self.granted.iter().map(|((chat, user), is_in)| (*chat, *user, *is_in))
    }

    /// The members and the title of a chat, at the end: those of its row are those of its log, and each has the chat in their list.
    pub(super) fn members(
        &mut self,
        chat: ChatId,
        rows: &[LogRow],
        (as_of, members, title): (Seq, &[MemberRow], &str),
        unlisted: Option<UserId>,
    ) {
        let there: BTreeSet<UserId> =
            members.iter().filter(|member| member.is_in()).map(|member| member.user).collect();
        let mut in_log: BTreeSet<UserId> = there.iter().copied().filter(|user| user.0 < 100).collect();
        let mut named = String::new();
        let head = as_of.max(self.head(chat));
        let certain = rows.iter().take_while(|row| row.seq <= head);
        for event in certain.filter_map(|row| Event::decode(&row.bytes[..]).ok()) {
            let Some(event::Body::Membership(membership)) = event.body else { continue };
            let users = membership.user_ids.iter().copied().map(UserId);
            match membership.kind() {
                MembershipKind::Added => in_log.extend(users),
                MembershipKind::Removed => in_log.retain(|user| !membership.user_ids.contains(&user.0)),
                MembershipKind::Renamed => named = membership.title,
                _ => {}
            }
        }
        if in_log.is_empty() || rows.len() < 2 && self.made.values().any(|made| *made == chat) {
            return self.blame(format!("chat {chat} was made, and is not there"));
        }
        if in_log != there {
            return self.blame(format!("chat {chat} has the members {there:?}, and in its log {in_log:?}"));
        }
        if named != title {
            return self.blame(format!("chat {chat} is called {title:?}, and in its log {named:?}"));
        }
        if let Some(user) = unlisted {
            return self.blame(format!("the list of {user} says something else of chat {chat} than the chat"));
        }
        let sure = self.granted.keys().filter(|(of, user)| *of == chat && !self.unsure.contains(&(chat, *user)));
        let lost = sure.map(|(_, user)| *user).find(|user| !there.contains(user));
        if let Some(user) = lost {
            self.blame(format!("{user} has joined chat {chat}, and is no member"));
        }
    }

    pub(super) fn asked_to_be_silent(&mut self, chat: ChatId, upto: Seq) {
        let known = self.asked_to_be_silent.entry(chat).or_default();
        *known = upto.max(*known);
    }

    /// Whether an event may have expired.
    pub(super) fn may_be_silent(&self, chat: ChatId, seq: Seq) -> bool {
        self.asked_to_be_silent.get(&chat).is_some_and(|upto| seq <= *upto)
    }

    pub(super) fn acks(&self) -> u64 {
        self.acked.len() as u64
    }

    fn blame(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// What anybody was told of a chat's log ends here.
    fn head(&self, chat: ChatId) -> Seq {
        let acked = self.acked.iter().filter(|((_, of, _), _)| *of == chat).map(|(_, seq)| *seq);
        let published = self.published.keys().filter(|(of, _)| *of == chat).map(|(_, seq)| *seq);
        acked.chain(published).max().unwrap_or(Seq::ZERO)
    }

    /// The whole log of a chat, at the end, and up to where it says that its messages have expired.
    pub(super) fn log(&mut self, chat: ChatId, rows: &[LogRow], expired_upto: Seq) {
        let asked_to_be_silent = self.asked_to_be_silent.get(&chat).copied().unwrap_or_default();
        let head = self.head(chat);
        let mut last_of_sender: BTreeMap<u64, u64> = BTreeMap::new();
        let mut at: BTreeMap<(u64, u64), Seq> = BTreeMap::new();
        let mut certain = BTreeMap::new();
        for (row, expected) in rows.iter().zip(0..).take_while(|(row, _)| row.seq <= head) {
            if row.seq != Seq(expected) {
                return self.blame(format!("chat {chat} has {} where {expected} should be", row.seq));
            }
            if row.seq == Seq::ZERO {
                continue;
            }
            let event = Event::decode(&row.bytes[..]).unwrap_or_default();
            let published = self.published.get(&(chat, row.seq));
            let published = published.map(|bytes| Event::decode(&bytes[..]).unwrap_or_default());
            let may_be_silent = is_of(&event, asked_to_be_silent);
            let is_silent = without_words(&event).is_none();
            if is_of(&event, expired_upto) && !is_silent {
                return self.blame(format!("what was said at {} of chat {chat} has expired, and is there", row.seq));
            }
            let is_told = |told: &Event| is_or_was(told, &event) || may_be_silent && is_silent && is_same(told, &event);
            if published.is_some_and(|published| !is_told(&published)) {
                return self.blame(format!("what was published at {} of chat {chat} is not in the log", row.seq));
            }
            if !may_be_silent {
                certain.insert(row.seq.0, event.clone());
            }
            if matches!(event.body, Some(event::Body::Membership(_))) {
                continue;
            }
            let n: u64 = event.client_id.parse().unwrap_or_default();
            if let Some(before) = at.insert((event.sender_id, n), row.seq) {
                return self.blame(format!("chat {chat}: {}'s {n} is at {before} and at {}", event.sender_id, row.seq));
            }
            let sender = usize::try_from(event.sender_id).unwrap_or_default() - 1;
            if self.given_up.contains(&(sender, chat, n)) {
                continue;
            }
            if last_of_sender.insert(event.sender_id, n).is_some_and(|last| last > n) {
                return self.blame(format!("chat {chat}: {}'s {n} comes too late, at {}", event.sender_id, row.seq));
            }
        }
        if let Err(why) = changes(&certain, head.0) {
            return self.blame(format!("chat {chat}: {why}"));
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

/// Whether an event expires with the messages up to here.
fn is_of(event: &Event, upto: Seq) -> bool {
    event.seq <= upto.0 || matches!(&event.body, Some(Body::Edit(edit)) if edit.target <= upto.0)
}
