//! The owner of a set of chats: takes commands, gives out seqs, and says what to read, write, publish and answer.
//!
//! A chat that is not in memory is loaded first; a key that only the store knows is looked up first. Meanwhile what comes
//! for that chat waits behind it, in order; other chats go on.

#[cfg(test)]
mod model_test;

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::fanout::v1::Publication;
use confab_proto::message::v1::{self as pb, ChatKind, Event, MembershipKind, Role, event};
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

use super::chat::{Answer, BLOCK, Chat, Member, Pending};
use super::marks::{Marks, ReceiptClock};
use super::outbox::Outbox;
use super::sends::{Known, Sends, Sent};
use super::{Accepted, AddMembers, Command, Create, Effects, Lookup, Mark, Now, Origin, Outcome, Payload, Send, View};
use crate::error::{ChatError, MarkError, SendError};
use crate::store::{ChatRecord, Creation, CreationKey, MEMBERS_MAX, MemberRow, Meta, Opening, Row, SendKey, bucket_of};

/// How long a creation's key is remembered here after it, milliseconds: longer than any call that looked it up in vain.
const CREATION_KEPT_MS: u64 = 60_000;

/// Keys that one chat has looked up at once.
const LOOKUPS_AT_ONCE: usize = 64;

/// How long a chat's keys stay in memory after its last command, milliseconds.
const SENDS_REST_MS: u64 = 60_000;

/// How often raised watermarks are written, milliseconds.
const MARKS_EVERY_MS: u64 = 5_000;

/// The bounds of an owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Chats in memory; idle ones are forgotten beyond it, the least recently used first.
    pub hot_chats: usize,
    /// Commands that wait for a load, a lookup, the disk or fanout.
    pub in_flight: usize,
}

#[derive(Debug)]
enum Slot {
    /// In memory. `waiting` is not empty only while a key is looked up.
    Hot {
        chat: Box<Chat>,
        waiting: VecDeque<(Origin, Command)>,
    },
    Loading {
        waiting: VecDeque<(Origin, Command)>,
    },
}

/// The whole state of one owner.
#[derive(Debug)]
pub(crate) struct Owner {
    limits: Limits,
    slots: HashMap<ChatId, Slot>,
    next_chat: u64,
    creations: HashMap<CreationKey, (Creation, u64)>,
    outbox: Outbox,
    /// Events in the rows that are being gathered, and in those handed out, by commit.
    gathered: Vec<(ChatId, Seq)>,
    commits: HashMap<u64, Vec<(ChatId, Seq)>>,
    next_commit: u64,
    /// Commands in `waiting` queues, and events in `pending` ones.
    waiting: usize,
    pending: usize,
    receipts_due: BTreeSet<(u64, ChatId, UserId)>,
    dirty: BTreeSet<ChatId>,
    marks_written_ms: u64,
    /// The store failed: nothing is accepted any more, what waits is refused.
    failed: bool,
}

impl Owner {
    /// `next_chat`: a chat id above all that were given out.
    pub(crate) fn new(limits: Limits, next_chat: u64) -> Self {
        Self {
            limits,
            slots: HashMap::new(),
            next_chat,
            creations: HashMap::new(),
            outbox: Outbox::default(),
            gathered: Vec::new(),
            commits: HashMap::new(),
            next_commit: 0,
            waiting: 0,
            pending: 0,
            receipts_due: BTreeSet::new(),
            dirty: BTreeSet::new(),
            marks_written_ms: 0,
            failed: false,
        }
    }

    /// Whether it takes commands. At the bound it doesn't, and their streams wait.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting + self.pending + self.outbox.len() < self.limits.in_flight
    }

    /// Whether everything taken has been answered and settled, and all watermarks are on their way to the disk.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting + self.pending + self.outbox.len() == 0 && self.commits.is_empty() && self.dirty.is_empty()
    }

    /// A command on one chat.
    pub(crate) fn command(&mut self, now: Now, chat: ChatId, origin: Origin, command: Command, fx: &mut Effects) {
        if self.failed {
            return fx.replies.push((origin, unavailable(&command)));
        }
        match self.slots.get_mut(&chat) {
            Some(Slot::Hot { waiting, .. }) if waiting.is_empty() => self.run(now, chat, origin, command, fx),
            Some(Slot::Hot { waiting, .. } | Slot::Loading { waiting }) => {
                waiting.push_back((origin, command));
                self.waiting += 1;
            }
            None => {
                self.slots.insert(chat, Slot::Loading { waiting: VecDeque::from([(origin, command)]) });
                self.waiting += 1;
                fx.loads.push(chat);
            }
        }
    }

    /// A load's end; `None`: there is no such chat.
    pub(crate) fn loaded(&mut self, now: Now, chat: ChatId, record: Option<ChatRecord>, fx: &mut Effects) {
        let Some(Slot::Loading { waiting }) = self.slots.remove(&chat) else { return };
        match record {
            Some(record) => {
                let hot = Box::new(Chat::from_record(record));
                self.slots.insert(chat, Slot::Hot { chat: hot, waiting });
                self.go_on(now, chat, fx);
            }
            None => {
                self.waiting -= waiting.len();
                fx.replies.extend(waiting.into_iter().map(|(origin, command)| (origin, not_member(&command))));
            }
        }
    }

    /// The end of some lookups; `None`: the key is new.
    pub(crate) fn found(
        &mut self,
        now: Now,
        found: impl IntoIterator<Item = (Lookup, Option<Sent>)>,
        fx: &mut Effects,
    ) {
        let mut chats = BTreeSet::new();
        for (lookup, sent) in found {
            let Some(chat) = self.hot(lookup.chat) else { continue };
            match sent {
                Some(sent) => chat.sends.insert(lookup.key, sent, chat.head),
                None => chat.sends.vet(lookup.key),
            }
            chats.insert(lookup.chat);
        }
        for chat in chats {
            self.go_on(now, chat, fx);
        }
    }

    /// A chat could not be read: what waits for it is refused, and the next command tries again.
    pub(crate) fn load_failed(&mut self, chat: ChatId, fx: &mut Effects) {
        let Some(Slot::Loading { waiting }) = self.slots.remove(&chat) else { return };
        self.waiting -= waiting.len();
        fx.replies.extend(waiting.into_iter().map(|(origin, command)| (origin, unavailable(&command))));
    }

    /// Keys could not be looked up: their sends are refused.
    pub(crate) fn lookups_failed(&mut self, now: Now, lookups: &[Lookup], fx: &mut Effects) {
        let mut chats = BTreeSet::new();
        for lookup in lookups {
            let Some(Slot::Hot { waiting, .. }) = self.slots.get_mut(&lookup.chat) else { continue };
            let at = waiting.iter().position(|(_, command)| key_of(command).as_ref() == Some(&lookup.key));
            if let Some((origin, command)) = at.and_then(|at| waiting.remove(at)) {
                self.waiting -= 1;
                fx.replies.push((origin, unavailable(&command)));
            }
            chats.insert(lookup.chat);
        }
        for chat in chats {
            self.go_on(now, chat, fx);
        }
    }

    /// Has the keys looked up that a chat's first waiting sends need.
    fn look_up(&mut self, now: Now, id: ChatId, fx: &mut Effects) {
        let Some(Slot::Hot { chat, waiting }) = self.slots.get_mut(&id) else { return };
        let at_ms = chat.last_at_ms.max(now.wall_ms);
        let keys = waiting.iter().take(LOOKUPS_AT_ONCE).filter_map(|(_, command)| key_of(command));
        let unknown = keys.filter(|key| chat.sends.get(key) == Known::Unknown);
        fx.lookups.extend(unknown.map(|key| Lookup { chat: id, key, at_ms }));
    }

    /// Runs what waits for a chat until something has to be looked up.
    fn go_on(&mut self, now: Now, chat: ChatId, fx: &mut Effects) {
        while let Some(Slot::Hot { waiting, .. }) = self.slots.get_mut(&chat) {
            let lookups = fx.lookups.len();
            let Some((origin, command)) = waiting.pop_front() else { break };
            self.waiting -= 1;
            self.run(now, chat, origin, command, fx);
            if fx.lookups.len() > lookups {
                return;
            }
        }
        if let Some(chat) = self.hot(chat) {
            chat.sends.forget_vetted();
        }
    }

    fn run(&mut self, now: Now, chat: ChatId, origin: Origin, command: Command, fx: &mut Effects) {
        let Some(hot) = self.hot(chat) else { return };
        hot.used_ms = now.mono_ms;
        match command {
            Command::Send(send) => self.send(now, chat, origin, send, fx),
            Command::Mark(mark) => self.mark(now, chat, origin, &mark, fx),
            Command::View(View { user, device }) => fx.replies.push((
                origin,
                match hot.view(user, &device) {
                    Some(view) => Outcome::Viewed(Box::new(view)),
                    None => Outcome::ChatRefused(ChatError::NotMember),
                },
            )),
            Command::AddMembers(add) => self.add_members(now, chat, origin, add, fx),
        }
    }

    fn hot(&mut self, chat: ChatId) -> Option<&mut Chat> {
        match self.slots.get_mut(&chat) {
            Some(Slot::Hot { chat, .. }) => Some(chat),
            _ => None,
        }
    }

    fn send(&mut self, now: Now, id: ChatId, origin: Origin, send: Send, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        if chat.slot(send.user).is_none() {
            return fx.replies.push((origin, Outcome::SendRefused(SendError::NotMember)));
        }
        if send.content.reply_to > chat.last.0 {
            return fx.replies.push((origin, Outcome::SendRefused(SendError::ReplyBeyondHead)));
        }
        let key = send_key(&send);
        match chat.sends.get(&key) {
            Known::New => self.accept(now, id, origin, send, &key, fx),
            Known::Sent(sent) if sent.body_hash == body_hash(&send) => self.repeat(id, origin, sent, fx),
            Known::Sent(_) => fx.replies.push((origin, Outcome::SendRefused(SendError::Conflict))),
            Known::Unknown => {
                if let Some(Slot::Hot { waiting, .. }) = self.slots.get_mut(&id) {
                    waiting.push_front((origin, Command::Send(send)));
                    self.waiting += 1;
                }
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

    /// A new message: gives it its seq and hands it to the disk.
    fn accept(&mut self, now: Now, id: ChatId, origin: Origin, send: Send, key: &SendKey, fx: &mut Effects) {
        let body_hash = body_hash(&send);
        let Some(chat) = self.hot(id) else { return };
        let (seq, created_at_ms, count) = chat.take_seq(now.wall_ms, true);
        let accepted = Accepted { chat: id, seq, message_id: send.message_id, created_at_ms, duplicate: false };
        let sent = Sent { seq, message_id: send.message_id, created_at_ms, body_hash };
        chat.sends.insert(key.clone(), sent, chat.head);
        if let Some(slot) = chat.slot(send.user) {
            chat.members[slot].marks.own = seq;
            chat.dirty_blocks.insert(block_of(slot));
            self.dirty.insert(id);
        }
        let event = Event {
            chat_id: id.0,
            seq: seq.0,
            message_id: Bytes::copy_from_slice(&send.message_id.0),
            sender_id: send.user.0,
            device: send.device,
            client_id: send.client_id,
            created_at_ms,
            count,
            body: Some(event::Body::Content(send.content)),
        };
        fx.rows.push(Row::Send { chat: id, key: key.clone(), sent });
        self.append(now, id, &event, (origin, Answer::Accepted(accepted)), fx);
    }

    /// Puts an event into the log.
    fn append(&mut self, now: Now, id: ChatId, event: &Event, answer: (Origin, Answer), fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let seq = Seq(event.seq);
        let bytes = Bytes::from(event.encode_to_vec());
        if chat.opens_bucket(seq) {
            for bucket in chat.meta.open_bucket(Opening { bucket: bucket_of(seq), at_ms: now.wall_ms }) {
                fx.rows.push(Row::DropSends { chat: id, bucket });
            }
            fx.rows.push(Row::Chat(chat.meta.clone()));
        }
        fx.rows.push(Row::Event { chat: id, seq, bytes: bytes.clone() });
        chat.pending.push_back(Pending {
            seq,
            count: event.count,
            durable: false,
            payload: Payload::Event(bytes),
            to: chat.ids.clone(),
            answers: vec![answer],
        });
        self.pending += 1;
        self.gathered.push((id, seq));
    }

    fn mark(&mut self, now: Now, id: ChatId, origin: Origin, mark: &Mark, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let Some(slot) = chat.slot(mark.user) else {
            return fx.replies.push((origin, Outcome::MarkRefused(MarkError::NotMember)));
        };
        if mark.delivered.max(mark.read) > chat.head {
            return fx.replies.push((origin, Outcome::MarkRefused(MarkError::BeyondHead(chat.head))));
        }
        let direct = chat.meta.kind == ChatKind::Direct;
        let member = &mut chat.members[slot];
        let before = (member.marks.delivered(), member.marks.read);
        if !member.marks.raise(&mark.device, mark.delivered, mark.read) {
            return;
        }
        let told = direct && before != (member.marks.delivered(), member.marks.read);
        let tell = if told { member.receipts.changed(now.mono_ms) } else { Err(None) };
        chat.dirty_blocks.insert(block_of(slot));
        self.dirty.insert(id);
        match tell {
            Ok(()) => self.publish_receipt(id, mark.user, fx),
            Err(Some(due)) => drop(self.receipts_due.insert((due, id, mark.user))),
            Err(None) => {}
        }
    }

    fn publish_receipt(&mut self, id: ChatId, user: UserId, fx: &mut Effects) {
        let Some(Slot::Hot { chat, .. }) = self.slots.get(&id) else { return };
        let Some(slot) = chat.slot(user) else { return };
        let marks = &chat.members[slot].marks;
        let payload = Payload::Receipt { user, delivered: marks.delivered(), read: marks.read };
        fx.publications.push(self.outbox.publish(id, Seq::ZERO, chat.settled, chat.ids.clone(), payload));
    }

    fn add_members(&mut self, now: Now, id: ChatId, origin: Origin, add: AddMembers, fx: &mut Effects) {
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
        let mut fresh: Vec<UserId> = add.users.into_iter().filter(|user| chat.slot(*user).is_none()).collect();
        fresh.sort_unstable();
        fresh.dedup();
        if chat.members.len() + fresh.len() > MEMBERS_MAX {
            return fx.replies.push(refuse(ChatError::TooManyMembers));
        }
        let answer = Outcome::Added { users: fresh.clone(), members: chat.members.len() + fresh.len() };
        if fresh.is_empty() {
            return fx.replies.push((origin, answer));
        }
        let (seq, created_at_ms, count) = chat.take_seq(now.wall_ms, false);
        join(chat, &fresh, None, seq, created_at_ms, fx);
        let membership = pb::Membership {
            kind: MembershipKind::Added.into(),
            user_ids: fresh.iter().map(|user| user.0).collect(),
            title: String::new(),
            chat_kind: ChatKind::Group.into(),
            member_count: count_u32(chat.members.len()),
        };
        let event = Event {
            chat_id: id.0,
            seq: seq.0,
            message_id: Bytes::copy_from_slice(&add.message_id.0),
            sender_id: add.by.0,
            device: add.device,
            client_id: String::new(),
            created_at_ms,
            count,
            body: Some(event::Body::Membership(membership)),
        };
        self.append(now, id, &event, (origin, Answer::Now(answer)), fx);
    }

    /// Makes a chat, unless its key made one before.
    pub(crate) fn create(&mut self, now: Now, origin: Origin, create: Create, fx: &mut Effects) {
        if self.failed {
            return fx.replies.push((origin, Outcome::ChatRefused(ChatError::Unavailable)));
        }
        let body_hash = create.body_hash();
        if let Some((made, _)) = create.key.as_ref().and_then(|key| self.creations.get(key)) {
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
        let meta = Meta {
            chat: id,
            kind: create.kind,
            title: create.title.clone(),
            created_by: create.by,
            created_at_ms: now.wall_ms,
            openings: Vec::new(),
        };
        let mut chat = Chat::empty(meta, Sends::new(true));
        let (seq, created_at_ms, count) = chat.take_seq(now.wall_ms, false);
        let admin = (create.kind == ChatKind::Group).then_some(create.by);
        join(&mut chat, &create.members, admin, seq, created_at_ms, fx);
        chat.used_ms = now.mono_ms;
        if let Some(key) = create.key {
            let made = Creation { chat: id, body_hash };
            fx.rows.push(Row::Creation { key: key.clone(), made });
            self.creations.insert(key, (made, now.mono_ms));
        }
        let event = Event {
            chat_id: id.0,
            seq: seq.0,
            message_id: Bytes::copy_from_slice(&create.message_id.0),
            sender_id: create.by.0,
            device: create.device,
            client_id: String::new(),
            created_at_ms,
            count,
            body: Some(event::Body::Membership(pb::Membership {
                kind: MembershipKind::Created.into(),
                user_ids: Vec::new(),
                title: create.title,
                chat_kind: create.kind.into(),
                member_count: count_u32(chat.members.len()),
            })),
        };
        self.slots.insert(id, Slot::Hot { chat: Box::new(chat), waiting: VecDeque::new() });
        let answer = Answer::Now(Outcome::Created { chat: id, existed: false });
        self.append(now, id, &event, (origin, answer), fx);
    }

    /// The rows of the effects so far are handed to the store: their number, for [`Owner::committed`].
    pub(crate) fn seal(&mut self) -> u64 {
        self.next_commit += 1;
        self.commits.insert(self.next_commit, std::mem::take(&mut self.gathered));
        self.next_commit
    }

    /// A commit's rows are stored.
    pub(crate) fn committed(&mut self, now: Now, commit: u64, fx: &mut Effects) {
        for (id, seq) in self.commits.remove(&commit).unwrap_or_default() {
            let Some(Slot::Hot { chat, .. }) = self.slots.get_mut(&id) else { continue };
            for ready in chat.durable(seq) {
                self.pending -= 1;
                let publication = self.outbox.publish(id, ready.seq, chat.settled, ready.to, ready.payload);
                fx.publications.push(publication);
                for (origin, answer) in ready.answers {
                    match answer {
                        Answer::Accepted(accepted) => self.outbox.ack_when_accepted(now.mono_ms, origin, accepted),
                        Answer::Now(outcome) => fx.replies.push((origin, outcome)),
                    }
                }
            }
        }
    }

    /// The store failed. What was not acked is unknown, so it is refused as such, and nothing is taken any more: only a
    /// restart, which reads what is on the disk, can tell.
    pub(crate) fn store_failed(&mut self, fx: &mut Effects) {
        self.failed = true;
        for slot in self.slots.values_mut() {
            let waiting = match slot {
                Slot::Hot { chat, waiting } => {
                    for pending in chat.pending.drain(..) {
                        let refused = |(origin, answer)| (origin, unavailable_answer(&answer));
                        fx.replies.extend(pending.answers.into_iter().map(refused));
                    }
                    waiting
                }
                Slot::Loading { waiting } => waiting,
            };
            let refused = waiting.drain(..).map(|(origin, command)| (origin, unavailable(&command)));
            fx.replies.extend(refused);
        }
        (self.waiting, self.pending) = (0, 0);
        self.commits.clear();
    }

    /// Fanout answers for all publications up to `id`.
    pub(crate) fn fanout_accepted(&mut self, id: u64, fx: &mut Effects) {
        fx.replies.extend(self.outbox.accepted(id).map(|(origin, accepted)| (origin, Outcome::Accepted(accepted))));
    }

    /// Every edge that publication `id` concerns has it.
    pub(crate) fn fanout_settled(&mut self, id: u64) {
        if let Some((id, seq)) = self.outbox.settle(id)
            && let Some(chat) = self.hot(id)
        {
            chat.settle(seq);
        }
    }

    /// What a new stream to fanout begins with.
    pub(crate) fn unsettled(&self) -> Vec<Publication> {
        self.outbox.unsettled()
    }

    /// Does what is due by now: overdue acks, receipts, watermarks, forgetting.
    pub(crate) fn tick(&mut self, now: Now, fx: &mut Effects) {
        fx.replies
            .extend(self.outbox.overdue(now.mono_ms).map(|(origin, accepted)| (origin, Outcome::Accepted(accepted))));
        while let Some((due, id, user)) = self.receipts_due.first().copied()
            && due <= now.mono_ms
        {
            self.receipts_due.pop_first();
            if let Some(member) = self.hot(id).and_then(|chat| chat.member_mut(user)) {
                member.receipts.told(now.mono_ms);
            }
            self.publish_receipt(id, user, fx);
        }
        self.creations.retain(|_, (_, at)| *at + CREATION_KEPT_MS > now.mono_ms);
        if now.mono_ms >= self.marks_written_ms + MARKS_EVERY_MS {
            self.marks_written_ms = now.mono_ms;
            // Before their marks are on their way to the disk: a chat that is forgotten is read from there.
            self.shrink_idle(now);
            self.forget_idle();
            self.write_marks(fx);
        }
    }

    /// Hands out the rows of all raised watermarks.
    pub(crate) fn write_marks(&mut self, fx: &mut Effects) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(chat) = self.hot(id) else { continue };
            for block in std::mem::take(&mut chat.dirty_blocks) {
                let from = block as usize * BLOCK;
                let to = chat.members.len().min(from + BLOCK);
                let marks = chat.members[from..to].iter().map(|member| (member.user, member.marks.clone())).collect();
                fx.rows.push(Row::Marks { chat: id, block, marks });
            }
        }
    }

    /// Chats at rest forget the keys that the store has, where they are many.
    fn shrink_idle(&mut self, now: Now) {
        for slot in self.slots.values_mut() {
            if let Slot::Hot { chat, waiting } = slot
                && chat.used_ms + SENDS_REST_MS < now.mono_ms
                && chat.sends.is_large()
                && waiting.is_empty()
                && chat.is_idle()
            {
                chat.sends = Sends::new(false);
            }
        }
    }

    /// Forgets idle chats beyond the bound, a tenth at once, so that it isn't done for each.
    fn forget_idle(&mut self) {
        let beyond = self.slots.len().saturating_sub(self.limits.hot_chats);
        if beyond == 0 {
            return;
        }
        let idle = |slot: &Slot| match slot {
            Slot::Hot { chat, waiting } if waiting.is_empty() && chat.is_idle() => Some(chat.used_ms),
            _ => None,
        };
        let mut by_use: Vec<_> = self.slots.iter().filter_map(|(id, slot)| Some((idle(slot)?, *id))).collect();
        by_use.sort_unstable();
        for (_, id) in by_use.into_iter().take(beyond + self.limits.hot_chats / 10) {
            self.slots.remove(&id);
        }
    }
}

/// Makes them members as of the event at `seq`, with their rows.
fn join(chat: &mut Chat, users: &[UserId], admin: Option<UserId>, seq: Seq, at_ms: i64, fx: &mut Effects) {
    let first = chat.members.len();
    for user in users {
        chat.push_member(Member {
            user: *user,
            role: if admin == Some(*user) { Role::Admin } else { Role::Member },
            joined_at_ms: at_ms,
            joined_seq: seq,
            marks: Marks::default(),
            receipts: ReceiptClock::default(),
        });
    }
    chat.refresh_ids();
    fx.rows.extend(member_rows(chat, first..chat.members.len()));
}

fn member_rows(chat: &Chat, slots: std::ops::Range<usize>) -> Vec<Row> {
    slots
        .map(|slot| {
            let member = &chat.members[slot];
            Row::Member {
                chat: chat.id(),
                kind: chat.meta.kind,
                member: MemberRow {
                    user: member.user,
                    slot: count_u32(slot),
                    role: member.role,
                    joined_at_ms: member.joined_at_ms,
                    joined_seq: member.joined_seq,
                },
            }
        })
        .collect()
}

/// At most [`MEMBERS_MAX`], so it fits.
fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn block_of(slot: usize) -> u32 {
    count_u32(slot / BLOCK)
}

fn body_hash(send: &Send) -> u64 {
    xxh3_64(&send.content.encode_to_vec())
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

fn unavailable(command: &Command) -> Outcome {
    match command {
        Command::Send(_) => Outcome::SendRefused(SendError::Unavailable),
        Command::Mark(_) => Outcome::MarkRefused(MarkError::Unavailable),
        Command::View(_) | Command::AddMembers(_) => Outcome::ChatRefused(ChatError::Unavailable),
    }
}

fn unavailable_answer(answer: &Answer) -> Outcome {
    match answer {
        Answer::Accepted(_) => Outcome::SendRefused(SendError::Unavailable),
        Answer::Now(_) => Outcome::ChatRefused(ChatError::Unavailable),
    }
}

fn not_member(command: &Command) -> Outcome {
    match command {
        Command::Send(_) => Outcome::SendRefused(SendError::NotMember),
        Command::Mark(_) => Outcome::MarkRefused(MarkError::NotMember),
        Command::View(_) | Command::AddMembers(_) => Outcome::ChatRefused(ChatError::NotMember),
    }
}
