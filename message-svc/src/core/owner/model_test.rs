//! The owner against a world that delays and reorders everything it may: loads, lookups, the disk's answers, fanout; that
//! fails reads, breaks the stream to fanout, and crashes. Whatever the schedule, each key is in the log once, seqs have no
//! hole, an ack names what is on the disk, and publications come in order. A message's row says what its edits and its deletion
//! say, and who gets an event, and may do what, is as the events before it say.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::fanout::v1::{Publication, publication};
use confab_proto::message::v1::{ChatKind, Content, Deletion, Edit, Event, MembershipKind, Reaction, Role, event};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use prost::Message as _;

use super::{Limits, Owner};
use crate::core::body::checks::{changes, is, is_or_was};
use crate::core::body::{Body, hash, is_message, sent_hash, target};
use crate::core::marks::Marks;
use crate::core::sends::Sent;
use crate::core::{
    Change, ChatView, Command, Create, Effects, Found, From, Load, Lookup, Mark, Now, Origin, Outcome, RowRead, Send,
    View, What,
};
use crate::error::{ChatError, SendError};
use crate::store::{Certain, ChatRecord, Creation, CreationKey, MemberRow, Meta, Row, SendKey};

/// Chats are forgotten beyond two, so that many sends find theirs cold.
const LIMITS: Limits = Limits { hot_chats: 2, in_flight: 1_000, window: 4 };
const CHATS: u64 = 4;
const USERS: u64 = 4;
/// A call ends, with whatever it has looked up, after this.
const CALL_MS: u64 = 30_000;
/// Schedules: enough that the control's fault shows in many of them.
const CASES: u32 = 10_000;

/// Which of those at hand: `pick` modulo their number.
type Pick = usize;

#[derive(Debug, Clone)]
enum Step {
    Send {
        user: u64,
        chat: u64,
        client_id: u8,
        body: bool,
    },
    /// An edit, a deletion or a reaction.
    Change {
        user: u64,
        chat: u64,
        client_id: u8,
        target: u64,
        kind: u8,
    },
    Mark {
        user: u64,
        chat: u64,
        up_to: u64,
    },
    View {
        user: u64,
        chat: u64,
        after: u64,
    },
    /// Of a group: who is in it, who is its admin, what it is called.
    Govern {
        by: u64,
        chat: u64,
        user: u64,
        kind: u8,
    },
    LookUpCreation {
        a: u64,
        b: u64,
    },
    Create(Pick),
    Load(Pick),
    FailLoad(Pick),
    Find(Pick),
    FailFind(Pick),
    ReadRow(Pick),
    FailRow(Pick),
    /// The disk has the next commit.
    Store,
    /// The owner hears of a stored commit.
    Tell(Pick),
    Accept(Pick),
    Settle(Pick),
    BreakFanout,
    Wait(u64),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let user = 1..=USERS;
    let chat = 1..=CHATS;
    let pick = 0..100_usize;
    let step = prop_oneof![
        16 => (user.clone(), chat.clone(), 0_u8..6, prop::bool::weighted(0.9))
            .prop_map(|(user, chat, client_id, body)| Step::Send { user, chat, client_id, body }),
        6 => (user.clone(), chat.clone(), 0_u8..6, 1_u64..8, 0_u8..4).prop_map(|(user, chat, client_id, target, kind)| {
            Step::Change { user, chat, client_id, target, kind }
        }),
        1 => (user.clone(), chat.clone(), 0_u64..6).prop_map(|(user, chat, up_to)| Step::Mark { user, chat, up_to }),
        2 => (user.clone(), chat.clone(), 0_u64..20).prop_map(|(user, chat, after)| Step::View { user, chat, after }),
        4 => (user.clone(), chat, user.clone(), 0_u8..10)
            .prop_map(|(by, chat, user, kind)| Step::Govern { by, chat, user, kind }),
        2 => (user.clone(), user).prop_map(|(a, b)| Step::LookUpCreation { a, b }),
        2 => pick.clone().prop_map(Step::Create),
        4 => pick.clone().prop_map(Step::Load),
        1 => pick.clone().prop_map(Step::FailLoad),
        4 => pick.clone().prop_map(Step::Find),
        1 => pick.clone().prop_map(Step::FailFind),
        3 => pick.clone().prop_map(Step::ReadRow),
        1 => pick.clone().prop_map(Step::FailRow),
        5 => Just(Step::Store),
        5 => pick.clone().prop_map(Step::Tell),
        4 => pick.clone().prop_map(Step::Accept),
        4 => pick.prop_map(Step::Settle),
        1 => Just(Step::BreakFanout),
        2 => (1_u64..6_000).prop_map(Step::Wait),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..250)
}

/// What is stored, kept as plainly as can be.
#[derive(Default)]
struct Disk {
    events: HashMap<ChatId, BTreeMap<u64, Event>>,
    sends: HashMap<(ChatId, SendKey), Sent>,
    chats: BTreeMap<ChatId, Meta>,
    /// By place, whose it was last.
    members: HashMap<ChatId, BTreeMap<u32, MemberRow>>,
    /// Whom each chat began with.
    founders: HashMap<ChatId, Vec<UserId>>,
    marks: HashMap<(ChatId, UserId), Marks>,
    creations: HashMap<CreationKey, Creation>,
}

impl Disk {
    fn apply(&mut self, rows: Vec<Row>) {
        for row in rows {
            match row {
                Row::Event { chat, seq, bytes, .. } => {
                    let log = self.events.entry(chat).or_default();
                    let event = Event::decode(&bytes[..]).expect("an event");
                    if event.changed_seq > 0 {
                        let before = log.insert(seq.0, event.clone()).expect("a row that was changed was there");
                        let names = |event: &Event| (event.message_id.clone(), event.count, sent_hash(event));
                        assert_eq!(names(&event), names(&before), "another one's row");
                        continue;
                    }
                    let last = log.values().next_back();
                    assert_eq!(seq.0, log.len() as u64 + 1, "a hole, or a seq given out twice, in chat {chat}");
                    assert!(last.is_none_or(|last| last.created_at_ms <= event.created_at_ms), "time went back");
                    let content = matches!(event.body, Some(event::Body::Content(_)));
                    assert_eq!(event.count, last.map_or(0, |last| last.count) + u64::from(content));
                    log.insert(seq.0, event);
                }
                Row::Send { chat, key, sent } => {
                    let before = self.sends.insert((chat, key), sent);
                    assert_eq!(before, None, "a key was accepted twice in chat {chat}");
                }
                Row::Chat { meta, .. } => drop(self.chats.insert(meta.chat, meta)),
                Row::Member { chat, member, .. } => {
                    if member.joined_seq == Seq(1) && member.is_in() && !self.events.contains_key(&chat) {
                        self.founders.entry(chat).or_default().push(member.user);
                    }
                    self.members.entry(chat).or_default().insert(member.slot, member);
                }
                Row::Creation { key, made } => {
                    assert_eq!(self.creations.insert(key, made), None, "a chat was created twice");
                }
                Row::Marks { chat, marks, .. } => {
                    self.marks.extend(marks.into_iter().map(|(user, marks)| ((chat, user), marks)));
                }
                Row::DropMember { chat, user } => {
                    self.members.entry(chat).or_default().retain(|_, member| member.user != user);
                }
                Row::DropSends { .. } => panic!("no key is old enough"),
            }
        }
    }

    fn load(&self, chat: ChatId) -> Option<ChatRecord> {
        let meta = self.chats.get(&chat)?.clone();
        let marks = |user| self.marks.get(&(chat, user)).cloned().unwrap_or_default();
        let members = self.members[&chat].values();
        let last = self.events[&chat].values().next_back().expect("a chat begins with its creation");
        Some(ChatRecord {
            meta,
            members: members.map(|member| (member.clone(), marks(member.user))).collect(),
            roster_seq: Seq::ZERO,
            certain: Certain::default(),
            head: Seq(last.seq),
            count: last.count,
            last_at_ms: last.created_at_ms,
            blocks: Vec::new(),
        })
    }

    fn member(&self, chat: ChatId, user: UserId) -> Option<&MemberRow> {
        self.members.get(&chat)?.values().find(|member| member.user == user)
    }

    /// Who is in a chat before an event of its log, by the events before that.
    fn there_before(&self, chat: ChatId, seq: u64) -> BTreeSet<u64> {
        let mut there: BTreeSet<u64> = self.founders[&chat].iter().map(|user| user.0).collect();
        for event in self.events[&chat].range(..seq).map(|(_, event)| event) {
            let Some(event::Body::Membership(membership)) = &event.body else { continue };
            match membership.kind() {
                MembershipKind::Added => there.extend(&membership.user_ids),
                MembershipKind::Removed => there.retain(|user| !membership.user_ids.contains(user)),
                MembershipKind::Deleted => there.clear(),
                _ => {}
            }
        }
        there
    }
}

/// What a call asked for.
#[derive(Debug, Clone)]
enum Asked {
    Send {
        user: u64,
        chat: u64,
        client_id: String,
        body: Body,
        message_id: MessageId,
    },
    Change {
        by: u64,
        chat: u64,
        removes: Option<u64>,
        message_id: MessageId,
    },
    /// Only counted.
    Other,
}

struct World {
    /// Answers every lookup with "new": control.
    forgetful: bool,
    owner: Owner,
    now: Now,
    disk: Disk,
    calls: u64,
    open: HashMap<u64, Asked>,
    /// (chat, user, client id) → seq of its first ack, and the hash of what was sent.
    acked: HashMap<(u64, u64, String), (u64, Option<u64>)>,
    creating: Vec<(u64, Create)>,
    loads: Vec<Load>,
    lookups: Vec<Vec<Lookup>>,
    row_reads: Vec<RowRead>,
    commits: VecDeque<(u64, Vec<Row>)>,
    stored: Vec<u64>,
    published: u64,
    /// Publications by id: their chat and seq.
    unsettled: BTreeMap<u64, (u64, u64)>,
    /// By chat, since this owner's start: the last seq that was published.
    last_published: HashMap<u64, u64>,
}

impl World {
    fn new(forgetful: bool) -> Self {
        Self {
            forgetful,
            owner: Owner::sole(LIMITS, 1),
            now: Now { wall_ms: 1_000_000, mono_ms: 0 },
            disk: Disk::default(),
            calls: 0,
            open: HashMap::new(),
            acked: HashMap::new(),
            creating: Vec::new(),
            loads: Vec::new(),
            lookups: Vec::new(),
            row_reads: Vec::new(),
            commits: VecDeque::new(),
            stored: Vec::new(),
            published: 0,
            unsettled: BTreeMap::new(),
            last_published: HashMap::new(),
        }
    }

    fn run(steps: Vec<Step>, forgetful: bool) {
        let mut world = Self::new(forgetful);
        for step in steps {
            world.step(step);
        }
        world.come_to_rest();
    }

    fn call(&mut self, asked: Asked) -> Origin {
        self.calls += 1;
        self.open.insert(self.calls, asked);
        Origin::Call(self.calls)
    }

    /// For the next call.
    fn message_id(&self) -> MessageId {
        MessageId(u128::from(self.calls + 1).to_be_bytes())
    }

    fn command(&mut self, chat: u64, asked: Asked, command: Command) {
        let origin = self.call(asked);
        self.act(|owner, now, fx| owner.command(now, ChatId(chat), origin, command, fx));
    }

    fn send(&mut self, user: u64, chat: u64, client_id: String, body: Body) {
        let message_id = self.message_id();
        let asked = Asked::Send { user, chat, client_id: client_id.clone(), body: body.clone(), message_id };
        let send = Send { user: UserId(user), device: "d".into(), message_id, client_id, body, erases: false };
        self.command(chat, asked, Command::Send(send));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { user, chat, client_id, body } => {
                let text = format!("{user} says {client_id} {body}");
                self.send(user, chat, format!("id-{client_id}"), Body::Content(Content { text, ..Content::default() }));
            }
            Step::Change { user, chat, client_id, target, kind } => {
                let text = format!("{user} says better {client_id}");
                let body = match kind {
                    0 | 1 => Body::Edit(Edit { target, text, rows: Vec::new() }),
                    2 => Body::Deletion(Deletion { target, rows: Vec::new() }),
                    _ => Body::Reaction(Reaction { target, emoji: "+".into(), removed: false }),
                };
                self.send(user, chat, format!("change-{client_id}"), body);
            }
            Step::Mark { user, chat, up_to } => {
                let mark = Mark { user: UserId(user), device: "d".into(), delivered: Seq(up_to), read: Seq::ZERO };
                // A mark that is taken has no answer.
                self.act(|owner, now, fx| owner.command(now, ChatId(chat), Origin::Call(0), Command::Mark(mark), fx));
            }
            Step::View { user, chat, after } => {
                let newest = Some(From::Seq(Seq(after)));
                self.command(
                    chat,
                    Asked::Other,
                    Command::View(View { user: UserId(user), device: "d".into(), newest }),
                );
            }
            Step::Govern { by, chat, user, kind } => {
                let what = match kind {
                    0..=3 => What::Add(vec![UserId(user)]),
                    4..=6 => What::Remove(vec![UserId(user)]),
                    7 => What::Role(UserId(user), Role::Admin),
                    8 if user == 1 => What::Delete,
                    8 => What::Role(UserId(user), Role::Member),
                    _ => What::Rename(format!("{user}'s")),
                };
                let message_id = self.message_id();
                let removes = matches!(what, What::Remove(_)).then_some(user);
                let asked = Asked::Change { by, chat, removes, message_id };
                let change = Change { by: UserId(by), device: "d".into(), message_id, what };
                self.command(chat, asked, Command::Change(change));
            }
            Step::LookUpCreation { a, b } => self.look_up_creation(UserId(a.min(b)), UserId(a.max(b))),
            Step::Create(pick) => {
                self.creating.retain(|(since, _)| since + CALL_MS > self.now.mono_ms);
                if let Some((_, create)) = take(&mut self.creating, pick) {
                    let origin = self.call(Asked::Other);
                    self.act(|owner, now, fx| owner.create(now, origin, create, fx));
                }
            }
            Step::Load(_)
            | Step::FailLoad(_)
            | Step::Find(_)
            | Step::FailFind(_)
            | Step::ReadRow(_)
            | Step::FailRow(_) => self.read(&step),
            Step::Store => {
                if let Some((commit, rows)) = self.commits.pop_front() {
                    self.disk.apply(rows);
                    self.stored.push(commit);
                }
            }
            Step::Tell(pick) => {
                if let Some(commit) = take(&mut self.stored, pick) {
                    self.act(|owner, now, fx| owner.committed(now, commit, fx));
                }
            }
            Step::Accept(pick) => {
                let up_to = self.published.saturating_sub(pick as u64 % 4);
                self.act(|owner, _, fx| owner.fanout_accepted(up_to, fx));
            }
            Step::Settle(pick) => {
                let id = self.unsettled.keys().nth(pick % self.unsettled.len().max(1)).copied();
                if let Some(id) = id {
                    self.unsettled.remove(&id);
                    self.owner.fanout_settled(id);
                }
            }
            Step::BreakFanout => {
                let again: Vec<_> = self.owner.unsettled().iter().map(|again| (again.id, of(again))).collect();
                assert!(again.iter().copied().eq(self.unsettled.iter().map(|(id, of)| (*id, *of))));
            }
            Step::Wait(ms) => {
                self.now.mono_ms += ms;
                self.now.wall_ms += i64::try_from(ms).expect("short");
                self.act(|owner, now, fx| owner.tick(now, fx));
            }
            Step::Crash => self.crash(),
        }
    }

    fn read(&mut self, step: &Step) {
        match *step {
            Step::Load(pick) => {
                if let Some(load) = take(&mut self.loads, pick) {
                    let record = self.disk.load(load.chat);
                    self.act(|owner, now, fx| owner.loaded(now, load, record, fx));
                }
            }
            Step::FailLoad(pick) => {
                if let Some(load) = take(&mut self.loads, pick) {
                    self.act(|owner, _, fx| owner.load_failed(load, fx));
                }
            }
            Step::Find(pick) => {
                if let Some(lookups) = take(&mut self.lookups, pick) {
                    let sent = |lookup: &Lookup| self.disk.sends.get(&(lookup.chat, lookup.key.clone())).copied();
                    let sent = |lookup: &Lookup| sent(lookup).filter(|_| !self.forgetful);
                    let found = |lookup: &Lookup| Found {
                        sent: sent(lookup).map(|sent| (sent, None)).into_iter().collect(),
                        of_sender: None,
                    };
                    let found: Vec<_> = lookups.into_iter().map(|lookup| (lookup.clone(), found(&lookup))).collect();
                    self.act(|owner, now, fx| owner.found(now, found, fx));
                }
            }
            Step::FailFind(pick) => {
                if let Some(lookups) = take(&mut self.lookups, pick) {
                    self.act(|owner, now, fx| owner.lookups_failed(now, &lookups, fx));
                }
            }
            Step::ReadRow(pick) => {
                if let Some(read) = take(&mut self.row_reads, pick) {
                    let row = self.disk.events[&read.chat].get(&read.seq.0).map(|event| event.encode_to_vec().into());
                    assert!(row.is_some(), "{read:?}: what is below the head is stored");
                    self.act(|owner, now, fx| owner.row_read(now, read, row, fx));
                }
            }
            Step::FailRow(pick) => {
                if let Some(read) = take(&mut self.row_reads, pick) {
                    self.act(|owner, now, fx| owner.row_unread(now, read, fx));
                }
            }
            _ => {}
        }
    }

    fn look_up_creation(&mut self, a: UserId, b: UserId) {
        let (key, kind) = if a == b {
            (CreationKey::Group { user: a, device: "d".into(), client_id: "group".into() }, ChatKind::Group)
        } else {
            (CreationKey::Direct(a, b), ChatKind::Direct)
        };
        if self.disk.creations.contains_key(&key) {
            return;
        }
        let mut members = vec![a, b];
        members.dedup();
        let message_id = self.message_id();
        let create = Create { key, kind, title: String::new(), by: a, device: "d".into(), members, message_id };
        self.creating.push((self.now.mono_ms, create));
    }

    /// The process dies: what the disk doesn't have is gone, and clients without an answer will ask again.
    fn crash(&mut self) {
        let next_chat = self.disk.chats.keys().next_back().map_or(0, |chat| chat.0) + 1;
        let fresh = Self::new(self.forgetful);
        let old = std::mem::replace(self, fresh);
        self.owner = Owner::sole(LIMITS, next_chat);
        self.now = Now { mono_ms: 0, ..old.now };
        self.calls = old.calls;
        self.disk = old.disk;
        self.acked = old.acked;
    }

    /// Lets the owner do something, and checks all that it says.
    fn act(&mut self, input: impl FnOnce(&mut Owner, Now, &mut Effects)) {
        let mut fx = Effects::default();
        input(&mut self.owner, self.now, &mut fx);
        for write in self.owner.seal(self.now, &mut fx) {
            self.commits.push_back((write.number, write.rows));
        }
        self.loads.extend(fx.loads);
        if !fx.lookups.is_empty() {
            self.lookups.push(fx.lookups);
        }
        self.row_reads.extend(fx.row_reads);
        for publication in fx.publications {
            self.published(&publication);
        }
        for (origin, outcome) in fx.replies {
            self.answered(origin, outcome);
        }
    }

    fn published(&mut self, publication: &Publication) {
        self.published += 1;
        assert_eq!(publication.id, self.published);
        let (chat, seq) = of(publication);
        self.unsettled.insert(publication.id, (chat, seq));
        let earliest = self.unsettled.values().find(|(of, seq)| *of == chat && *seq > 0);
        assert!(earliest.is_none_or(|(_, seq)| publication.settled < *seq), "settled goes beyond what is");
        let Some(publication::Payload::Event(bytes)) = &publication.payload else { return };
        let last = self.last_published.insert(chat, seq);
        assert!(last.is_none_or(|last| last + 1 == seq), "published {seq} after {last:?}");
        let log = &self.disk.events[&ChatId(chat)];
        let event = Event::decode(&bytes[..]).expect("an event");
        assert!(is_or_was(&event, &log[&seq]), "published before it is stored: {event:?}");
        let recipients: HashSet<u64> = publication.user_ids.iter().copied().collect();
        // Who is removed by it and who is added.
        let (before, after) =
            (self.disk.there_before(ChatId(chat), seq), self.disk.there_before(ChatId(chat), seq + 1));
        assert_eq!(recipients, before.union(&after).copied().collect::<HashSet<_>>());
    }

    fn answered(&mut self, origin: Origin, outcome: Outcome) {
        let Origin::Call(call) = origin else { panic!("an answer to a stream that isn't there") };
        if call == 0 {
            return assert!(matches!(outcome, Outcome::Marked | Outcome::MarkRefused(_)), "{outcome:?}");
        }
        let asked = self.open.remove(&call).expect("each call is answered once");
        if let Outcome::Viewed(view) = &outcome {
            self.viewed(view);
        }
        if let Asked::Change { by, chat, removes, message_id } = asked {
            return self.changed(by, chat, removes, message_id, &outcome);
        }
        let Asked::Send { user, chat, client_id, body, message_id } = asked else { return };
        let key = SendKey::new(UserId(user), "d", &client_id, message_id);
        let stored = self.disk.sends.get(&(ChatId(chat), key.clone()));
        match outcome {
            Outcome::Accepted(accepted) => {
                assert_eq!(stored.map(|sent| sent.seq), Some(accepted.seq), "acked, and not on the disk");
                let event = &self.disk.events[&ChatId(chat)][&accepted.seq.0];
                assert_eq!(event.message_id, &accepted.message_id.0[..]);
                assert_eq!((event.sender_id, &event.client_id), (user, &client_id));
                assert_eq!(accepted.duplicate, accepted.message_id != message_id);
                assert_eq!(sent_hash(event), hash(&body), "acked, with another body in the log");
                let first = (accepted.seq.0, hash(&body));
                assert_eq!(*self.acked.entry((chat, user, client_id)).or_insert(first), first);
            }
            Outcome::SendRefused(SendError::NotMember) => {
                assert!(self.was(chat, user, |row| row.is_none_or(|row| !row.is_in())), "a member");
            }
            Outcome::SendRefused(SendError::Conflict) => {
                let on_its_way = self.commits.iter().flat_map(|(_, rows)| rows).any(|row| match row {
                    Row::Send { chat: of, key: sent, .. } => of.0 == chat && *sent == key,
                    _ => false,
                });
                assert!(stored.is_some() || on_its_way, "in conflict with nothing");
            }
            Outcome::SendRefused(SendError::Unavailable) => {}
            Outcome::SendRefused(SendError::UnknownTarget) => self.refused(chat, user, &body, false),
            Outcome::SendRefused(SendError::NotYours) => self.refused(chat, user, &body, true),
            other => panic!("{other:?}"),
        }
    }

    /// Whether it is so of a member's row, as it is stored or as one of those on their way: an answer may be of any of these times.
    fn was(&self, chat: u64, user: u64, is_so: impl Fn(Option<&MemberRow>) -> bool) -> bool {
        let stored = self.disk.member(ChatId(chat), UserId(user));
        let rows = self.commits.iter().flat_map(|(_, rows)| rows);
        let mut later = rows.filter_map(|row| match row {
            Row::Member { chat: of, member, .. } if of.0 == chat && member.user.0 == user => Some(Some(member)),
            Row::DropMember { chat: of, user: gone } if of.0 == chat && gone.0 == user => Some(None),
            _ => None,
        });
        is_so(stored) || later.any(is_so)
    }

    /// A group was changed, and its log says so; or it was not, for a reason that the rows show.
    fn changed(&self, by: u64, chat: u64, removes: Option<u64>, message_id: MessageId, outcome: &Outcome) {
        let is_admin = |row: Option<&MemberRow>| row.is_some_and(|row| row.is_in() && row.role == Role::Admin);
        match outcome {
            Outcome::Changed { users, .. } => {
                let mut log = self.disk.events.get(&ChatId(chat)).into_iter().flat_map(BTreeMap::values);
                let event = log.find(|event| event.message_id == message_id.0[..]);
                let told = event.and_then(|event| match &event.body {
                    Some(event::Body::Membership(membership)) => Some(&membership.user_ids),
                    _ => None,
                });
                let users: Vec<u64> = users.iter().map(|user| user.0).collect();
                // Without an event there was nothing to do.
                assert_eq!(told.cloned().unwrap_or_default(), users, "changed, and not in the log");
            }
            Outcome::ChatRefused(ChatError::NotMember) => {
                assert!(self.was(chat, by, |row| row.is_none_or(|row| !row.is_in())), "a member");
            }
            Outcome::ChatRefused(ChatError::NotAdmin) => {
                assert!(removes != Some(by) && self.was(chat, by, |row| !is_admin(row)), "an admin");
            }
            Outcome::ChatRefused(ChatError::LastAdmin) => {
                let others = (1..=USERS).filter(|user| *user != by);
                let always = others.filter(|user| !self.was(chat, *user, |row| !is_admin(row)));
                assert_eq!(always.count(), 0, "another admin is there");
            }
            Outcome::ChatRefused(ChatError::DirectIsFixed | ChatError::UnknownMember | ChatError::Unavailable) => {}
            other => panic!("{other:?}"),
        }
    }

    /// A change was refused: its target is another one's, or no message that its sender sees.
    fn refused(&self, chat: u64, user: u64, body: &Body, because_not_own: bool) {
        let target = target(body).expect("it names a message").0;
        let Some(event) = self.disk.events.get(&ChatId(chat)).and_then(|log| log.get(&target)) else {
            return assert!(!because_not_own, "another one's message, which isn't there");
        };
        let sees = |row: Option<&MemberRow>| row.is_some_and(|row| row.joined_seq.0 <= target);
        let (may_see, may_not) = (self.was(chat, user, sees), self.was(chat, user, |row| !sees(row)));
        // One that isn't below the head yet is not seen.
        let is_told = self.last_published.get(&chat).is_some_and(|last| *last >= target);
        match because_not_own {
            true => assert!(may_see && event.sender_id != user, "it is their own: {event:?}"),
            false => assert!(may_not || !is_message(event) || !is_told, "they see it: {event:?}"),
        }
    }

    /// What comes from the owner's memory is what the disk has, up to the head.
    fn viewed(&self, view: &ChatView) {
        let Some(newest) = &view.newest else { return };
        let log = &self.disk.events[&view.chat];
        let stored: Vec<&Event> = log.range(newest.after.0 + 1..view.head.0 + 1).map(|(_, event)| event).collect();
        let told = newest.events.iter().map(|bytes| Event::decode(&bytes[..]).expect("an event"));
        let told: Vec<Event> = told.collect();
        assert_eq!(told.len(), stored.len(), "not the log of chat {} after {}", view.chat, newest.after);
        for (told, stored) in told.iter().zip(stored) {
            // What changed it may be stored, and not told yet.
            let is_so = if stored.changed_seq > view.head.0 { is_or_was(told, stored) } else { is(told, stored) };
            assert!(is_so, "chat {}: told {told:?}, stored {stored:?}", view.chat);
        }
    }

    /// Lets everything come to its end, and looks at the whole.
    fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            self.act(|owner, _, fx| owner.write_marks(fx));
            let reads = self.loads.len() + self.lookups.len() + self.row_reads.len();
            let under_way = reads + self.commits.len() + self.stored.len();
            if under_way + self.unsettled.len() + self.open.len() == 0 {
                break;
            }
            for read in [Step::Load(0), Step::Find(0), Step::ReadRow(0)] {
                self.step(read);
            }
            for step in [Step::Store, Step::Tell(0), Step::Accept(0), Step::Settle(0)] {
                self.step(step);
            }
        }
        assert!(self.open.is_empty(), "never answered: {:?}", self.open);
        assert!(self.owner.is_quiet(), "not quiet");
        for ((chat, _, client_id), (seq, hash)) in &self.acked {
            let event = &self.disk.events[&ChatId(*chat)][seq];
            assert_eq!((&event.client_id, sent_hash(event)), (client_id, *hash));
        }
        for (chat, log) in &self.disk.events {
            if let Err(why) = changes(log, u64::MAX) {
                panic!("chat {chat}: {why}");
            }
            let rows = self.disk.members[chat].values().filter(|row| row.is_in());
            let there: BTreeSet<u64> = rows.map(|row| row.user.0).collect();
            assert_eq!(there, self.disk.there_before(*chat, u64::MAX), "the members of chat {chat}");
            let named = log.values().rev().find_map(|event| match &event.body {
                Some(event::Body::Membership(membership)) if membership.kind() == MembershipKind::Renamed => {
                    Some(membership.title.as_str())
                }
                _ => None,
            });
            assert_eq!(self.disk.chats[chat].title, named.unwrap_or_default(), "the title of chat {chat}");
            let mut keys = HashSet::new();
            for event in log.values().filter(|event| !event.client_id.is_empty()) {
                assert!(keys.insert((event.sender_id, &event.client_id)), "twice in chat {chat}: {event:?}");
            }
        }
    }
}

/// (chat, seq) of a publication.
fn of(publication: &Publication) -> (u64, u64) {
    (publication.chat_id, publication.seq)
}

fn take<T>(from: &mut Vec<T>, pick: Pick) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(pick % from.len()))
}

/// Each core takes its part of the schedules.
fn run_all(forgetful: bool, shrinks: u32) -> Result<(), String> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let config = ProptestConfig {
        cases: CASES.div_ceil(cores),
        max_shrink_iters: shrinks,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let run = || {
        let ran = TestRunner::new(config.clone()).run(&steps(), |steps| {
            let run = std::panic::catch_unwind(|| World::run(steps, forgetful));
            run.map_err(|panic| TestCaseError::fail(message(panic.as_ref())))
        });
        ran.map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..cores).map(|_| scope.spawn(run)).collect();
        parts.into_iter().try_for_each(|part| part.join().unwrap_or_else(|_| Err("a part panicked".to_owned())))
    })
}

fn message(panic: &(dyn std::any::Any + std::marker::Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[test]
fn every_key_is_in_the_log_once_whatever_the_schedule() {
    if let Err(why) = run_all(false, 10_000) {
        panic!("{why}");
    }
}

#[test]
fn control_a_store_that_forgets_keys_is_caught() {
    assert!(run_all(true, 0).is_err(), "no schedule has found a key that was accepted twice");
}
