//! Random schedules of sends, marks, refusals, streams that break, instances that freeze and die, chats that move, and sessions
//! that close, with abstract owners that follow message-svc's rules of generations: what is accepted is accepted once and in
//! the order in which it was sent, every send has one answer, and a new owner hears of every chat and mark of the last while.

mod owner;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use confab_ids::SHARDS;
use confab_proto::message::v1::{Content, Mark};

use super::*;
use owner::Instance;

/// Each in a shard of its own.
const CHATS: [u64; 3] = [1, 2, 3];
const NAMES: [&str; 3] = ["a:1", "b:1", "c:1"];
const SCHEDULES: u64 = 400;
const STEPS: u64 = 600;

/// Marks and touches of so long before the end are looked for, milliseconds: less than what is kept.
const LATELY_MS: u64 = 30_000;

/// Rules that are cut, to see that the model misses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Nothing,
    /// What is sent again has no higher generation.
    Generations,
    /// Owners take what comes after a refusal.
    Refusals,
    /// What is sent later goes out first, now and then.
    Order,
    /// Chats are not touched.
    Touches,
    /// Marks are told once.
    Marks,
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn pick(&mut self, from: usize) -> usize {
        usize::try_from(self.below(from as u64)).expect("small")
    }
}

/// A session's call: what a message is known by.
type Key = (u64, u64);

/// What the chats' owners have stored, whoever they are.
#[derive(Default)]
struct Store {
    log: BTreeMap<ChatId, Vec<Key>>,
    marks: BTreeMap<(u64, ChatId), u64>,
}

struct World {
    cut: Cut,
    chance: Chance,
    now_ms: u64,
    router: Router,
    instances: [Instance; 3],
    store: Store,
    /// By chat: the instance that owns it.
    truth: BTreeMap<ChatId, Option<usize>>,
    /// Chats that their present owners have heard of.
    touched: BTreeSet<ChatId>,
    maps: VecDeque<WatchShardsResponse>,
    version: u64,
    streams: Stream,
    sessions: Vec<u64>,
    calls: BTreeMap<u64, u64>,
    sends: BTreeMap<Key, ChatId>,
    /// By send: whether it was accepted, given up, or refused for good.
    answers: BTreeMap<Key, Answer>,
    used_ms: BTreeMap<ChatId, u64>,
    marked: BTreeMap<(u64, ChatId), (u64, u64)>,
    /// Of [`Cut::Marks`].
    told_marks: BTreeSet<Key>,
    resting: bool,
    /// Nobody marks: in every other schedule, for marks tell owners of chats, too.
    unmarked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    GivenUp,
    Final,
}

/// A message that its owner refuses for good.
fn is_bad(call: u64) -> bool {
    call.is_multiple_of(13)
}

fn shard(chat: ChatId) -> usize {
    usize::from(Shard::of_chat(chat).0)
}

impl World {
    fn new(seed: u64, cut: Cut) -> Self {
        let mut world = Self {
            cut,
            chance: Chance(seed),
            now_ms: 1_000,
            router: Router::default(),
            instances: Default::default(),
            store: Store::default(),
            truth: CHATS.iter().map(|chat| (ChatId(*chat), None)).collect(),
            touched: BTreeSet::new(),
            maps: VecDeque::new(),
            version: 0,
            streams: 0,
            sessions: vec![1, 2],
            calls: BTreeMap::new(),
            sends: BTreeMap::new(),
            answers: BTreeMap::new(),
            used_ms: BTreeMap::new(),
            marked: BTreeMap::new(),
            told_marks: BTreeSet::new(),
            resting: false,
            unmarked: seed % 2 == 1,
        };
        CHATS.into_iter().for_each(|chat| world.moves(ChatId(chat), Some(0)));
        world
    }

    fn run(seed: u64, cut: Cut) -> Result<(), String> {
        let mut world = Self::new(seed, cut);
        for _ in 0..STEPS {
            world.step()?;
        }
        world.come_to_rest()
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.chance.pick(3);
        let chat = ChatId(CHATS[self.chance.pick(3)]);
        let count = 1 + self.chance.pick(6);
        match self.chance.below(100) {
            0..25 => self.say(chat)?,
            25..32 if !self.unmarked => self.mark(chat)?,
            25..60 => self.serve(at, count)?,
            60..75 => self.hear(at, count)?,
            75..83 => {
                let longer = if self.chance.one_in(8) { 2_500 } else { 120 };
                let ms = self.chance.below(longer);
                self.wait(ms)?;
            }
            83..92 => self.connect(at)?,
            92..94 => self.breaks(at, false)?,
            94..95 => self.breaks(at, true)?,
            95..97 => {
                let to = (!self.chance.one_in(4)).then_some(at);
                self.moves(chat, to);
            }
            97..99 => self.learn()?,
            _ if self.chance.one_in(3) => self.close(),
            _ => self.instances[at].frozen_until_ms = self.now_ms + self.chance.below(25_000),
        }
        Ok(())
    }

    fn next_call(&mut self) -> Key {
        let session = self.sessions[self.chance.pick(self.sessions.len())];
        let call = self.calls.entry(session).or_default();
        *call += 1;
        (session, *call)
    }

    fn say(&mut self, chat: ChatId) -> Result<(), String> {
        for _ in 0..=self.chance.below(3) {
            let (session, call) = self.next_call();
            self.sends.insert((session, call), chat);
            self.used_ms.insert(chat, self.now_ms);
            let id = (u128::from(session) << 64 | u128::from(call)).to_be_bytes();
            let send = Send {
                chat_id: chat.0,
                user_id: session,
                message_id: id.to_vec().into(),
                content: Some(Content::default()),
                ..Send::default()
            };
            let mut fx = Effects::default();
            self.router.command(self.now_ms, session, call, Action::Send(send), &mut fx);
            self.act(fx)?;
        }
        Ok(())
    }

    fn mark(&mut self, chat: ChatId) -> Result<(), String> {
        let (session, call) = self.next_call();
        self.used_ms.insert(chat, self.now_ms);
        self.marked.insert((session, chat), (call, self.now_ms));
        let mark = Mark { chat_id: chat.0, user_id: session, delivered: call, ..Mark::default() };
        let mut fx = Effects::default();
        self.router.command(self.now_ms, session, call, Action::Mark(mark), &mut fx);
        self.act(fx)
    }

    fn close(&mut self) {
        let at = self.chance.pick(self.sessions.len());
        let session = std::mem::replace(&mut self.sessions[at], 1_000 + self.now_ms);
        self.router.closed(self.now_ms, session);
        self.sends.retain(|(of, _), _| *of != session);
    }

    fn serve(&mut self, at: usize, count: usize) -> Result<(), String> {
        if self.instances[at].frozen_until_ms > self.now_ms {
            return Ok(());
        }
        for _ in 0..count {
            if let Some(chat) = self.instances[at].next_chat() {
                let owns = self.truth[&chat] == Some(at);
                if owns {
                    self.touched.insert(chat);
                }
                let passing = !self.resting && self.chance.one_in(20);
                self.instances[at].serve(owns, passing, self.cut != Cut::Refusals);
            }
            if self.resting || self.chance.one_in(3) {
                self.instances[at].commit(&mut self.store);
            }
        }
        Ok(())
    }

    /// Replies come.
    fn hear(&mut self, at: usize, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let Some((stream, reply)) = self.instances[at].next_reply() else { break };
            let mut fx = Effects::default();
            self.router.replied(self.now_ms, stream, reply, &mut fx);
            self.act(fx)?;
        }
        Ok(())
    }

    fn wait(&mut self, ms: u64) -> Result<(), String> {
        self.now_ms += ms;
        let mut fx = Effects::default();
        self.router.tick(self.now_ms, &mut fx);
        self.act(fx)
    }

    fn connect(&mut self, at: usize) -> Result<(), String> {
        if self.instances[at].has_stream() {
            return Ok(());
        }
        self.streams += 1;
        self.instances[at].open(self.streams);
        let mut fx = Effects::default();
        self.router.connected(self.now_ms, NAMES[at], self.streams, &mut fx);
        self.act(fx)
    }

    /// A stream breaks, or its instance dies with it and is there again, with nothing in its memory.
    fn breaks(&mut self, at: usize, dies: bool) -> Result<(), String> {
        let Some(stream) = self.instances[at].close() else { return Ok(()) };
        if dies {
            for chat in CHATS.map(ChatId) {
                if self.truth[&chat] == Some(at) {
                    self.touched.remove(&chat);
                }
                let kept = self.chance.pick(4);
                self.instances[at].drop_chat(chat, kept, &mut self.store);
            }
        }
        let mut fx = Effects::default();
        self.router.lost(self.now_ms, stream, &mut fx);
        self.act(fx)
    }

    /// A chat's shard goes to another instance, or to none for a while. Some of what was under way is in the log.
    fn moves(&mut self, chat: ChatId, to: Option<usize>) {
        let before = self.truth.insert(chat, to).flatten();
        if let Some(before) = before.filter(|_| before != to) {
            let kept = self.chance.pick(4);
            self.instances[before].drop_chat(chat, kept, &mut self.store);
        }
        if before != to {
            self.touched.remove(&chat);
        }
        self.version += 1;
        let mut shards = vec![0; usize::from(SHARDS)];
        for (chat, owner) in &self.truth {
            shards[shard(*chat)] = owner.map_or(0, |owner| u32::try_from(owner).expect("small") + 1);
        }
        let owners = NAMES.iter().map(ToString::to_string).collect();
        self.maps.push_back(WatchShardsResponse { version: self.version, owners, shards });
    }

    /// A map is told, the next one or an older one again.
    fn learn(&mut self) -> Result<(), String> {
        let Some(map) = self.maps.front().cloned() else { return Ok(()) };
        if self.resting || !self.chance.one_in(4) {
            self.maps.pop_front();
        }
        let mut fx = Effects::default();
        self.router.mapped(self.now_ms, map, &mut fx);
        self.act(fx)
    }

    fn act(&mut self, fx: Effects) -> Result<(), String> {
        for (stream, mut commands) in fx.commands {
            let Some(instance) = self.instances.iter_mut().find(|instance| instance.is_stream(stream)) else {
                return Err(format!("stream {stream} is closed, and gets {}", commands.len()));
            };
            if self.cut == Cut::Order && self.chance.one_in(4) {
                commands.reverse();
            }
            if self.cut == Cut::Generations {
                commands.iter_mut().for_each(|command| command.generation = 0);
            }
            commands.retain(|command| self.cut != Cut::Touches || command.call & TOUCH == 0);
            if self.cut == Cut::Marks {
                let told = &mut self.told_marks;
                commands.retain(|command| command.call & MARK == 0 || told.insert((command.session, command.call)));
            }
            instance.inbox().extend(commands);
        }
        fx.replies.into_iter().try_for_each(|reply| self.answer(&reply))
    }

    fn answer(&mut self, reply: &Reply) -> Result<(), String> {
        let key = (reply.session, reply.call);
        let Some(chat) = self.sends.get(&key) else { return Err(format!("{key:?} waits for no answer")) };
        let is_logged = self.store.log.get(chat).is_some_and(|log| log.contains(&key));
        let answer = match &reply.outcome {
            Some(reply::Outcome::Accepted(_)) if is_logged => Answer::Accepted,
            Some(reply::Outcome::Refused(refused)) if refused.code == "UNAVAILABLE" => Answer::GivenUp,
            Some(reply::Outcome::Refused(_)) if is_bad(key.1) && !is_logged => Answer::Final,
            other => return Err(format!("{key:?}, logged: {is_logged}, is answered {other:?}")),
        };
        match self.answers.insert(key, answer) {
            Some(before) => Err(format!("{key:?} is answered {before:?}, then {answer:?}")),
            None => Ok(()),
        }
    }

    /// Everything works again: everything comes to its end.
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.resting = true;
        for at in 0..3 {
            self.instances[at].frozen_until_ms = 0;
        }
        if self.unmarked {
            // Nothing waits for an answer when the chats move for the last time.
            while !self.maps.is_empty() {
                self.learn()?;
            }
            self.work_until(self.now_ms + 3_000)?;
        }
        for chat in CHATS.map(ChatId) {
            let to = self.chance.pick(3);
            self.moves(chat, Some(to));
        }
        while !self.maps.is_empty() {
            self.learn()?;
        }
        let began_ms = self.now_ms;
        self.work_until(began_ms + 3_000)?;
        self.check_touched(began_ms)?;
        let first: BTreeMap<u64, u64> = self.calls.clone();
        CHATS.into_iter().try_for_each(|chat| self.say(ChatId(chat)))?;
        self.work_until(began_ms + 22_000)?;
        self.check(began_ms, &first)
    }

    fn work_until(&mut self, until_ms: u64) -> Result<(), String> {
        while self.now_ms < until_ms {
            for at in 0..3 {
                self.connect(at)?;
                self.serve(at, 50)?;
                self.hear(at, 50)?;
            }
            self.wait(25)?;
        }
        Ok(())
    }

    fn check(&self, rested_ms: u64, first: &BTreeMap<u64, u64>) -> Result<(), String> {
        for (chat, log) in &self.store.log {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for (session, call) in log {
                if self.answers.get(&(*session, *call)) == Some(&Answer::GivenUp) {
                    // Nobody knows what becomes of it.
                    continue;
                }
                let before = last.insert(*session, *call).unwrap_or(0);
                if before >= *call {
                    return Err(format!("{chat:?}: {session} has {call} behind {before}"));
                }
            }
        }
        for (session, call) in self.sends.keys() {
            let answer = self.answers.get(&(*session, *call));
            let given_up = answer == Some(&Answer::GivenUp);
            if answer.is_none() || given_up && *call > first.get(session).copied().unwrap_or(0) {
                return Err(format!("{session}/{call} is {answer:?}"));
            }
        }
        for ((session, chat), (seq, at_ms)) in &self.marked {
            let stored = self.store.marks.get(&(*session, *chat)).copied().unwrap_or(0);
            let owner = self.truth[chat].map_or(0, |at| self.instances[at].mark(*session, *chat));
            if at_ms + LATELY_MS > rested_ms && stored.max(owner) < *seq {
                return Err(format!("{session} has marked {seq} in {chat:?}, {stored} and {owner} are known"));
            }
        }
        Ok(())
    }

    /// What an owner before has acked and not published is published by the present one.
    fn check_touched(&self, rested_ms: u64) -> Result<(), String> {
        let used = self.used_ms.iter().filter(|(_, at_ms)| **at_ms + LATELY_MS > rested_ms);
        match used.map(|(chat, _)| chat).find(|chat| !self.touched.contains(chat)) {
            Some(chat) => Err(format!("{chat:?} is not touched")),
            None => Ok(()),
        }
    }
}

#[test]
fn what_is_sent_is_accepted_once_in_order_and_answered() {
    let mut totals = BTreeMap::new();
    for seed in 0..SCHEDULES {
        let mut world = World::new(seed, Cut::Nothing);
        let run = (0..STEPS).try_for_each(|_| world.step()).and_then(|()| world.come_to_rest());
        assert_eq!(run, Ok(()), "seed {seed}");
        assert_eq!((world.router.held.sends, world.router.held.bytes), (0, 0), "seed {seed}");
        for answer in world.answers.values() {
            *totals.entry(format!("{answer:?}")).or_insert(0_u32) += 1;
        }
        // Nothing is kept of what is over.
        world.wait(61_000).expect("quiet");
        world.wait(61_000).expect("quiet");
        assert!(world.router.sessions.is_empty() && world.router.timers.0.is_empty(), "seed {seed}");
        assert_eq!(world.router.lanes, 0, "seed {seed}");
    }
    assert!(totals.len() == 3, "some kind of answer was never given: {totals:?}");
}

#[test]
fn controls_each_rule_that_is_cut_is_missed() {
    for cut in [Cut::Generations, Cut::Refusals, Cut::Order, Cut::Touches, Cut::Marks] {
        assert!(
            (0..SCHEDULES).any(|seed| World::run(seed, cut).is_err()),
            "{cut:?} is not missed in {SCHEDULES} schedules"
        );
    }
}
