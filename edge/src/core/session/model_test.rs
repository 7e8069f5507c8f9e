//! A full-mode connection against a world that delivers late, out of order, twice or as "behind", answers questions late and
//! from old reads, and fails some. Whatever the schedule, the client gets each chat from its position on, in order, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{
    Accepted, ChatSync, Content, Event, Membership, MembershipKind, Refused, Reply, event, reply,
};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use prost::Message as _;
use serde_json::Value;
use uuid::Uuid;

use super::{Bounds, Mode, Now, Session};
use crate::auth::{Claims, TokenError};
use crate::core::{Out, Question};
use crate::frames::Frame;
use crate::frames::client::read;
use crate::frames::event::EventFrame;
use crate::frames::server::Limits;
use crate::mailbox::{Answer, Behind, Item};

const CHATS: u64 = 3;
const CASES: u32 = 10_000;
/// Events per answer: few, so that there is more.
const PAGE: usize = 3;

/// How long an event is on its way at most, milliseconds: less than a chat without traffic is remembered.
const FLIGHT_MS: u64 = 20_000;

/// Which of those at hand: `pick` modulo their number.
type Pick = usize;

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    /// An event comes; with `true` it will come again.
    Deliver(Pick, bool),
    /// An event comes as what its chat is behind by.
    Overflow(Pick),
    /// Presence has the session; then the client syncs.
    Track,
    Sync,
    /// What a question asks for is read.
    Read(Pick),
    /// What was read is answered.
    Answer(Pick),
    Fail(Pick),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pick = 0..100_usize;
    let step = prop_oneof![
        6 => (1..=CHATS).prop_map(Step::Append),
        6 => (pick.clone(), prop::bool::weighted(0.1)).prop_map(|(pick, again)| Step::Deliver(pick, again)),
        1 => pick.clone().prop_map(Step::Overflow),
        1 => Just(Step::Track),
        1 => Just(Step::Sync),
        3 => pick.clone().prop_map(Step::Read),
        3 => pick.clone().prop_map(Step::Answer),
        1 => pick.prop_map(Step::Fail),
        2 => prop_oneof![1_u64..1_500, 20_000_u64..70_000].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

struct World {
    /// Reads skip an event now and then: control.
    skips: bool,
    session: Session,
    now: Now,
    tracked: bool,
    /// Whether the client has said `sync`.
    synced: bool,
    /// Whether the client was told `synced`.
    told_synced: bool,
    logs: BTreeMap<u64, Vec<Vec<u8>>>,
    /// By chat: seqs that need not come (any more).
    reached: BTreeMap<u64, BTreeSet<u64>>,
    /// Since when, and what.
    flying: Vec<(u64, Arc<EventFrame>)>,
    questions: Vec<Question>,
    answers: Vec<Answer>,
    /// By chat: what the client has; until it says `sync` (or hears of the chat) its position.
    got: BTreeMap<u64, u64>,
}

impl World {
    fn new(skips: bool) -> Self {
        let claims = Claims { user: UserId(1), device: "d".into(), expires_at: 1 << 40 };
        let limits = Limits { content_bytes: 1, frame_bytes: 1, watch_max: 1, chats_max: 1 };
        let bounds = Bounds { in_flight_max: 10, watch_max: 10, ping_ms: 30_000, silence_ms: u64::MAX / 2, limits };
        let now = Now { wall_ms: 0, mono_ms: 0 };
        let mut world = Self {
            skips,
            session: Session::new(now, Mode::Json, &claims, Uuid::nil(), bounds),
            now,
            tracked: false,
            synced: false,
            told_synced: false,
            logs: (1..=CHATS).map(|chat| (chat, Vec::new())).collect(),
            reached: BTreeMap::new(),
            flying: Vec::new(),
            questions: Vec::new(),
            answers: Vec::new(),
            got: (1..=CHATS).map(|chat| (chat, 2)).collect(),
        };
        // The last chat comes into being later.
        world.got.insert(CHATS, 0);
        for chat in 1..CHATS {
            (0..4).for_each(|_| world.append(chat));
        }
        world.take_out();
        world
    }

    fn run(steps: &[Step], skips: bool) {
        let mut world = Self::new(skips);
        for step in steps {
            world.step(step);
        }
        world.come_to_rest();
    }

    fn append(&mut self, chat: u64) {
        let log = self.logs.entry(chat).or_default();
        let seq = log.len() as u64 + 1;
        let created = Membership { kind: MembershipKind::Created.into(), ..Membership::default() };
        let content = Content { text: "x".into(), ..Content::default() };
        let body = Some(if seq == 1 { event::Body::Membership(created) } else { event::Body::Content(content) });
        let event =
            Event { chat_id: chat, seq, sender_id: 2, message_id: vec![0; 16].into(), body, ..Event::default() };
        let bytes = event.encode_to_vec();
        let reached = self.reached.entry(chat).or_default();
        let settled = (1..seq).take_while(|seq| reached.contains(seq)).last().unwrap_or(0);
        if self.tracked {
            let event = EventFrame::decode(&bytes, Seq(settled)).expect("an event");
            self.flying.push((self.now.mono_ms, Arc::new(event)));
        } else {
            reached.insert(seq);
        }
        log.push(bytes);
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Append(chat) => self.append(chat),
            Step::Deliver(pick, again) => {
                if let Some((since, event)) = take(&mut self.flying, pick) {
                    if again {
                        self.flying.push((since, event.clone()));
                    }
                    self.deliver(event);
                }
            }
            Step::Overflow(pick) => {
                if let Some((_, event)) = take(&mut self.flying, pick) {
                    self.reached.entry(event.chat().0).or_default().insert(event.seq().0);
                    let behind = Behind { first: event.seq(), settled: event.settled, head: event.seq() };
                    self.session.item(now, Item::Behind(event.chat(), behind));
                }
            }
            Step::Track if !self.tracked => {
                self.tracked = true;
                self.session.item(now, Item::Tracked);
            }
            Step::Sync if !self.synced => {
                self.synced = true;
                let positions: BTreeMap<_, _> = self.got.iter().filter(|(_, seq)| **seq > 0).collect();
                let sync = serde_json::json!({"type": "sync", "chats": positions}).to_string();
                self.session.frame(now, read(&sync), |_| Err(TokenError::Missing));
            }
            Step::Track | Step::Sync => {}
            Step::Read(pick) => {
                if let Some(question) = take(&mut self.questions, pick) {
                    let answer = self.read(&question);
                    self.answers.push(answer);
                }
            }
            Step::Answer(pick) => {
                if let Some(answer) = take(&mut self.answers, pick) {
                    self.session.item(now, Item::Answer(Box::new(answer)));
                }
            }
            Step::Fail(pick) => {
                match take(&mut self.questions, pick) {
                    Some(Question::List { chat, .. } | Question::SyncOne { chat }) => {
                        self.session.item(now, Item::Answer(Box::new(Answer::ListFailed { chat })));
                    }
                    // A sync that fails ends the connection: it is not what is tried here.
                    other => self.questions.extend(other),
                }
            }
            Step::Wait(ms) => {
                self.now.mono_ms += ms;
                // What isn't there by then comes no more: its stream has broken, and the connection with it.
                let at_last = |(since, _): &mut (u64, _)| *since + FLIGHT_MS < self.now.mono_ms;
                let late: Vec<_> = self.flying.extract_if(.., at_last).collect();
                late.into_iter().for_each(|(_, event)| self.deliver(event));
                self.session.tick(self.now);
            }
        }
        self.take_out();
    }

    fn deliver(&mut self, event: Arc<EventFrame>) {
        self.reached.entry(event.chat().0).or_default().insert(event.seq().0);
        self.session.item(self.now, Item::Event(event));
    }

    /// What message-svc answers.
    fn read(&self, question: &Question) -> Answer {
        match *question {
            Question::Sync { ref positions, after, .. } => {
                let chat = after.0 + 1;
                let there = self.logs.get(&chat).is_some_and(|log| !log.is_empty());
                let position = positions.get(&chat).copied().unwrap_or_default();
                let chats = there.then(|| self.start(chat, position)).into_iter().collect();
                Answer::Synced { chats, next: there.then_some(ChatId(chat)), known_device: true }
            }
            Question::SyncOne { chat } => Answer::SyncedOne { chat, sync: Some(self.start(chat.0, self.got[&chat.0])) },
            Question::List { chat, after } => {
                let log = &self.logs[&chat.0];
                let from =
                    usize::try_from(after.0).expect("small") + usize::from(self.skips && log.len().is_multiple_of(5));
                let from = from.min(log.len());
                let events: Vec<bytes::Bytes> =
                    log[from..].iter().take(PAGE).map(|bytes| bytes.clone().into()).collect();
                let more = from + events.len() < log.len();
                Answer::Listed { chat, events, more, head: Seq(log.len() as u64) }
            }
            ref other => panic!("asked in vain: {other:?}"),
        }
    }

    fn start(&self, chat: u64, position: u64) -> ChatSync {
        let log = &self.logs[&chat];
        let from = usize::try_from(position).expect("small");
        let events = log[from..].iter().take(PAGE).map(|bytes| bytes.clone().into()).collect();
        ChatSync { chat_id: chat, position, head: log.len() as u64, events, ..ChatSync::default() }
    }

    fn take_out(&mut self) {
        for out in self.session.take_out() {
            match out {
                Out::Frame(Frame::Text(text)) | Out::Answer(Frame::Text(text)) | Out::Passing(_, Frame::Text(text)) => {
                    self.received(&text);
                }
                Out::Frame(_) | Out::Answer(_) | Out::Passing(..) => panic!("not JSON"),
                Out::Ask(Question::WatchPeers { .. } | Question::Unwatch { .. }) => {}
                Out::Ask(question) => self.questions.push(question),
                Out::Ping(_) | Out::Command { .. } => {}
                Out::Close(close) => panic!("closed: {close:?}"),
            }
        }
    }

    fn received(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).expect("JSON");
        match frame["type"].as_str() {
            Some("message" | "chat") => {
                let (chat, seq) = (frame["chat_id"].as_u64().expect("an id"), frame["seq"].as_u64().expect("a seq"));
                let got = self.got.get_mut(&chat).expect("one of the chats");
                assert_eq!(seq, *got + 1, "chat {chat}");
                *got = seq;
            }
            Some("synced") => {
                self.told_synced = true;
                for (chat, seq) in frame["chats"].as_object().expect("an object") {
                    assert_eq!(seq.as_u64(), self.got.get(&chat.parse().expect("an id")).copied(), "chat {chat}");
                }
            }
            Some("hello") => {}
            other => panic!("{other:?}: {text}"),
        }
    }

    fn come_to_rest(&mut self) {
        for step in [Step::Track, Step::Sync] {
            self.step(&step);
        }
        for _ in 0..2_000 {
            if self.flying.is_empty() && self.questions.is_empty() && self.answers.is_empty() {
                self.step(&Step::Wait(1_500));
            }
            for step in [Step::Deliver(0, false), Step::Read(0), Step::Answer(0)] {
                self.step(&step);
            }
            let heads = self.logs.iter().map(|(chat, log)| (*chat, log.len() as u64));
            if self.flying.is_empty() && self.told_synced && heads.eq(self.got.clone()) {
                return;
            }
        }
        panic!("never came: has {:?}, heads {:?}", self.got, self.logs.values().map(Vec::len).collect::<Vec<_>>());
    }
}

fn take<T>(from: &mut Vec<T>, pick: Pick) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(pick % from.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_chat_comes_in_order_and_once_whatever_the_schedule(steps in steps()) {
        World::run(&steps, false);
    }
}

#[test]
fn control_a_read_that_skips_an_event_is_caught() {
    let config =
        ProptestConfig { cases: CASES, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let caught = TestRunner::new(config).run(&steps(), |steps| {
        let run = std::panic::catch_unwind(|| World::run(&steps, true));
        run.map_err(|_| TestCaseError::fail("caught"))
    });
    assert!(caught.is_err(), "no schedule has found the event that was left out");
}

#[test]
fn the_watch_list_is_bounded_whatever_is_unwatched() {
    let mut world = World::new(false);
    let say = |world: &mut World, kind: &str, users: std::ops::Range<u64>| {
        let frame = serde_json::json!({"type": kind, "user_ids": users.collect::<Vec<_>>()}).to_string();
        world.session.frame(world.now, read(&frame), |_| Err(TokenError::Missing));
        let out = world.session.take_out();
        out.iter().any(|out| matches!(out, Out::Answer(Frame::Text(text)) if text.contains("TOO_LARGE")))
    };
    assert!(!say(&mut world, "watch", 1..11));
    assert!(!say(&mut world, "unwatch", 100..110), "whom it doesn't watch");
    assert!(say(&mut world, "watch", 11..12), "one too many");
    assert!(!say(&mut world, "watch", 1..11), "the same again");
    assert!(!say(&mut world, "unwatch", 1..2));
    assert!(!say(&mut world, "watch", 11..12));
}

/// A seed client's connection, user 2's, whose chat 1 has events 1 to 4.
struct Seed {
    session: Session,
    now: Now,
}

impl Seed {
    fn new() -> Self {
        let World { session, now, .. } = World::new(false);
        let claims = Claims { user: UserId(2), device: "d".into(), expires_at: 1 << 40 };
        let mut session = Session::new(now, Mode::Seed, &claims, Uuid::nil(), session.bounds);
        session.item(now, Item::Tracked);
        session.take_out();
        Self { session, now }
    }

    /// What its client was told: types and seqs.
    fn told(&mut self) -> Vec<String> {
        let texts = self.session.take_out().into_iter().filter_map(|out| match out {
            Out::Frame(Frame::Text(text)) | Out::Answer(Frame::Text(text)) | Out::Passing(_, Frame::Text(text)) => {
                Some(serde_json::from_str::<Value>(&text).expect("JSON"))
            }
            _ => None,
        });
        texts.map(|frame| format!("{} {}", frame["type"].as_str().unwrap_or_default(), frame["seq"])).collect()
    }

    /// Sends a message: its call, and its id.
    fn send(&mut self) -> (u64, bytes::Bytes) {
        let frame = read(r#"{"type":"message","chat_id":1,"content":"mine"}"#);
        self.session.frame(self.now, frame, |_| Err(TokenError::Missing));
        let sent = self.session.take_out().into_iter().find_map(|out| match out {
            Out::Command { call, action: Action::Send(send) } => Some((call, send.message_id)),
            _ => None,
        });
        sent.expect("a send")
    }

    fn accepted(&mut self, call: u64, seq: u64, message_id: &bytes::Bytes) {
        let accepted = Accepted { chat_id: 1, seq, message_id: message_id.clone(), ..Accepted::default() };
        let reply = Reply { session: 0, call, outcome: Some(reply::Outcome::Accepted(accepted)) };
        self.session.item(self.now, Item::Reply(Box::new(reply)));
    }

    fn encoded(seq: u64, sender_id: u64, message_id: bytes::Bytes) -> Vec<u8> {
        let body = Some(event::Body::Content(Content { text: "x".into(), ..Content::default() }));
        Event { chat_id: 1, seq, sender_id, message_id, body, ..Event::default() }.encode_to_vec()
    }

    fn event(&mut self, seq: u64, sender_id: u64, message_id: bytes::Bytes) {
        let event = EventFrame::decode(&Self::encoded(seq, sender_id, message_id), Seq(4)).expect("an event");
        self.session.item(self.now, Item::Event(Arc::new(event)));
    }

    fn synced(&mut self, position: u64, events: &[Vec<u8>]) {
        let events: Vec<bytes::Bytes> = events.iter().map(|event| event.clone().into()).collect();
        let head = position + events.len() as u64;
        let chats = vec![ChatSync { chat_id: 1, position, head, events, ..ChatSync::default() }];
        let answer = Answer::Synced { chats, next: None, known_device: true };
        self.session.item(self.now, Item::Answer(Box::new(answer)));
    }
}

fn id(seq: u8) -> bytes::Bytes {
    vec![seq; 16].into()
}

#[test]
fn in_seed_mode_an_ack_comes_where_the_event_would() {
    let mut seed = Seed::new();
    seed.synced(4, &[]);
    let (call, own) = seed.send();
    seed.accepted(call, 6, &own);
    assert!(seed.told().is_empty(), "acked before an earlier event");
    seed.event(7, 3, id(7));
    seed.event(5, 3, id(5));
    assert_eq!(seed.told(), ["message 5"]);
    seed.event(6, 2, own);
    assert_eq!(seed.told(), ["ack 6", "message 7"]);
    let (call, own) = seed.send();
    seed.event(8, 2, own.clone());
    assert_eq!(seed.told(), ["ack 8"]);
    seed.accepted(call, 8, &own);
    assert!(seed.told().is_empty(), "acked twice");
}

#[test]
fn in_seed_mode_an_ack_waits_for_the_catching_up() {
    let mut seed = Seed::new();
    let (call, own) = seed.send();
    seed.accepted(call, 5, &own);
    assert!(seed.told().is_empty(), "acked before what was missed");
    seed.synced(3, &[Seed::encoded(4, 3, id(4))]);
    assert_eq!(seed.told(), ["message 4"]);
    // It is known to be there, so the log is read up to it.
    let events = vec![Seed::encoded(5, 2, own).into()];
    let listed = Answer::Listed { chat: ChatId(1), events, more: false, head: Seq(5) };
    seed.session.item(seed.now, Item::Answer(Box::new(listed)));
    assert_eq!(seed.told(), ["ack 5"]);
}

#[test]
fn in_seed_mode_an_ack_comes_though_another_connection_of_the_device_was_faster() {
    let mut seed = Seed::new();
    let (call, own) = seed.send();
    seed.accepted(call, 5, &own);
    seed.synced(6, &[]);
    assert_eq!(seed.told(), ["ack 5"]);
}

#[test]
fn in_seed_mode_an_event_in_doubt_comes_as_a_message_and_an_accepted_one_is_acked() {
    let mut seed = Seed::new();
    seed.synced(4, &[]);
    let (call, accepted) = seed.send();
    let (in_doubt, unknown) = seed.send();
    seed.accepted(call, 5, &accepted);
    let refused = Refused { code: "UNAVAILABLE".into(), retry_after_ms: 1_000, ..Refused::default() };
    let reply = Reply { session: 1, call: in_doubt, outcome: Some(reply::Outcome::Refused(refused)) };
    seed.session.item(seed.now, Item::Reply(Box::new(reply)));
    assert_eq!(seed.told(), ["error null"]);
    seed.event(5, 2, accepted);
    seed.event(6, 2, unknown);
    assert_eq!(seed.told(), ["ack 5", "message 6"]);
}
