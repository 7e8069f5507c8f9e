//! One hot chat: its head, its members, what is on its way to the disk and to the edges.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Event, Role, event};

use super::maps::HashMap;
use super::marks::{Marks, ReceiptClock};
use super::ownership::rules::{self, Rule};
use super::recovery::Recovered;
use super::roster;
use super::sends::Sends;
use super::tail::Tail;
use super::user::Block;
use super::{Accepted, ChatView, Count, From, MemberReceipt, Origin, Outcome, Payload, ReceiptPage, Receipts, View};
use crate::error::ChatError;
use crate::store::{Certain, ChatRecord, MemberRow, Meta, Roster, Row, bucket_of};

/// Members per block of watermarks.
pub(crate) const BLOCK: usize = 128;

/// Of an event that an owner has stored, and may have told nobody of when it went: so many seqs below the head, generously.
const LATELY: u64 = 1_000;

/// One who is in the chat, or has been.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub row: MemberRow,
    /// The one before, which holds until the event that they have joined with, or been deleted with, is durable.
    before: Option<Box<MemberRow>>,
    pub marks: Marks,
    pub receipts: ReceiptClock,
    /// The read mark that the last receipt told.
    pub told: Seq,
    /// In a large chat: what the member was last told of how many have got their last message.
    pub counted: Option<Count>,
    /// That the member is typing is not passed on before.
    pub typing_again_ms: u64,
}

impl Member {
    /// Nothing was told of it, nor to it.
    pub(crate) fn new(row: MemberRow, marks: Marks) -> Self {
        Self {
            row,
            before: None,
            marks,
            receipts: ReceiptClock::default(),
            told: Seq::ZERO,
            counted: None,
            typing_again_ms: 0,
        }
    }

    /// In the place of a member: a service that reads on nobody's behalf, and sees everything.
    fn service() -> Self {
        let (user, role, joined_seq) = (UserId(0), Role::Unspecified, Seq(1));
        Self::new(MemberRow { user, slot: 0, role, joined_at_ms: 0, joined_seq, left_seq: Seq::ZERO }, Marks::default())
    }
}

/// A place in a chat's log, for an event yet to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub seq: Seq,
    pub created_at_ms: i64,
    /// Countable events up to it.
    pub count: u64,
}

/// Who an event is from, and its names.
#[derive(Debug)]
pub(crate) struct Author {
    pub user: UserId,
    pub device: String,
    /// Empty: none.
    pub client_id: String,
    pub message_id: MessageId,
}

impl Place {
    pub(crate) fn event(self, chat: ChatId, author: Author, body: event::Body) -> Event {
        Event {
            chat_id: chat.0,
            seq: self.seq.0,
            message_id: Bytes::copy_from_slice(&author.message_id.0),
            sender_id: author.user.0,
            device: author.device,
            client_id: author.client_id,
            created_at_ms: self.created_at_ms,
            count: self.count,
            body: Some(body),
            sent_hash: 0,
            changed_seq: 0,
        }
    }
}

/// An event that has its seq and waits for the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    pub seq: Seq,
    pub count: u64,
    pub durable: bool,
    pub payload: Payload,
    pub to: Arc<[u64]>,
    /// Its sender, and whoever sent it again meanwhile.
    pub answers: Vec<(Origin, Answer)>,
    /// Rows to write, one batch after another, before it counts as durable.
    pub then: VecDeque<Vec<Row>>,
    /// Events that are others with it, encoded.
    pub changed: Vec<(Seq, Bytes)>,
}

/// What to answer once it is durable.
#[derive(Debug)]
pub(crate) enum Answer {
    /// …and accepted by fanout.
    Accepted(Accepted),
    Now(Outcome),
}

#[derive(Debug)]
pub(crate) struct Chat {
    pub meta: Meta,
    /// By their places, and those who have left, too: see [`roster`]. With the place goes the block of watermarks.
    pub members: Vec<Member>,
    slots: HashMap<UserId, usize>,
    /// The ids of those who are in it, as every publication carries them.
    pub ids: Arc<[u64]>,
    /// The last seq given out.
    pub last: Seq,
    /// The last seq of the durable prefix.
    pub head: Seq,
    /// Countable events up to `last` and up to `head`.
    pub count: u64,
    pub head_count: u64,
    pub last_at_ms: i64,
    /// All seqs up to this one have reached their edges.
    pub settled: Seq,
    /// Published after `settled`, in order: whether each has settled.
    published: VecDeque<(Seq, bool)>,
    pub pending: VecDeque<Pending>,
    /// The newest events up to the head.
    pub tail: Tail,
    pub sends: Sends,
    /// Of a direct chat: what its two say of each other; who isn't here never said anything.
    blocks: Vec<Block>,
    /// Of its last recovery; its epoch is 0 where there is no other owner.
    pub certain: Certain,
    /// The last event that changed the chat's row: its members, or its title.
    pub roster_seq: Seq,
    /// Events that were read for the command that waits in front.
    pub rows_read: Vec<(Seq, Bytes)>,
    /// Keys are being looked up, or events read; the next bucket is being opened.
    pub looking: bool,
    pub opening: bool,
    /// The last event that changed others, or a later one.
    pub changed_at: Seq,
    /// Nothing is appended before the head is here: a change of members goes alone, where there are other owners.
    pub barrier: Seq,
    /// Writes that are not stored yet.
    pub writing: u32,
    pub dirty_blocks: BTreeSet<u32>,
    /// Of a large chat: when its senders are told numbers again.
    pub counts: ReceiptClock,
    pub used_ms: u64,
}

impl Chat {
    /// A chat as the store has it. Its whole log counts as settled: whoever was connected when it was written is
    /// connected anew since this process started, and has read the head.
    pub(crate) fn from_record(record: ChatRecord) -> Self {
        let mut chat = Self::empty(record.meta, Sends::new(record.head == Seq::ZERO));
        chat.take_rows(record.members);
        chat.roster_seq = record.roster_seq;
        chat.certain = record.certain;
        chat.blocks = record.blocks;
        chat.last = record.head;
        chat.head = record.head;
        chat.settled = record.head;
        chat.changed_at = record.head;
        chat.count = record.count;
        chat.head_count = record.count;
        chat.last_at_ms = record.last_at_ms;
        chat
    }

    /// A chat that was recovered. Nothing of it counts as settled until the marker of its head has.
    pub(crate) fn recovered(Recovered { record, last, sends, newest }: Recovered) -> Self {
        let mut chat = Self::from_record(ChatRecord {
            head: Seq(last.seq),
            count: last.count,
            last_at_ms: last.created_at_ms.max(record.meta.created_at_ms),
            ..record
        });
        newest.into_iter().for_each(|event| chat.tail.push(event));
        chat.settled = Seq::ZERO;
        if chat.head > Seq::ZERO {
            chat.published.push_back((chat.head, false));
        }
        for (key, sent) in sends {
            chat.sends.insert(key, sent, chat.head);
        }
        chat
    }

    pub(crate) fn empty(meta: Meta, sends: Sends) -> Self {
        Self {
            last_at_ms: meta.created_at_ms,
            meta,
            members: Vec::new(),
            slots: HashMap::default(),
            ids: Arc::from([]),
            last: Seq::ZERO,
            head: Seq::ZERO,
            count: 0,
            head_count: 0,
            settled: Seq::ZERO,
            published: VecDeque::new(),
            pending: VecDeque::new(),
            tail: Tail::default(),
            sends,
            blocks: Vec::new(),
            certain: Certain::default(),
            roster_seq: Seq::ZERO,
            rows_read: Vec::new(),
            looking: false,
            opening: false,
            changed_at: Seq::ZERO,
            barrier: Seq::ZERO,
            writing: 0,
            dirty_blocks: BTreeSet::new(),
            counts: ReceiptClock::default(),
            used_ms: 0,
        }
    }

    pub(crate) fn id(&self) -> ChatId {
        self.meta.chat
    }

    /// Takes members' rows, new ones and those that have changed, each in its place. Who has their place from another begins without
    /// watermarks.
    pub(crate) fn take_rows(&mut self, rows: impl IntoIterator<Item = (MemberRow, Marks)>) {
        for (row, marks) in rows {
            let slot = (row.slot as usize).min(self.members.len());
            self.slots.insert(row.user, slot);
            match self.members.get_mut(slot) {
                Some(member) if member.row.user == row.user => {
                    let before = std::mem::replace(&mut member.row, row);
                    member.before = (before.joined_seq < member.row.joined_seq).then(|| Box::new(before));
                }
                Some(member) => {
                    self.slots.remove(&member.row.user);
                    *member = Member::new(row, marks);
                }
                None => self.members.push(Member::new(row, marks)),
            }
        }
        let there = self.members.iter().filter(|member| member.row.is_in());
        self.ids = there.map(|member| member.row.user.0).collect();
    }

    /// Changes the chat as an event says, and gives out the members' rows that it has changed, and whose places went to others.
    pub(crate) fn apply(&mut self, event: &Event) -> (Vec<MemberRow>, Vec<UserId>) {
        let mut rows: Vec<MemberRow> = self.members.iter().map(|member| member.row.clone()).collect();
        let changed = roster::apply(&mut rows, event);
        let changed: Vec<MemberRow> = changed.into_iter().map(|slot| rows[slot].clone()).collect();
        let in_its_place =
            |row: &MemberRow| self.members.get(row.slot as usize).map(|member| (member.row.user, row.user));
        let gone = changed.iter().filter_map(in_its_place).filter(|(before, after)| before != after);
        let gone = gone.map(|(before, _)| before).collect();
        self.take_rows(changed.iter().cloned().map(|row| (row, Marks::default())));
        self.meta.apply(event);
        (changed, gone)
    }

    /// One of its two has blocked the other.
    pub(crate) fn is_blocked_by_one(&self) -> bool {
        self.blocks.iter().any(|block| block.blocked)
    }

    /// Notes what one says of the other, unless something newer is known.
    pub(crate) fn note_block(&mut self, block: Block) {
        match self.blocks.iter_mut().find(|known| known.by == block.by) {
            Some(known) if known.version >= block.version => {}
            Some(known) => *known = block,
            None => self.blocks.push(block),
        }
    }

    pub(crate) fn slot(&self, user: UserId) -> Option<usize> {
        self.slots.get(&user).copied()
    }

    /// One who is in the chat by the last event, whether that is durable or not.
    pub(crate) fn joined(&self, user: UserId) -> Option<&Member> {
        self.members.get(self.slot(user)?).filter(|member| member.row.is_in())
    }

    /// One who is, or was, in the chat, and their row, as far as it is durable.
    fn viewer(&self, user: UserId) -> Option<(&Member, &MemberRow)> {
        let member = self.members.get(self.slot(user)?)?;
        let rows = [Some(&member.row), member.before.as_deref()];
        rows.into_iter().flatten().find(|row| row.joined_seq <= self.head).map(|row| (member, row))
    }

    /// One who is in the chat as far as it is durable.
    pub(crate) fn member(&self, user: UserId) -> Option<&MemberRow> {
        self.viewer(user).map(|(_, row)| row).filter(|row| row.is_in_at(self.head))
    }

    pub(crate) fn member_mut(&mut self, user: UserId) -> Option<&mut Member> {
        let slot = self.slot(user)?;
        self.members.get_mut(slot)
    }

    /// Everyone who is in the chat, and who has left it so lately that they may not have been told.
    pub(crate) fn with_who_left_lately(&self) -> Arc<[u64]> {
        let lately = |row: &MemberRow| row.left_seq.0 + LATELY > self.head.0;
        let told = self.members.iter().filter(|member| member.row.is_in() || lately(&member.row));
        told.map(|member| member.row.user.0).collect()
    }

    /// Gives out the next place in the log.
    pub(crate) fn take_place(&mut self, wall_ms: i64, counts: bool) -> Place {
        self.last = self.last.next();
        self.last_at_ms = self.last_at_ms.max(wall_ms);
        self.count += u64::from(counts);
        Place { seq: self.last, created_at_ms: self.last_at_ms, count: self.count }
    }

    /// The next seq opens a bucket: its opening is part of the chat's row, to be written with it.
    pub(crate) fn opens_bucket(&self, seq: Seq) -> bool {
        self.meta.openings.last().is_none_or(|last| last.bucket < bucket_of(seq))
    }

    /// Nothing can be appended now: keys are looked up, a bucket is opened, members change, or as many seqs as may be are
    /// on their way.
    pub(crate) fn is_blocked(&self, window: Option<usize>) -> bool {
        let full = window.is_some_and(|window| self.pending.len() >= window);
        self.looking || self.opening || self.head < self.barrier || full && rules::holds(Rule::Window)
    }

    /// The chat's own row as of now, with its members where other owners may write.
    pub(crate) fn row(&self, alone: bool) -> Row {
        let members = || self.members.iter().map(|member| member.row.clone()).collect();
        let roster = || Roster { seq: self.roster_seq, members: members(), certain: self.certain };
        let roster = (!alone).then(roster);
        Row::Chat { meta: self.meta.clone(), roster }
    }

    /// Whether rows are to be written after those that are stored of the event at `seq`.
    pub(crate) fn has_more_to_write(&self, seq: Seq) -> bool {
        self.pending.iter().any(|pending| pending.seq == seq && !pending.then.is_empty())
    }

    /// The event at `seq` is stored: the rows to write next, or else it is durable.
    pub(crate) fn stored(&mut self, seq: Seq) -> Option<Vec<Row>> {
        let pending = self.pending.iter_mut().find(|pending| pending.seq == seq)?;
        let rows = pending.then.pop_front();
        pending.durable = rows.is_none();
        rows
    }

    /// Raises the head over what is durable without a hole, and gives it out.
    pub(crate) fn advance(&mut self) -> Vec<Pending> {
        let mut ready = Vec::new();
        if !rules::holds(Rule::OnlyContiguous) {
            // Over holes, too.
            let last = self.pending.iter().rposition(|pending| pending.durable).map_or(0, |at| at + 1);
            self.pending.iter_mut().take(last).for_each(|pending| pending.durable = true);
        }
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.durable) {
            self.head = pending.seq;
            self.head_count = pending.count;
            self.published.push_back((pending.seq, false));
            ready.push(pending);
        }
        if self.pending.is_empty() {
            // Most chats are at rest: they hold no memory for what may come.
            self.pending = VecDeque::new();
        }
        ready
    }

    /// All edges that it concerns have the event at `seq`.
    pub(crate) fn settle(&mut self, seq: Seq) {
        if let Ok(at) = self.published.binary_search_by_key(&seq, |(seq, _)| *seq) {
            self.published[at].1 = true;
        }
        while let Some((seq, _)) = self.published.pop_front_if(|(_, settled)| *settled) {
            self.settled = seq;
        }
        if self.published.is_empty() {
            self.published = VecDeque::new();
        }
    }

    /// Nothing is on its way to the store.
    pub(crate) fn is_written(&self) -> bool {
        self.writing == 0 && self.pending.is_empty() && self.dirty_blocks.is_empty()
    }

    /// Nothing would be lost by forgetting it.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_written() && self.published.is_empty()
    }

    pub(crate) fn view(&self, View { user, device, newest }: &View) -> Option<ChatView> {
        let service = Member::service();
        let is_service = *user == service.row.user;
        let (member, row) = match is_service {
            true => (&service, &service.row),
            false => self.viewer(*user)?,
        };
        let is_in = row.is_in_at(self.head);
        let head = row.sees_upto(self.head);
        let peer = match self.meta.kind {
            ChatKind::Direct => self.members.iter().find(|other| other.row.user != *user),
            _ => None,
        };
        // Of one's marks nothing is told where one has blocked the other.
        let seen = peer.filter(|_| !self.is_blocked_by_one());
        let confirmed = member.marks.confirmed(device);
        let newest = newest.filter(|_| is_in).and_then(|from| {
            let known = match from {
                From::Seq(seq) => Some(seq),
                From::Confirmed => confirmed,
            };
            let place = place_of(known.unwrap_or(member.marks.read), row.joined_seq, head);
            self.tail.after(head, place)
        });
        Some(ChatView {
            chat: self.id(),
            kind: self.meta.kind,
            title: self.meta.title.clone(),
            created_by: self.meta.created_by,
            created_at_ms: self.meta.created_at_ms,
            head,
            count: self.head_count,
            members: self.ids.len(),
            role: row.role,
            joined_seq: row.joined_seq,
            left_seq: if is_in { Seq::ZERO } else { head },
            peer: peer.map(|peer| peer.row.user),
            peer_delivered: seen.map_or(Seq::ZERO, |peer| peer.marks.delivered()),
            peer_read: seen.map_or(Seq::ZERO, |peer| peer.marks.read),
            confirmed,
            delivered: member.marks.delivered(),
            read: member.marks.read,
            own: member.marks.own,
            epoch: self.certain.epoch,
            blocked: self.is_blocked_by_one(),
            expired_upto: self.meta.expired_upto,
            newest,
        })
    }

    /// Who has got the event at a seq.
    pub(crate) fn receipts(&self, asked: Receipts) -> Result<ReceiptPage, ChatError> {
        let asking = self.member(asked.user).ok_or(ChatError::NotMember)?;
        if asked.seq > self.head || asked.seq < asking.joined_seq {
            return Err(ChatError::UnknownMessage);
        }
        if self.is_blocked_by_one() {
            return Ok(ReceiptPage::default());
        }
        let page = self.members.iter().skip(asked.after).take(asked.limit);
        // Who joined later never sees it; of who has left nobody is told.
        let sees = |row: &MemberRow| row.is_in() && row.joined_seq <= asked.seq;
        let seeing = page.filter(|member| member.row.user != asked.user && sees(&member.row));
        let receipts = seeing.map(|member| MemberReceipt {
            user: member.row.user,
            delivered: member.marks.delivered() >= asked.seq,
            read: member.marks.read >= asked.seq,
        });
        let end = asked.after.saturating_add(asked.limit);
        Ok(ReceiptPage { receipts: receipts.collect(), next: (end < self.members.len()).then_some(end) })
    }
}

/// Where a member goes on who has a log up to `known`: not before the join, not beyond the head.
pub(crate) fn place_of(known: Seq, joined: Seq, head: Seq) -> Seq {
    known.max(joined.prev()).min(head)
}
