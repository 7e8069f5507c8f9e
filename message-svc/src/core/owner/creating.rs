//! Chats that are made.

use std::collections::VecDeque;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{self as pb, ChatKind, MembershipKind, Role, event};

use super::marking::count_u32;
use super::membership::list_rows;
use super::{Owner, Slot};
use crate::core::chat::{Answer, Author, Chat, Place};
use crate::core::marks::Marks;
use crate::core::sends::Sends;
use crate::core::{Create, Effects, Now, Origin, Outcome};
use crate::error::ChatError;
use crate::store::{Creation, MemberRow, Meta, Opening, Row};

impl Owner {
    /// Makes a chat, unless its key made one before.
    pub(crate) fn create(&mut self, now: Now, origin: Origin, create: Create, fx: &mut Effects) {
        if self.failed {
            return fx.replies.push((origin, Outcome::ChatRefused(ChatError::Unavailable)));
        }
        if !self.fence.is_sole() {
            return self.create_among(now, origin, create, fx);
        }
        let body_hash = create.body_hash();
        if let Some((made, _)) = self.creations.get(&create.key) {
            let chat = made.chat;
            if made.body_hash != body_hash {
                return fx.replies.push((origin, Outcome::ChatRefused(ChatError::Conflict)));
            }
            return self.exists(chat, origin, fx);
        }
        // Someone may have asked for a chat before it is there: its load is under way, and will say that there is none.
        while self.slots.contains_key(&ChatId(self.next_chat)) {
            self.next_chat += 1;
        }
        let id = ChatId(self.next_chat);
        self.next_chat += 1;
        let mut chat = create.chat(id, now.wall_ms, Vec::new());
        fx.rows.extend(list_rows(&chat, chat.rows()));
        let place = chat.take_place(now.wall_ms, false);
        chat.used_ms = now.mono_ms;
        let made = Creation { chat: id, body_hash };
        fx.rows.push(Row::Creation { key: create.key.clone(), made });
        self.creations.insert(create.key.clone(), (made, now.mono_ms));
        let event = create.event(id, place, chat.members.len());
        self.slots.insert(id, Slot::Hot { chat: Box::new(chat), waiting: VecDeque::new() });
        let answer = Answer::Now(Outcome::Created { chat: id, existed: false });
        self.append(now, id, &event, (origin, answer), fx);
    }

    /// Answers that a chat is there; not before its first event is durable, for nobody sees it before.
    pub(super) fn exists(&mut self, id: ChatId, origin: Origin, fx: &mut Effects) {
        let answer = Outcome::Created { chat: id, existed: true };
        match self.hot(id).and_then(|chat| chat.pending.front_mut()).filter(|first| first.seq == Seq(1)) {
            Some(created) => created.answers.push((origin, Answer::Now(answer))),
            None => fx.replies.push((origin, answer)),
        }
    }
}

impl Create {
    /// The chat with its members, who join with the first event; its log is still empty.
    pub(super) fn chat(&self, id: ChatId, at_ms: i64, openings: Vec<Opening>) -> Chat {
        let meta = Meta {
            chat: id,
            kind: self.kind,
            title: self.title.clone(),
            created_by: self.by,
            created_at_ms: at_ms,
            openings,
            expired_upto: Seq::ZERO,
        };
        let mut chat = Chat::empty(meta, Sends::new(true));
        let is_admin = |user: &UserId| self.kind == ChatKind::Group && *user == self.by;
        let row = |(user, slot): (&UserId, u32)| MemberRow {
            user: *user,
            slot,
            role: if is_admin(user) { Role::Admin } else { Role::Member },
            joined_at_ms: at_ms,
            joined_seq: Seq(1),
            left_seq: Seq::ZERO,
        };
        chat.take_rows(self.members.iter().zip(0..).map(|member| (row(member), Marks::default())));
        chat
    }

    /// The first event of the chat's log.
    pub(super) fn event(self, chat: ChatId, place: Place, members: usize) -> pb::Event {
        let membership = pb::Membership {
            kind: MembershipKind::Created.into(),
            user_ids: Vec::new(),
            title: self.title,
            chat_kind: self.kind.into(),
            member_count: count_u32(members),
            role: Role::Unspecified.into(),
        };
        let Self { by: user, device, message_id, .. } = self;
        let author = Author { user, device, client_id: String::new(), message_id };
        place.event(chat, author, event::Body::Membership(membership))
    }
}
