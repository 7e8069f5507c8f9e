//! The world of one schedule: nodes, replicas, registers, senders, and the faults that befall them, in virtual time.

mod expiring;
mod makers;
mod senders;
mod store;
mod trace;

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher as _;
use std::sync::Arc;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::fanout::v1::{Publication, publication};
use confab_proto::message::v1::{ChatKind, Event, Membership, MembershipKind, Role, event};
use prost::Message as _;
use xxhash_rust::xxh3::Xxh3;

use super::chance::Chance;
use super::judge::Judge;
use super::register::Register;
use super::replicas::{self, Mutation, Replica};
use super::sender::Sender;
use crate::core::chat_ids::BLOCK_IDS;
use crate::core::marks::Marks;
use crate::core::owner::{Answered, Limits, Owner, WINDOW_MAX};
use crate::core::ownership::lease::{Incarnation, LeaseRow};
use crate::core::ownership::map::ShardMap;
use crate::core::ownership::rules::{self, Rule};
use crate::core::ownership::{Ask, Ownership};
use crate::core::recovery::LogRow;
use crate::core::{Command, Create, Effects, Found, KeyRead, Load, Lookup, Now, Origin, Outcome, RowRead, TailRead};
use crate::store::{Certain, ChatRecord, Creation, MemberRow, Meta, Opening, Roster, Row};
use expiring::Expiring;
use makers::Makers;
use store::Seen;

const CHATS: [ChatId; 3] = [ChatId(1), ChatId(2), ChatId(3)];
const TICK_MS: u64 = 200;
/// A try of a write that has no quorum by then is followed by another.
const TRY_MS: u64 = 2_000;
/// How long all is well again at the end, at most, until nothing is under way.
const REST_MS: u64 = 180_000;

/// What a node is told.
enum Input {
    Tick,
    Command { origin: Origin, chat: ChatId, command: Command },
    Create(Origin, Create),
    Key(KeyRead, Option<Creation>),
    Ids(Option<u64>),
    Loaded(Load, Option<ChatRecord>),
    Tail(TailRead, Vec<LogRow>),
    Found(Vec<(Lookup, Found)>),
    Row(RowRead, Option<Bytes>),
    Committed(u64),
    Answered(Incarnation, Answered),
}

/// What happens at some time.
enum Happening {
    Input {
        node: usize,
        life: u64,
        input: Input,
    },
    Apply {
        replica: usize,
        mutation: Arc<Mutation>,
        of: (u64, usize),
    },
    Try {
        write: u64,
    },
    ReadChat {
        node: usize,
        life: u64,
        load: Load,
    },
    ReadTail {
        node: usize,
        life: u64,
        read: TailRead,
    },
    ReadSends {
        node: usize,
        life: u64,
        lookups: Vec<Lookup>,
    },
    ReadRow {
        node: usize,
        life: u64,
        read: RowRead,
    },
    Ask {
        node: usize,
        life: u64,
        of: Incarnation,
        ask: Ask,
    },
    Observe {
        node: usize,
        life: u64,
        of: Incarnation,
        seen: Seen,
    },
    SettleLease(Incarnation, u64),
    SettleMap(u64),
    ReadKey {
        node: usize,
        life: u64,
        read: KeyRead,
    },
    TakeIds {
        node: usize,
        life: u64,
    },
    Wish,
    /// A chat's oldest events are to expire.
    Expire,
    ReadOld(Expiring),
    Granted {
        call: u64,
        outcome: Outcome,
    },
    Say {
        sender: usize,
    },
    Reply {
        call: u64,
        outcome: Outcome,
    },
    Map {
        sender: usize,
        map: Arc<ShardMap>,
    },
    Broken {
        sender: usize,
        node: usize,
        life: u64,
    },
    Start {
        node: usize,
    },
    Thaw {
        node: usize,
    },
    Fault,
}

struct Node {
    addr: String,
    /// `None`: it is not running.
    owner: Option<Owner>,
    life: u64,
    frozen: bool,
    inbox: VecDeque<Input>,
    /// Milliseconds that its steady clock gains in a thousand.
    drift: i64,
    wall_offset_ms: i64,
}

struct Write {
    node: usize,
    life: u64,
    number: u64,
    mutations: Vec<Arc<Mutation>>,
    acks: Vec<[bool; 3]>,
}

struct Call {
    sender: usize,
    chat: ChatId,
    n: u64,
    generation: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub acked: u64,
    /// Of all that happened and what is stored in the end.
    pub fingerprint: u64,
}

pub(super) struct World {
    chance: Chance,
    now_ms: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    happened: u64,
    nodes: Vec<Node>,
    replicas: [Replica; 3],
    leases: BTreeMap<Incarnation, Register<LeaseRow>>,
    map: Register<Arc<ShardMap>>,
    writes: BTreeMap<u64, Write>,
    next_write: u64,
    senders: Vec<Sender>,
    makers: Makers,
    next_id: u64,
    /// Whether anything expires; and the calls that ask for it.
    expires: bool,
    expiring: BTreeMap<u64, Expiring>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    next_stream: u64,
    incarnations: u128,
    until_ms: u64,
    /// All is well again.
    resting: bool,
    judge: Judge,
    /// The chat that is told of.
    traced: Option<u64>,
}

impl World {
    pub(super) fn run(seed: u64) -> Result<Run, String> {
        let mut world = Self::new(seed);
        while let Some(((at_ms, _), happening)) = world.queue.pop_first() {
            world.now_ms = at_ms;
            if !world.resting && at_ms >= world.until_ms {
                world.rest();
            }
            world.happen(happening);
            if world.judge.fault.is_some() || world.resting && world.is_done() {
                break;
            }
            if at_ms > world.until_ms + REST_MS {
                return Err(world.left());
            }
        }
        let made: Vec<ChatId> = world.judge.chats_made().collect();
        for chat in CHATS.into_iter().chain(made) {
            world.judge_chat(chat);
        }
        match world.judge.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(Run { acked: world.judge.acks(), fingerprint: world.fingerprint() }),
        }
    }

    fn fingerprint(&mut self) -> u64 {
        let mut hasher = Xxh3::new();
        [self.now_ms, self.happened, self.chance.below(u64::MAX)].iter().for_each(|number| hasher.write_u64(*number));
        self.replicas.iter().for_each(|replica| replica.digest(&mut hasher));
        hasher.finish()
    }

    fn judge_chat(&mut self, chat: ChatId) {
        const ALL: [usize; 3] = [0, 1, 2];
        let log: Vec<LogRow> = (0..100)
            .flat_map(|bucket| replicas::read_tail(&mut self.replicas, &ALL, chat, bucket, usize::MAX))
            .collect();
        let row = replicas::read_chat(&mut self.replicas, &ALL, chat);
        let expired_upto = row.as_ref().map_or(Seq::ZERO, |(meta, _)| meta.expired_upto);
        self.judge.log(chat, &log, expired_upto);
        let title = row.as_ref().map(|(meta, _)| meta.title.clone()).unwrap_or_default();
        let (as_of, members) = row.map_or((Seq::ZERO, Arc::from([])), |(_, roster)| (roster.seq, roster.members));
        let mut listed = |member: &MemberRow| {
            let listed = replicas::lists(&mut self.replicas, &ALL, member.user, chat);
            listed == Some(member.is_in()) || member.user.0 <= 3
        };
        let unlisted = members.iter().find(|member| !listed(member)).map(|member| member.user);
        self.judge.members(chat, &log, (as_of, &members, &title), unlisted);
    }

    /// What is still open though all has been well for long.
    fn left(&self) -> String {
        let queues: Vec<_> = self.senders.iter().map(|sender| &sender.queues).collect();
        let owners: Vec<_> = self.nodes.iter().map(|node| &node.owner).collect();
        let owners = self.traced.map(|_| format!("{owners:#?}")).unwrap_or_default();
        format!("not at rest after {REST_MS} ms: {queues:?} {:?} {owners}", self.makers)
    }

    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let count = chance.between(2, 3);
        let node = |(at, drift): (u64, i64)| Node {
            addr: format!("node-{at}:1"),
            owner: None,
            life: 0,
            frozen: false,
            inbox: VecDeque::new(),
            drift,
            wall_offset_ms: 0,
        };
        let expires = chance.one_in(4);
        let drifts: Vec<i64> = (0..count).map(|_| chance.below(59).cast_signed() - 29).collect();
        let mut world = Self {
            nodes: (0..count).zip(drifts).map(node).collect(),
            // Some last until keys are forgotten.
            until_ms: if chance.one_in(20) { chance.between(150_000, 300_000) } else { chance.between(20_000, 50_000) },
            chance,
            now_ms: 0,
            queue: BTreeMap::new(),
            happened: 0,
            replicas: Default::default(),
            leases: BTreeMap::new(),
            map: Register::default(),
            writes: BTreeMap::new(),
            next_write: 0,
            senders: (0..3).map(|_| Sender::default()).collect(),
            makers: Makers::default(),
            next_id: 1_000,
            expires,
            expiring: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            next_stream: 0,
            incarnations: 0,
            resting: false,
            judge: Judge::default(),
            traced: std::env::var("CONFAB_TRACE").ok().and_then(|chat| chat.parse().ok()),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for chat in CHATS {
            let meta = Meta {
                chat,
                kind: ChatKind::Group,
                title: String::new(),
                created_by: UserId(1),
                created_at_ms: 0,
                openings: vec![Opening { bucket: 0, at_ms: 0 }],
                expired_upto: Seq::ZERO,
            };
            let roster = Some(Roster {
                seq: Seq(1),
                members: (0..3).map(first_member).collect(),
                certain: Certain { epoch: 1, upto: Seq(1), window: WINDOW_MAX, stale_upto: Seq(1) },
            });
            let log = [Bytes::new(), created(chat)].into_iter().zip(0..);
            let event = |(bytes, seq)| Row::Event { chat, seq: Seq(seq), epoch: 1, bytes };
            let rows: Vec<Row> = log.map(event).chain([Row::Chat { meta, roster }]).collect();
            for mutation in replicas::mutations(&rows, 1, 0) {
                self.replicas.iter_mut().for_each(|replica| replica.apply(&mutation));
            }
        }
        for node in 0..self.nodes.len() {
            let at = self.chance.below(3_000);
            self.at(at, Happening::Start { node });
        }
        for sender in 0..self.senders.len() {
            self.at(1_000, Happening::Say { sender });
        }
        self.at(2_000, Happening::Wish);
        if self.expires {
            self.at(3_000, Happening::Expire);
        }
        self.at(4_000, Happening::Fault);
    }

    fn at(&mut self, at_ms: u64, happening: Happening) {
        self.happened += 1;
        self.queue.insert((at_ms.max(self.now_ms), self.happened), happening);
    }

    fn soon(&mut self, happening: Happening) {
        let delay = if self.resting { 2 } else { self.chance.delay() };
        self.at(self.now_ms + delay, happening);
    }

    fn rest(&mut self) {
        self.resting = true;
        (0..self.senders.len()).for_each(|sender| self.give_up(sender));
        for node in 0..self.nodes.len() {
            self.thaw(node);
            self.nodes[node].wall_offset_ms = 0;
            if self.nodes[node].owner.is_none() {
                self.start(node);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.senders.iter().all(|sender| sender.queues.values().all(|queue| queue.unacked.is_empty()))
            && self.writes.is_empty()
            && self.makers.is_done()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input { node, life, input } => self.input(node, life, input),
            Happening::Apply { replica, mutation, of } => {
                self.replicas[replica].apply(&mutation);
                self.applied(of, replica);
            }
            Happening::Try { write } => self.try_write(write),
            Happening::ReadChat { node, life, load } => {
                let which = self.quorum();
                let record = replicas::read_chat(&mut self.replicas, &which, load.chat).map(record);
                self.soon(Happening::Input { node, life, input: Input::Loaded(load, record) });
            }
            Happening::ReadTail { node, life, read } => {
                let which = self.quorum();
                let rows = replicas::read_tail(&mut self.replicas, &which, read.load.chat, read.bucket, read.limit);
                self.soon(Happening::Input { node, life, input: Input::Tail(read, rows) });
            }
            Happening::ReadSends { node, life, lookups } => {
                let found = lookups.into_iter().map(|lookup| self.find(lookup)).collect();
                self.soon(Happening::Input { node, life, input: Input::Found(found) });
            }
            Happening::ReadRow { node, life, read } => {
                let which = self.quorum();
                let row = replicas::read_row(&mut self.replicas, &which, read.chat, read.seq);
                self.soon(Happening::Input { node, life, input: Input::Row(read, row) });
            }
            Happening::Ask { node, life, of, ask } => self.asked(node, life, of, ask),
            Happening::Observe { node, life, of, seen } => self.observed(node, life, of, seen),
            Happening::SettleLease(incarnation, number) => {
                let chance = &mut self.chance;
                self.leases.entry(incarnation).or_default().settle(chance, number);
            }
            Happening::SettleMap(number) => self.map.settle(&mut self.chance, number),
            Happening::ReadKey { node, life, read } => {
                let which = self.quorum();
                let made = replicas::read_creation(&mut self.replicas, &which, &read.key);
                self.soon(Happening::Input { node, life, input: Input::Key(read, made) });
            }
            Happening::TakeIds { node, life } => {
                let first = self.next_id;
                self.next_id += BLOCK_IDS;
                let first = (self.resting || !self.chance.one_in(5)).then_some(first);
                self.soon(Happening::Input { node, life, input: Input::Ids(first) });
            }
            Happening::Wish => self.wish(),
            Happening::Expire => self.expire(),
            Happening::ReadOld(expiring) => self.read_old(expiring),
            Happening::Granted { call, outcome } => self.granted(call, &outcome),
            Happening::Say { sender } => self.say(sender),
            Happening::Reply { call, outcome } => self.replied(call, outcome),
            Happening::Map { sender, map } => self.learned(sender, map),
            Happening::Broken { sender, node, life } => self.broken(sender, node, life),
            Happening::Start { node } => {
                if self.nodes[node].owner.is_none() {
                    self.start(node);
                }
            }
            Happening::Thaw { node } => self.thaw(node),
            Happening::Fault => self.fault(),
        }
    }

    fn start(&mut self, node: usize) {
        self.incarnations += 1;
        let incarnation = Incarnation(self.incarnations);
        // Of several versions.
        let window = u32::try_from(self.chance.between(2, WINDOW_MAX.into())).unwrap_or(WINDOW_MAX);
        let limits = Limits { hot_chats: 10, in_flight: 10_000, window };
        let this = &mut self.nodes[node];
        let ownership = Ownership::new(incarnation, this.addr.clone());
        this.owner = Some(Owner::among(limits, ownership));
        this.life += 1;
        this.frozen = false;
        this.inbox.clear();
        let life = this.life;
        self.at(self.now_ms, Happening::Input { node, life, input: Input::Tick });
    }

    fn node_at(&self, addr: Option<&str>) -> Option<usize> {
        addr.and_then(|addr| self.nodes.iter().position(|node| node.addr == addr))
    }

    fn now_of(&self, node: usize) -> Now {
        let node = &self.nodes[node];
        let steady = self.now_ms.cast_signed() + self.now_ms.cast_signed() * node.drift / 1_000;
        let wall_ms = 1_000_000 + self.now_ms.cast_signed() + node.wall_offset_ms;
        Now { wall_ms, mono_ms: steady.cast_unsigned() }
    }

    fn input(&mut self, node: usize, life: u64, input: Input) {
        match &input {
            Input::Tail(read, rows) => self.trace_tail(node, *read, rows),
            Input::Committed(number) => self.trace_committed(node, *number),
            Input::Loaded(load, Some(record)) => self.trace_loaded(node, *load, record),
            _ => {}
        }
        let this = &mut self.nodes[node];
        if this.life != life || this.owner.is_none() {
            return;
        }
        if this.frozen {
            return this.inbox.push_back(input);
        }
        let now = self.now_of(node);
        let this = &mut self.nodes[node];
        let Some(owner) = &mut this.owner else { return };
        let mut fx = Effects::default();
        match input {
            Input::Tick => {
                if owner.is_dead() {
                    self.incarnations += 1;
                    owner.reborn(Incarnation(self.incarnations), this.addr.clone());
                }
                owner.tick(now, &mut fx);
                // As the task around it does.
                if owner.is_drained() || owner.is_alone() {
                    return self.crash(node);
                }
                self.at(self.now_ms + TICK_MS, Happening::Input { node, life, input: Input::Tick });
            }
            Input::Command { origin, chat, command } => owner.command(now, chat, origin, command, &mut fx),
            Input::Create(origin, create) => owner.create(now, origin, create, &mut fx),
            Input::Key(read, made) => owner.creation_found(now, &read, made, &mut fx),
            Input::Ids(first) => owner.ids_taken(now, first, &mut fx),
            Input::Loaded(load, record) => owner.loaded(now, load, record, &mut fx),
            Input::Tail(read, rows) => owner.tail_read(now, read, rows, &mut fx),
            Input::Found(found) => owner.found(now, found, &mut fx),
            Input::Row(read, row) => owner.row_read(now, read, row, &mut fx),
            Input::Committed(number) => owner.committed(now, number, &mut fx),
            Input::Answered(of, answered) => owner.answered(now, of, answered, &mut fx),
        }
        self.act(node, now, fx);
    }

    fn act(&mut self, node: usize, now: Now, mut fx: Effects) {
        let life = self.nodes[node].life;
        let Some(owner) = &mut self.nodes[node].owner else { return };
        let writes = owner.seal(now, &mut fx);
        // Fanout takes and settles everything at once.
        let ids: Vec<u64> = fx.publications.iter().map(|publication| publication.id).collect();
        for id in ids {
            owner.fanout_accepted(id, &mut fx);
            owner.fanout_settled(id);
        }
        for number in fx.abandoned {
            self.writes.retain(|_, write| (write.node, write.life, write.number) != (node, life, number));
        }
        for write in writes {
            self.trace_write(node, &write);
            self.next_write += 1;
            let mutations = replicas::mutations(&write.rows, write.stamp, self.now_ms);
            let mutations: Vec<_> = mutations.into_iter().map(Arc::new).collect();
            // Without that rule an ack waits for the log's rows alone.
            let waited = |mutation: &Mutation| !mutation.is_of_sends() || rules::holds(Rule::SendsWithTheMessage);
            let acks = mutations.iter().map(|mutation| [!waited(mutation); 3]).collect();
            self.writes.insert(self.next_write, Write { node, life, number: write.number, mutations, acks });
            // The process can stand still between its decision and the sending.
            self.soon(Happening::Try { write: self.next_write });
        }
        let loads = fx.loads.into_iter().chain(fx.loads_again);
        loads.for_each(|load| self.soon(Happening::ReadChat { node, life, load }));
        fx.tails.into_iter().for_each(|read| self.soon(Happening::ReadTail { node, life, read }));
        fx.creations.into_iter().for_each(|read| self.soon(Happening::ReadKey { node, life, read }));
        if fx.take_ids {
            self.soon(Happening::TakeIds { node, life });
        }
        if !fx.lookups.is_empty() {
            self.soon(Happening::ReadSends { node, life, lookups: fx.lookups });
        }
        fx.row_reads.into_iter().for_each(|read| self.soon(Happening::ReadRow { node, life, read }));
        fx.asks.into_iter().for_each(|(of, ask)| self.soon(Happening::Ask { node, life, of, ask }));
        for publication in fx.publications {
            self.trace_published(node, &publication);
            self.published(&publication);
        }
        for (origin, outcome) in fx.replies {
            match origin {
                Origin::Stream { call, .. } => self.soon(Happening::Reply { call, outcome }),
                Origin::Call(call) => self.soon(Happening::Granted { call, outcome }),
            }
        }
        if let Some(map) = fx.map {
            for sender in 0..self.senders.len() {
                self.soon(Happening::Map { sender, map: map.clone() });
            }
        }
    }

    fn published(&mut self, publication: &Publication) {
        if let Some(publication::Payload::Event(event)) = &publication.payload {
            self.judge.published(ChatId(publication.chat_id), Seq(publication.seq), event);
        }
    }

    fn crash(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.owner = None;
        let life = this.life;
        self.writes.retain(|_, write| write.node != node);
        for sender in 0..self.senders.len() {
            self.soon(Happening::Broken { sender, node, life });
        }
        let again = self.now_ms + self.chance.between(200, 10_000);
        self.at(again, Happening::Start { node });
    }

    fn thaw(&mut self, node: usize) {
        self.nodes[node].frozen = false;
        let life = self.nodes[node].life;
        for input in std::mem::take(&mut self.nodes[node].inbox) {
            self.input(node, life, input);
        }
    }

    fn fault(&mut self) {
        if self.resting {
            return;
        }
        let node = usize::try_from(self.chance.below(self.nodes.len() as u64)).unwrap_or(0);
        match self.chance.below(8) {
            0 | 1 if self.nodes[node].owner.is_some() => self.crash(node),
            2..=4 if !self.nodes[node].frozen => {
                self.nodes[node].frozen = true;
                let thaw = self.now_ms + self.chance.between(100, 15_000);
                self.at(thaw, Happening::Thaw { node });
            }
            5 => self.nodes[node].wall_offset_ms = self.chance.below(40_000).cast_signed() - 20_000,
            6 => {
                if let Some(owner) = &mut self.nodes[node].owner {
                    owner.drain();
                }
            }
            _ => {}
        }
        let next = self.now_ms + self.chance.between(500, 6_000);
        self.at(next, Happening::Fault);
    }
}

/// The first event of a chat's log.
fn created(chat: ChatId) -> Bytes {
    let membership = Membership { kind: MembershipKind::Created.into(), ..Membership::default() };
    let body = Some(event::Body::Membership(membership));
    Event { chat_id: chat.0, seq: 1, body, ..Event::default() }.encode_to_vec().into()
}

fn first_member(slot: u32) -> MemberRow {
    MemberRow {
        user: UserId(u64::from(slot) + 1),
        slot,
        role: if slot == 0 { Role::Admin } else { Role::Member },
        joined_at_ms: 0,
        joined_seq: Seq::ZERO,
        left_seq: Seq::ZERO,
    }
}

fn record((meta, roster): (Meta, Roster)) -> ChatRecord {
    let members = roster.members.iter().map(|member| (member.clone(), Marks::default())).collect();
    ChatRecord {
        meta,
        members,
        roster_seq: roster.seq,
        certain: roster.certain,
        head: Seq::ZERO,
        count: 0,
        last_at_ms: 0,
        blocks: Vec::new(),
    }
}
