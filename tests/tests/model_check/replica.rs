//! What a device knows, from nothing but the frames that it got; and what it finds wrong with them as they come.

mod chat;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::event::{Event, Role, is_event};
use crate::finding::{Finding, Kind};

pub(crate) use chat::{Chat, Marks, Standing, Text};

/// The `ref` of a `history` that asks for what is before the first event that is here.
pub(crate) const BACK: &str = "back";

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub user: u64,
    pub device: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.device)
    }
}

#[derive(Debug)]
pub(crate) struct Replica {
    pub id: Id,
    pub chats: BTreeMap<u64, Chat>,
    /// It has been connected all the time since this was set: who was away asks for receipts.
    pub stayed: bool,
    /// How it is connected, for who reads of it.
    pub by: String,
    findings: Vec<Finding>,
}

impl Replica {
    pub(crate) fn new(id: Id) -> Self {
        Self { id, chats: BTreeMap::new(), stayed: false, by: String::new(), findings: Vec::new() }
    }

    pub(crate) fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    pub(crate) fn find(&mut self, kind: Kind, chat: u64, expected: impl Into<String>, found: impl Into<String>) {
        let found = format!("{} ({})", found.into(), self.by);
        self.findings.push(Finding::new(kind, chat, &self.id, expected, found));
    }

    /// For a `sync`: by chat, up to where it has everything.
    pub(crate) fn positions(&self) -> Vec<(u64, u64)> {
        self.chats.iter().map(|(chat, known)| (*chat, known.position)).collect()
    }

    /// The last seq that it has of a chat.
    pub(crate) fn position(&self, chat: u64) -> u64 {
        self.chats.get(&chat).map_or(0, |known| known.position)
    }

    /// Takes a frame; what isn't an answer to something that it said.
    pub(crate) fn take(&mut self, frame: &Value) {
        match frame["type"].as_str() {
            _ if is_event(frame) => match Event::read(frame) {
                Ok(event) => self.take_event(event),
                Err(error) => self.find(Kind::Connection, 0, "an event that can be read", error.to_string()),
            },
            Some("gap") => self.take_gap(frame),
            Some("history") => self.take_history(frame),
            Some("receipt") => self.take_receipt(frame),
            Some("synced") => self.take_synced(frame),
            // Presence and typing are told of now, and not kept.
            _ => {}
        }
    }

    fn take_event(&mut self, event: Event) {
        let (id, user) = (event.chat, self.id.user);
        let seq = event.seq;
        let known = self.chats.entry(id).or_insert_with(|| Chat::beginning_after(seq - 1));
        if let Err((kind, expected)) = known.take(event, user) {
            self.find(kind, id, expected, format!("seq {seq}"));
        }
    }

    /// docs/protocol.md, "Catch-up": the newest 1,000 come, the rest is to be had by `history`.
    fn take_gap(&mut self, frame: &Value) {
        let number = |name: &str| frame[name].as_u64().unwrap_or_default();
        let (id, from, to) = (number("chat_id"), number("from"), number("to"));
        let known = self.chats.entry(id).or_insert_with(Chat::unseen);
        let position = known.position;
        if !known.leave_out(from, to) {
            self.find(Kind::Missing, id, format!("a gap from {}", position + 1), frame.to_string());
        }
    }

    fn take_history(&mut self, frame: &Value) {
        let id = frame["chat_id"].as_u64().unwrap_or_default();
        let Some(events) = frame["events"].as_array() else { return };
        let mut read = Vec::with_capacity(events.len());
        for event in events {
            match Event::read(event) {
                Ok(event) => read.push(event),
                Err(error) => self.find(Kind::Connection, id, "an event that can be read", error.to_string()),
            }
        }
        let Some(known) = self.chats.get_mut(&id) else { return };
        let (is_last, is_asked_back) = (frame["more"] == false, frame["ref"] == BACK);
        for (kind, expected, found) in known.take_page(read, is_last, is_asked_back) {
            self.find(kind, id, expected, found);
        }
    }

    fn take_receipt(&mut self, frame: &Value) {
        let number = |name: &str| frame[name].as_u64();
        let named = (number("chat_id"), number("user_id"), number("delivered"), number("read"));
        // In large chats they are numbers; here there are none.
        let (Some(id), Some(user), Some(delivered), Some(read)) = named else { return };
        // Of a chat that it has not heard of yet.
        let known = self.chats.entry(id).or_insert_with(Chat::unseen);
        let told = Marks { delivered, read };
        let before = known.receipts.insert(user, told);
        if let Some(before) = before.filter(|before| before.delivered > delivered || before.read > read) {
            known.receipts.insert(user, before.max(told));
            self.find(Kind::ReceiptWentBack, id, format!("of user {user} at least {before:?}"), format!("{told:?}"));
        }
    }

    /// All that was missed has come before it.
    fn take_synced(&mut self, frame: &Value) {
        let Some(chats) = frame["chats"].as_object() else { return };
        for (chat, head) in chats {
            let (Ok(id), Some(head)) = (chat.parse(), head.as_u64()) else { continue };
            let known = self.chats.entry(id).or_insert_with(Chat::unseen);
            if known.is_unseen() {
                known.begin_at(head);
            } else if known.position != head {
                let found = format!("synced {head}, and it has up to {}", known.position);
                self.find(Kind::Missing, id, "all up to what `synced` says", found);
            }
        }
    }

    /// What the server said of a chat by HTTP, asked when the device was at `asked_at`.
    pub(crate) fn introduced(&mut self, chat: u64, asked_at: u64, title: String, roster: BTreeMap<u64, Role>) {
        if let Some(known) = self.chats.get_mut(&chat) {
            known.introduced(asked_at, title, roster);
        }
    }

    /// Who has got a message of its user, and who has read it.
    pub(crate) fn asked_for_receipts(&mut self, chat: u64, message: u64, told: &BTreeMap<u64, (bool, bool)>) {
        let Some(known) = self.chats.get_mut(&chat) else { return };
        for (user, (delivered, read)) in told {
            let upto = |is_so: bool| if is_so { message } else { 0 };
            let marks = known.asked.entry(*user).or_default();
            *marks = marks.max(Marks { delivered: upto(*delivered), read: upto(*read) });
        }
    }

    /// What the server says of its own user's watermarks.
    pub(crate) fn told_own_marks(&mut self, chat: u64, told: Marks) {
        let user = self.id.user;
        if let Some(known) = self.chats.get_mut(&chat) {
            let marks = known.asked.entry(user).or_default();
            *marks = marks.max(told);
        }
    }
}
