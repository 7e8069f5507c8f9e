//! The owner of a set of chats: takes commands, gives out seqs, and says what to read, write, publish and answer.
//!
//! A chat that is not in memory is loaded first; a key that only the store knows is looked up first. Meanwhile what comes
//! for that chat waits behind it, in order; other chats go on.
//!
//! ```text
//! sending.rs     a message's way into the log       marking.rs   watermarks
//! changing.rs    edits, deletions, reactions        durable.rs   what is written, and then
//! creating.rs    chats that are made                fenced.rs    among other owners: recovery, shards that come and go
//! membership.rs  members, roles, titles             making.rs    among other owners: chats that are made
//! expiring.rs    what is too old
//! ```

mod changing;
mod creating;
#[cfg(test)]
mod creating_test;
mod durable;
mod expiring;
#[cfg(test)]
mod expiring_test;
mod fenced;
mod making;
mod marking;
mod membership;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod receipts_test;
mod sending;

use std::collections::{BTreeSet, VecDeque};

use super::chat::{Answer, Chat};
use super::chat_ids::ChatIds;
use super::maps::HashMap;
use super::outbox::Outbox;
use super::ownership::Ownership;
use super::recovery::Recovery;
use super::refusals::Refusals;
use super::sends::Sends;
use super::tail::Tails;
use super::{Command, Effects, Load, Now, Origin, Outcome};
use crate::error::{ChatError, MarkError, SendError};
use crate::store::{ChatRecord, Creation, CreationKey};
use confab_ids::{ChatId, Seq, Shard, UserId};

pub(crate) use durable::Write;
pub(crate) use fenced::Answered;
pub(crate) use sending::key_and_sent;

/// How long a creation's key is remembered here after it, milliseconds: longer than any call that looked it up in vain.
const CREATION_KEPT_MS: u64 = 60_000;

/// How long a chat's keys stay in memory after its last command, milliseconds.
const SENDS_REST_MS: u64 = 60_000;

/// How often raised watermarks are written, milliseconds.
const MARKS_EVERY_MS: u64 = 5_000;

/// [`Limits::window`] of this version: so many events of a chat per round trip to the store, at most. What a successor looks at,
/// and writes again, is twice as much.
pub(crate) const WINDOW: u32 = 16;

#[cfg(not(test))]
const _: () = assert!(WINDOW <= WINDOW_MAX);

/// No version has had more. (In tests few, so that it is filled.)
pub(crate) const WINDOW_MAX: u32 = if cfg!(test) { 4 } else { 64 };

/// The bounds of an owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Chats in memory; idle ones are forgotten beyond it, the least recently used first.
    pub hot_chats: usize,
    /// Commands that wait for a load, a lookup, the disk or fanout.
    pub in_flight: usize,
    /// Seqs of a chat beyond its head that may be on their way to the store, where there are other owners; at most
    /// [`WINDOW_MAX`].
    pub window: u32,
}

#[derive(Debug)]
enum Slot {
    /// In memory. What is `waiting` waits for a lookup, a bucket, or room in the window.
    Hot { chat: Box<Chat>, waiting: VecDeque<(Origin, Command)> },
    /// `recovery`: its rows are there, and its log is being recovered.
    Loading { load: Load, waiting: VecDeque<(Origin, Command)>, recovery: Option<Box<Recovery>> },
}

/// Whether this owner is the only one there is.
#[derive(Debug)]
enum Fence {
    Sole,
    Among(Box<Ownership>),
}

impl Fence {
    /// Whether commands on a shard's chats may be taken now; if not, there may be news about who owns it.
    fn serves(&mut self, now: Now, shard: Shard) -> bool {
        let Self::Among(ownership) = self else { return true };
        let serves = ownership.serves(now, shard);
        if !serves {
            ownership.mistaken(shard);
        }
        serves
    }

    fn holds(&self, now: Now) -> bool {
        match self {
            Self::Sole => true,
            Self::Among(ownership) => ownership.holds(now),
        }
    }

    /// The timestamp of a write; `None`: it may not be made.
    fn stamp(&mut self, now: Now) -> Option<i64> {
        match self {
            Self::Sole => Some(0),
            Self::Among(ownership) => ownership.stamp(now),
        }
    }

    fn is_sole(&self) -> bool {
        matches!(self, Self::Sole)
    }
}

/// The whole state of one owner.
#[derive(Debug)]
pub(crate) struct Owner {
    limits: Limits,
    fence: Fence,
    slots: HashMap<ChatId, Slot>,
    loads: u64,
    next_chat: u64,
    creations: HashMap<CreationKey, (Creation, u64)>,
    making: HashMap<CreationKey, making::Making>,
    ids: ChatIds,
    taking_ids: bool,
    outbox: Outbox,
    /// Events in the rows that are being gathered.
    gathered: Vec<(ChatId, Seq)>,
    commits: HashMap<u64, durable::Commit>,
    next_commit: u64,
    /// Durable, and not the head yet because the lease doesn't hold: it may be another's meanwhile.
    unconfirmed: BTreeSet<ChatId>,
    /// Stored, and what is to be written after them isn't, for the same reason.
    unwritten: BTreeSet<(ChatId, Seq)>,
    refusals: Refusals,
    tails: Tails,
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
    /// The only owner of all chats. `next_chat`: a chat id above all that were given out.
    pub(crate) fn sole(limits: Limits, next_chat: u64) -> Self {
        Self::new(limits, Fence::Sole, next_chat)
    }

    /// One of several owners, each of its shards.
    pub(crate) fn among(limits: Limits, ownership: Ownership) -> Self {
        Self::new(limits, Fence::Among(Box::new(ownership)), 0)
    }

    fn new(limits: Limits, fence: Fence, next_chat: u64) -> Self {
        Self {
            limits,
            fence,
            slots: HashMap::default(),
            loads: 0,
            next_chat,
            creations: HashMap::default(),
            making: HashMap::default(),
            ids: ChatIds::default(),
            taking_ids: false,
            outbox: Outbox::default(),
            gathered: Vec::new(),
            commits: HashMap::default(),
            next_commit: 0,
            unconfirmed: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            refusals: Refusals::default(),
            tails: Tails::default(),
            waiting: 0,
            pending: 0,
            receipts_due: BTreeSet::new(),
            dirty: BTreeSet::new(),
            marks_written_ms: 0,
            failed: false,
        }
    }

    /// Seqs of a chat that may be on their way to the store; `None`: as many as there are.
    fn window(&self) -> Option<usize> {
        (!self.fence.is_sole()).then_some(self.limits.window as usize)
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
        if !self.fence.serves(now, Shard::of_chat(chat)) || !self.refusals.admit(chat, origin, &command) {
            return self.turn_away(chat, origin, &command, fx);
        }
        match self.slots.get_mut(&chat) {
            Some(Slot::Hot { waiting, .. }) if waiting.is_empty() => self.run(now, chat, origin, command, fx),
            Some(Slot::Hot { waiting, .. } | Slot::Loading { waiting, .. }) => {
                waiting.push_back((origin, command));
                self.waiting += 1;
            }
            None => {
                self.loads += 1;
                let load = Load { chat, number: self.loads };
                let waiting = VecDeque::from([(origin, command)]);
                self.slots.insert(chat, Slot::Loading { load, waiting, recovery: None });
                self.waiting += 1;
                fx.loads.push(load);
            }
        }
    }

    /// Another owner's, or nobody's at the moment.
    fn turn_away(&mut self, chat: ChatId, origin: Origin, command: &Command, fx: &mut Effects) {
        self.refuse(chat, origin, command, not_owner(command), fx);
    }

    /// Refuses a command for a reason that passes. What the session has sent after it is refused as well.
    fn refuse(&mut self, chat: ChatId, origin: Origin, command: &Command, outcome: Outcome, fx: &mut Effects) {
        self.refusals.refused(chat, origin, command);
        fx.replies.push((origin, outcome));
    }

    /// A load's end; `None`: there is no such chat.
    pub(crate) fn loaded(&mut self, now: Now, load: Load, record: Option<ChatRecord>, fx: &mut Effects) {
        if !self.awaits(load) {
            return;
        }
        let chat = load.chat;
        match record {
            Some(record) if self.fence.is_sole() => self.make_hot(now, chat, Chat::from_record(record), fx),
            Some(record) => self.recover(now, load, record, fx),
            None => self.absent(now, chat, fx),
        }
    }

    /// Whether a read is still of use. One that was asked before the chat was dropped knows nothing of what came then.
    fn awaits(&self, read: Load) -> bool {
        matches!(self.slots.get(&read.chat), Some(Slot::Loading { load, .. }) if *load == read)
    }

    fn make_hot(&mut self, now: Now, id: ChatId, mut chat: Chat, fx: &mut Effects) {
        let Some(Slot::Loading { waiting, .. }) = self.slots.remove(&id) else { return };
        self.tails.admit(&mut chat.tail);
        self.slots.insert(id, Slot::Hot { chat: Box::new(chat), waiting });
        self.go_on(now, id, fx);
    }

    /// A chat could not be read: what waits for it is refused, and the next command tries again.
    pub(crate) fn load_failed(&mut self, load: Load, fx: &mut Effects) {
        if !self.awaits(load) {
            return;
        }
        let chat = load.chat;
        let Some(Slot::Loading { waiting, .. }) = self.slots.remove(&chat) else { return };
        self.waiting -= waiting.len();
        for (origin, command) in waiting {
            self.refuse(chat, origin, &command, unavailable(&command), fx);
        }
    }

    /// Runs what waits for a chat until something has to be waited for.
    fn go_on(&mut self, now: Now, chat: ChatId, fx: &mut Effects) {
        let window = self.window();
        while let Some(Slot::Hot { chat: hot, waiting }) = self.slots.get_mut(&chat) {
            if hot.is_blocked(window) {
                return;
            }
            let Some((origin, command)) = waiting.pop_front() else { break };
            self.waiting -= 1;
            self.run(now, chat, origin, command, fx);
        }
        if let Some(chat) = self.hot(chat) {
            chat.sends.forget_vetted();
        }
    }

    /// Runs a command, or has it wait at the front.
    fn run(&mut self, now: Now, id: ChatId, origin: Origin, command: Command, fx: &mut Effects) {
        if !self.fence.holds(now) {
            return self.turn_away(id, origin, &command, fx);
        }
        let window = self.window();
        let Some(chat) = self.hot(id) else { return };
        chat.used_ms = now.mono_ms;
        let appends = command.appends();
        // A chat's row is written by one at a time: not while members change.
        if appends && window.is_some() && chat.head >= chat.barrier {
            self.open_bucket(now, id, fx);
        }
        let Some(chat) = self.hot(id) else { return self.turn_away(id, origin, &command, fx) };
        if appends && chat.is_blocked(window) {
            return self.wait_in_front(id, origin, command);
        }
        match command {
            Command::Send(send) => self.send(now, id, origin, send, fx),
            Command::Mark(mark) => {
                let marked = self.mark(now, id, &mark, fx);
                Self::passed(origin, marked, fx);
            }
            Command::Typing(user) => {
                let told = self.typing(now, id, user, fx);
                Self::passed(origin, told, fx);
            }
            Command::View(view) => {
                let viewed = match chat.view(&view) {
                    Some(view) => Outcome::Viewed(Box::new(view)),
                    None => Outcome::ChatRefused(ChatError::NotMember),
                };
                fx.replies.push((origin, viewed));
            }
            Command::Receipts(asked) => {
                let answer = match chat.receipts(asked) {
                    Ok(page) => Outcome::Receipts(page),
                    Err(error) => Outcome::ChatRefused(error),
                };
                fx.replies.push((origin, answer));
            }
            Command::Change(change) => self.change_group(now, id, origin, change, fx),
            Command::Block(block) => {
                chat.note_block(block);
                fx.replies.push((origin, Outcome::Blocked));
            }
            Command::Expire(expire) => self.expire(now, id, origin, expire, fx),
            Command::Create(create) => self.ensure(now, id, origin, *create, fx),
        }
    }

    /// Refuses what waits in front, for a reason that passes.
    fn refuse_first(&mut self, chat: ChatId, fx: &mut Effects) {
        let Some(Slot::Hot { waiting, .. }) = self.slots.get_mut(&chat) else { return };
        if let Some((origin, command)) = waiting.pop_front() {
            self.waiting -= 1;
            self.refuse(chat, origin, &command, unavailable(&command), fx);
        }
    }

    fn wait_in_front(&mut self, chat: ChatId, origin: Origin, command: Command) {
        if let Some(Slot::Hot { waiting, .. }) = self.slots.get_mut(&chat) {
            waiting.push_front((origin, command));
            self.waiting += 1;
        }
    }

    fn hot(&mut self, chat: ChatId) -> Option<&mut Chat> {
        match self.slots.get_mut(&chat) {
            Some(Slot::Hot { chat, .. }) => Some(chat),
            _ => None,
        }
    }

    /// Does what is due by now: overdue acks, receipts, watermarks, forgetting, leases.
    pub(crate) fn tick(&mut self, now: Now, fx: &mut Effects) {
        fx.replies
            .extend(self.outbox.overdue(now.mono_ms).map(|(origin, accepted)| (origin, Outcome::Accepted(accepted))));
        self.publish_due_receipts(now, fx);
        self.creations.retain(|_, (_, at)| *at + CREATION_KEPT_MS > now.mono_ms);
        if now.mono_ms >= self.marks_written_ms + MARKS_EVERY_MS {
            self.marks_written_ms = now.mono_ms;
            // Before their marks are on their way to the disk: a chat that is forgotten is read from there.
            self.shrink_idle(now);
            self.forget_idle();
            self.tails.trim(self.slots.values_mut().filter_map(|slot| match slot {
                Slot::Hot { chat, .. } => Some((chat.used_ms, &mut chat.tail)),
                Slot::Loading { .. } => None,
            }));
            self.write_marks(fx);
        }
        self.tick_fence(now, fx);
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

fn unavailable(command: &Command) -> Outcome {
    refusal(command, SendError::Unavailable, MarkError::Unavailable, ChatError::Unavailable)
}

fn not_owner(command: &Command) -> Outcome {
    refusal(command, SendError::NotOwner, MarkError::NotOwner, ChatError::NotOwner)
}

fn not_member(command: &Command) -> Outcome {
    refusal(command, SendError::NotMember, MarkError::NotMember, ChatError::NotMember)
}

/// One reason, as each kind of command says it.
fn refusal(command: &Command, send: SendError, mark: MarkError, chat: ChatError) -> Outcome {
    match command {
        Command::Send(_) => Outcome::SendRefused(send),
        Command::Mark(_) | Command::Typing(_) => Outcome::MarkRefused(mark),
        Command::View(_)
        | Command::Receipts(_)
        | Command::Change(_)
        | Command::Block(_)
        | Command::Expire(_)
        | Command::Create(_) => Outcome::ChatRefused(chat),
    }
}

fn unavailable_answer(answer: &Answer) -> Outcome {
    match answer {
        Answer::Accepted(_) => Outcome::SendRefused(SendError::Unavailable),
        Answer::Now(_) => Outcome::ChatRefused(ChatError::Unavailable),
    }
}
