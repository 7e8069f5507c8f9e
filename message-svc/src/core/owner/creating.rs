//! Chats that are made, and members that join them.

use std::collections::VecDeque;
use std::ops::Range;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{self as pb, ChatKind, MembershipKind, Role, event};

use super::marking::count_u32;
use super::{Owner, Slot};
use crate::core::chat::{Answer, Author, Chat, Member, Place};
use crate::core::marks::Marks;
use crate::core::sends::Sends;
use crate::core::{AddMembers, Command, Create, Effects, Now, Origin, Outcome};
use crate::error::ChatError;
use crate::store::{Creation, MEMBERS_MAX, Meta, Opening, Row};

impl Owner {
    pub(super) fn add_members(&mut self, now: Now, id: ChatId, origin: Origin, mut add: AddMembers, fx: &mut Effects) {
        let alone = self.fence.is_sole();
        let refuse = |error| (origin, Outcome::ChatRefused(error));
        let Some(chat) = self.hot(id) else { return };
        let Some(slot) = chat.slot(add.by) else {
            return fx.replies.push(refuse(ChatError::NotMember));
        };
        if chat.meta.kind != ChatKind::Group {
            return fx.replies.push(refuse(ChatError::DirectIsFixed));
        }
        if chat.members[slot].role != Role::Admin {
            return fx.replies.push(refuse(ChatError::NotAdmin));
        }
        let users = std::mem::take(&mut add.users);
        let mut fresh: Vec<UserId> = users.into_iter().filter(|user| chat.slot(*user).is_none()).collect();
        fresh.sort_unstable();
        fresh.dedup();
        if chat.members.len() + fresh.len() > MEMBERS_MAX {
            return fx.replies.push(refuse(ChatError::TooManyMembers));
        }
        let answer = Outcome::Added { users: fresh.clone(), members: chat.members.len() + fresh.len() };
        if fresh.is_empty() {
            return fx.replies.push((origin, answer));
        }
        if !alone && !chat.pending.is_empty() {
            chat.barrier = chat.last;
            add.users = fresh;
            return self.wait_in_front(id, origin, Command::AddMembers(add));
        }
        let place = chat.take_place(now.wall_ms, false);
        let joined = join(chat, &fresh, None, place);
        if alone {
            fx.rows.extend(member_rows(chat, joined.clone()));
        }
        let membership = pb::Membership {
            kind: MembershipKind::Added.into(),
            user_ids: fresh.iter().map(|user| user.0).collect(),
            title: String::new(),
            chat_kind: ChatKind::Group.into(),
            member_count: count_u32(chat.members.len()),
        };
        let author = Author { user: add.by, device: add.device, client_id: String::new(), message_id: add.message_id };
        let event = place.event(id, author, event::Body::Membership(membership));
        self.append(now, id, &event, (origin, Answer::Now(answer)), fx);
        if !alone {
            self.change_members(id, joined);
        }
    }

    /// Where there are other owners, nothing else is under way while members change: their lists and the chat's row are
    /// written when the event is stored, one after the other, and it counts as durable after that.
    pub(super) fn change_members(&mut self, id: ChatId, joined: Range<usize>) {
        let Some(chat) = self.hot(id) else { return };
        chat.roster_seq = chat.last;
        chat.barrier = chat.last;
        let then = VecDeque::from([member_rows(chat, joined), vec![chat.row(false)]]);
        if let Some(event) = chat.pending.back_mut() {
            event.then = then;
        }
    }

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
            let answer = Outcome::Created { chat, existed: true };
            match self.hot(chat).and_then(|chat| chat.pending.front_mut()).filter(|first| first.seq == Seq(1)) {
                // Not before it is durable.
                Some(created) => created.answers.push((origin, Answer::Now(answer))),
                None => fx.replies.push((origin, answer)),
            }
            return;
        }
        // Someone may have asked for a chat before it is there: its load is under way, and will say that there is none.
        while self.slots.contains_key(&ChatId(self.next_chat)) {
            self.next_chat += 1;
        }
        let id = ChatId(self.next_chat);
        self.next_chat += 1;
        let mut chat = create.chat(id, now.wall_ms, Vec::new());
        fx.rows.extend(member_rows(&chat, 0..chat.members.len()));
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
        };
        let mut chat = Chat::empty(meta, Sends::new(true));
        let admin = (self.kind == ChatKind::Group).then_some(self.by);
        join(&mut chat, &self.members, admin, Place { seq: Seq(1), created_at_ms: at_ms, count: 0 });
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
        };
        let Self { by: user, device, message_id, .. } = self;
        let author = Author { user, device, client_id: String::new(), message_id };
        place.event(chat, author, event::Body::Membership(membership))
    }
}

/// Makes them members as of the event at this place; in these slots.
fn join(chat: &mut Chat, users: &[UserId], admin: Option<UserId>, place: Place) -> Range<usize> {
    let first = chat.members.len();
    for user in users {
        let role = if admin == Some(*user) { Role::Admin } else { Role::Member };
        chat.push_member(Member::new(*user, role, place.created_at_ms, place.seq, Marks::default()));
    }
    chat.refresh_ids();
    first..chat.members.len()
}

fn member_rows(chat: &Chat, slots: Range<usize>) -> Vec<Row> {
    let row = |slot: usize| Row::Member { chat: chat.id(), kind: chat.meta.kind, member: chat.members[slot].row(slot) };
    slots.map(row).collect()
}
