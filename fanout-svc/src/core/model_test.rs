//! Random schedules of presence instances that go down, start anew and freeze, of views that lag behind each other, and of
//! edges that break, freeze, come back and die: a session that was registered when something was published gets it, or a
//! marker that covers it; and nothing counts as settled before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use confab_mesh::views::Views;
use confab_proto::presence::v1::{EdgeUsers, LocateRequest, Location};
use proptest::prelude::*;

use super::*;

const INSTANCES: [&str; 4] = ["p", "q", "r", "s"];
const CHATS: u64 = 3;
const WARM_UP_MS: u64 = 15_000;
const EDGE_LIFE_MS: u64 = 15_000;

/// How far the views may lag, and how soon an edge finds an instance that is up.
const LAG_MS: u64 = 20_000;
const CONNECT_MS: u64 = 3_000;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        chat: u64,
    },
    Open {
        edge: usize,
        user: u64,
    },
    Close(usize),
    Answer(usize),
    Down {
        instance: usize,
        restart: bool,
    },
    /// It answers no more, until `Up`.
    Freeze(usize),
    Up,
    List(u8),
    See {
        edge_first: bool,
    },
    Attach(usize),
    Detach(usize),
    Read {
        edge: usize,
        count: usize,
    },
    Kill(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let edge = 0..2_usize;
    prop_oneof![
        8 => (1..=CHATS).prop_map(|chat| Step::Publish { chat }),
        4 => (edge.clone(), 1..5_u64).prop_map(|(edge, user)| Step::Open { edge, user }),
        1 => any::<usize>().prop_map(Step::Close),
        12 => any::<usize>().prop_map(Step::Answer),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(instance, restart)| Step::Down { instance, restart }),
        1 => any::<usize>().prop_map(Step::Freeze),
        2 => Just(Step::Up),
        2 => any::<u8>().prop_map(Step::List),
        2 => any::<bool>().prop_map(|edge_first| Step::See { edge_first }),
        3 => edge.clone().prop_map(Step::Attach),
        2 => edge.clone().prop_map(Step::Detach),
        8 => (edge.clone(), 1..6_usize).prop_map(|(edge, count)| Step::Read { edge, count }),
        1 => edge.prop_map(Step::Kill),
        6 => prop_oneof![5 => 1..300_u64, 2 => 300..3_000_u64, 1 => 3_000..60_000_u64].prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct Presence {
    up: bool,
    /// Its process' start.
    started_ms: i64,
    /// User, edge, session.
    sessions: BTreeSet<(u64, usize, u64)>,
    /// When which edge finds it again.
    connects: Vec<(u64, usize)>,
    questions: VecDeque<LocateRequest>,
    asked: bool,
    asked_again_ms: Option<u64>,
}

#[derive(Default)]
struct EdgeModel {
    attachment: Option<Attachment>,
    inbox: VecDeque<Delivery>,
    last_id: u64,
    dead_since: Option<u64>,
}

struct Open {
    user: u64,
    edge: usize,
    session: u64,
    registered: bool,
    /// Seqs and heads of markers, by chat.
    got: HashSet<(u64, u64)>,
    marked: HashMap<u64, u64>,
}

struct World {
    now_ms: u64,
    router: Router,
    instances: Vec<Presence>,
    /// What the edges see, and what fanout will see, or the other way round.
    edge_views: Views,
    /// When the listing changed last.
    listed_ms: Option<u64>,
    unseen: Option<(Names, Option<bool>)>,
    edges: Vec<EdgeModel>,
    open: Vec<Open>,
    ids: u64,
    seqs: BTreeMap<u64, u64>,
    /// Publications that are not settled: chat, seq, and the sessions that were registered.
    unsettled: BTreeMap<u64, (u64, u64, Vec<u64>)>,
    /// All of them, for the end.
    published: Vec<(u64, u64, Vec<u64>)>,
    overdue: usize,
    frozen: Option<usize>,
    /// The control: sessions are registered at one instance, as if one could not fail.
    one_home: bool,
}

fn listing(names: &[&str]) -> Names {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn number(name: &str) -> usize {
    INSTANCES.iter().position(|known| *known == name).expect("an instance")
}

impl World {
    fn new(one_home: bool) -> Self {
        let all = listing(&INSTANCES[..2]);
        let mut world = Self {
            now_ms: 0,
            router: Router::new(all.clone()),
            instances: INSTANCES
                .iter()
                .map(|_| Presence { up: true, started_ms: -100_000, ..Presence::default() })
                .collect(),
            edge_views: Views::new(all.clone()),
            listed_ms: None,
            unseen: None,
            edges: (0..2).map(|_| EdgeModel::default()).collect(),
            open: Vec::new(),
            ids: 0,
            seqs: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            published: Vec::new(),
            overdue: 0,
            frozen: None,
            one_home,
        };
        (0..2).for_each(|instance| world.connect_fanout(instance));
        world
    }

    fn run(steps: &[Step], one_home: bool) {
        let mut world = Self::new(one_home);
        steps.iter().for_each(|step| world.step(step));
        world.come_to_rest();
    }

    fn next(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { chat } => self.publish(chat),
            Step::Open { edge, user } => self.open(edge, user),
            Step::Close(pick) => {
                if !self.open.is_empty() {
                    let closed = self.open.remove(pick % self.open.len());
                    for instance in self.instances.iter_mut().filter(|instance| instance.up) {
                        instance.sessions.remove(&(closed.user, closed.edge, closed.session));
                    }
                }
            }
            Step::Answer(pick) => drop(self.answer(pick % INSTANCES.len())),
            Step::Down { instance, restart } => self.down(instance % INSTANCES.len(), restart),
            Step::Freeze(instance) => {
                if self.all_are_well() {
                    self.frozen = Some(instance % INSTANCES.len());
                }
            }
            Step::Up => self.up(),
            Step::List(bits) => self.list(bits),
            Step::See { edge_first } => self.see(edge_first),
            Step::Attach(edge) => self.attach(edge),
            Step::Detach(edge) => self.detach(edge),
            Step::Read { edge, count } => (0..count).for_each(|_| self.read(edge)),
            Step::Kill(edge) => self.kill(edge),
            Step::Wait(ms) => self.wait(ms),
        }
    }

    fn publish(&mut self, chat: u64) {
        let id = self.next();
        let seq = self.seqs.entry(chat).or_default();
        *seq += 1;
        let seq = *seq;
        let members: Vec<u64> = (1..5).filter(|user| user % CHATS != chat % CHATS).collect();
        let to = self.open.iter().filter(|open| open.registered && members.contains(&open.user));
        let to: Vec<u64> = to.map(|open| open.session).collect();
        self.unsettled.insert(id, (chat, seq, to.clone()));
        self.published.push((chat, seq, to));
        let payload = Some(publication::Payload::Event("an event".into()));
        let publication = Publication { id, chat_id: chat, seq, user_ids: members, payload, ..Publication::default() };
        self.act(|router, now, fx| router.publish(now, 1, vec![publication], fx));
    }

    fn open(&mut self, edge: usize, user: u64) {
        if self.edges[edge].dead_since.is_some() {
            return;
        }
        let session = self.next();
        let open = Open { user, edge, session, registered: false, got: HashSet::new(), marked: HashMap::new() };
        self.open.push(open);
        self.register(edge, None);
    }

    /// An edge's sessions go where they belong, as far as that is up and found, or only to one instance.
    fn register(&mut self, edge: usize, only: Option<usize>) {
        for open in self.open.iter_mut().filter(|open| open.edge == edge) {
            let homes: Vec<usize> =
                self.edge_views.names(self.edge_views.homes(open.user)).map(|name| number(name)).collect();
            let count = if self.one_home { 1 } else { homes.len() };
            for home in homes.into_iter().take(count).filter(|home| only.is_none_or(|only| only == *home)) {
                let instance = &mut self.instances[home];
                if instance.up && instance.connects.iter().all(|(_, other)| *other != edge) {
                    instance.sessions.insert((open.user, edge, open.session));
                    open.registered = true;
                }
            }
        }
    }

    /// Says whether there was something to answer.
    fn answer(&mut self, at: usize) -> bool {
        let now_ms = self.now_ms;
        let instance = &mut self.instances[at];
        if !instance.up || !instance.asked || self.frozen == Some(at) {
            return false;
        }
        let Some(question) = instance.questions.pop_front() else { return false };
        let lives = |edge: usize| self.edges[edge].dead_since.is_none_or(|since| since + EDGE_LIFE_MS > now_ms);
        let locate = |users: &[u64]| {
            let on = |edge: usize| {
                let known = |user: &u64| instance.sessions.iter().any(|(of, on, _)| of == user && *on == edge);
                let user_ids: Vec<u64> = users.iter().copied().filter(known).collect();
                (lives(edge) && !user_ids.is_empty()).then(|| EdgeUsers { edge_id: edge.to_string(), user_ids })
            };
            Location { edges: (0..self.edges.len()).filter_map(on).collect() }
        };
        let answer = LocateResponse {
            locations: question.sets.iter().map(|set| locate(&set.user_ids)).collect(),
            live_edge_ids: question
                .edge_ids
                .into_iter()
                .filter(|edge| lives(edge.parse().expect("a number")))
                .collect(),
            partial: i64::try_from(now_ms).expect("small") < instance.started_ms + WARM_UP_MS as i64,
        };
        self.act(|router, now, fx| router.located(now, INSTANCES[at], answer, fx));
        true
    }

    /// At most one instance is not as it should be.
    fn down(&mut self, instance: usize, restart: bool) {
        if !self.all_are_well() {
            return;
        }
        let down = &mut self.instances[instance];
        down.up = false;
        if restart {
            down.sessions.clear();
            down.started_ms = i64::MAX;
        }
        self.lose(instance);
    }

    fn all_are_well(&self) -> bool {
        let is_well = |instance: &Presence| {
            instance.up && instance.connects.is_empty() && (instance.asked || instance.asked_again_ms.is_none())
        };
        self.frozen.is_none() && self.instances.iter().all(is_well)
    }

    fn lose(&mut self, instance: usize) {
        let presence = &mut self.instances[instance];
        presence.questions.clear();
        if std::mem::take(&mut presence.asked) {
            self.act(|router, now, fx| router.presence_lost(now, INSTANCES[instance], fx));
        }
    }

    fn up(&mut self) {
        let now = self.now_ms;
        self.frozen = None;
        for at in 0..INSTANCES.len() {
            if !self.instances[at].up {
                let instance = &mut self.instances[at];
                instance.up = true;
                if instance.started_ms == i64::MAX {
                    instance.started_ms = i64::try_from(now).expect("small");
                }
                let edges = self.edges.iter().enumerate().filter(|(_, edge)| edge.dead_since.is_none());
                instance.connects =
                    edges.map(|(edge, _)| (now + CONNECT_MS * (edge as u64 % 2 + 1) / 2, edge)).collect();
                self.connect_fanout(at);
            }
        }
    }

    fn connect_fanout(&mut self, instance: usize) {
        self.instances[instance].asked_again_ms = None;
        self.instances[instance].asked = true;
        self.router.presence_connected(INSTANCES[instance].into());
    }

    /// The listing changes: at least two, and not before everybody has long seen the last change.
    fn list(&mut self, bits: u8) {
        let names: Vec<&str> =
            INSTANCES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, name)| *name).collect();
        if names.len() >= 2 && self.unseen.is_none() && self.listed_ms.is_none_or(|at| at + 60_000 <= self.now_ms) {
            self.unseen = Some((listing(&names), None));
            self.listed_ms = Some(self.now_ms);
        }
    }

    /// One side sees the listing, then the other.
    fn see(&mut self, edge_first: bool) {
        let Some((names, seen)) = self.unseen.take() else { return };
        let edges = seen.map_or(edge_first, |edges| !edges);
        if edges {
            self.edge_views.change(self.now_ms, names.clone());
            (0..self.edges.len()).for_each(|edge| self.register(edge, None));
        } else {
            self.router.presences_listed(self.now_ms, names.clone());
            for name in names.iter().map(|name| number(name)) {
                if self.instances[name].up && !self.instances[name].asked {
                    self.connect_fanout(name);
                }
            }
        }
        if seen.is_none() {
            self.unseen = Some((names, Some(edges)));
        }
    }

    fn attach(&mut self, edge: usize) {
        if self.edges[edge].dead_since.is_some() || self.edges[edge].attachment.is_some() {
            return;
        }
        let attachment = self.next();
        self.edges[edge].attachment = Some(attachment);
        self.edges[edge].last_id = 0;
        self.act(|router, _, fx| router.attach(&edge.to_string(), attachment, fx));
    }

    fn detach(&mut self, edge: usize) {
        if let Some(attachment) = self.edges[edge].attachment.take() {
            self.edges[edge].inbox.clear();
            self.router.detach(self.now_ms, attachment);
        }
    }

    fn read(&mut self, at: usize) {
        let edge = &mut self.edges[at];
        let (Some(attachment), Some(delivery)) = (edge.attachment, edge.inbox.pop_front()) else { return };
        assert!(delivery.id > edge.last_id, "not in order: {} after {}", delivery.id, edge.last_id);
        edge.last_id = delivery.id;
        let mut gone = delivery.user_ids.clone();
        for open in self.open.iter_mut().filter(|open| open.edge == at) {
            if !delivery.user_ids.contains(&open.user) && delivery.chat_id > 0 {
                continue;
            }
            gone.retain(|user| *user != open.user);
            if delivery.payload.is_some() {
                open.got.insert((delivery.chat_id, delivery.seq));
            } else {
                let head = open.marked.entry(delivery.chat_id).or_default();
                *head = (*head).max(delivery.seq);
            }
        }
        if !gone.is_empty() {
            self.act(|router, now, fx| router.gone(now, attachment, delivery.id, gone, fx));
        }
        self.act(|router, _, fx| router.delivered(attachment, delivery.id, fx));
    }

    /// The edge dies; another one takes its place, by another name.
    fn kill(&mut self, at: usize) {
        if self.edges[at].dead_since.is_none() && self.edges.len() < 6 {
            self.detach(at);
            self.edges[at].dead_since = Some(self.now_ms);
            self.open.retain(|open| open.edge != at);
            self.edges.push(EdgeModel::default());
        }
    }

    fn wait(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms = (self.now_ms + 100).min(until);
            if self.unseen.is_some() && self.listed_ms.is_some_and(|at| at + LAG_MS <= self.now_ms) {
                (0..2).for_each(|_| self.see(true));
            }
            if self.edge_views.tick(self.now_ms) {
                self.forget_moved();
            }
            for at in 0..INSTANCES.len() {
                let due: Vec<usize> = self.instances[at]
                    .connects
                    .iter()
                    .filter(|(due, _)| *due <= self.now_ms)
                    .map(|(_, edge)| *edge)
                    .collect();
                self.instances[at].connects.retain(|(due, _)| *due > self.now_ms);
                due.into_iter().for_each(|edge| self.register(edge, Some(at)));
                // Also one that is no longer listed: fanout keeps to it for a while.
                let instance = &self.instances[at];
                if instance.up && !instance.asked && instance.asked_again_ms.is_some_and(|due| due <= self.now_ms) {
                    self.connect_fanout(at);
                }
            }
            if self.now_ms % 500 < 100 {
                // Nobody is so slow but who is frozen.
                (0..INSTANCES.len()).for_each(|at| while self.answer(at) {});
            }
            self.act(|router, now, fx| router.tick(now, fx));
        }
    }

    /// Sessions are taken from where they belong no longer.
    fn forget_moved(&mut self) {
        for (at, instance) in self.instances.iter_mut().enumerate() {
            let views = &self.edge_views;
            instance
                .sessions
                .retain(|(user, _, _)| views.names(views.homes(*user)).any(|name| **name == *INSTANCES[at]));
        }
    }

    fn act(&mut self, input: impl FnOnce(&mut Router, u64, &mut Effects)) {
        let mut fx = Effects::default();
        input(&mut self.router, self.now_ms, &mut fx);
        for (instance, question) in fx.questions {
            let instance = &mut self.instances[number(&instance)];
            if instance.asked {
                instance.questions.push_back(question);
            }
        }
        for (attachment, deliveries) in fx.deliveries {
            let edge = self.edges.iter_mut().find(|edge| edge.attachment == Some(attachment));
            edge.expect("a live stream").inbox.extend(deliveries);
        }
        for attachment in fx.cut {
            for edge in self.edges.iter_mut().filter(|edge| edge.attachment == Some(attachment)) {
                edge.attachment = None;
                edge.inbox.clear();
            }
        }
        self.overdue += fx.overdue;
        for (_, id) in fx.settled {
            let (chat, seq, to) = self.unsettled.remove(&id).expect("settled once");
            if self.overdue == 0 {
                self.check(chat, seq, &to);
            }
        }
        for late in fx.late {
            self.instances[number(&late)].asked_again_ms = Some(self.now_ms + 500);
            self.lose(number(&late));
        }
    }

    fn check(&self, chat: u64, seq: u64, to: &[u64]) {
        for open in self.open.iter().filter(|open| to.contains(&open.session)) {
            let marked = open.marked.contains_key(&0) || open.marked.get(&chat).is_some_and(|head| *head >= seq);
            assert!(open.got.contains(&(chat, seq)) || marked, "session {} has not got {seq} of {chat}", open.session);
        }
    }

    /// All comes back, and all that waits is done.
    fn come_to_rest(&mut self) {
        self.up();
        for _ in 0..700 {
            self.wait(100);
            for at in 0..INSTANCES.len() {
                while self.answer(at) {}
            }
            for edge in 0..self.edges.len() {
                self.attach(edge);
                (0..200).for_each(|_| self.read(edge));
            }
        }
        assert!(self.unsettled.is_empty(), "still unsettled: {:?}", self.unsettled);
        assert!(self.router.open.is_empty() && self.router.lookups.len() == 0);
        let published = std::mem::take(&mut self.published);
        published.iter().for_each(|(chat, seq, to)| self.check(*chat, *seq, to));
    }
}

proptest! {
    #[test]
    fn who_was_registered_gets_it_and_only_then_it_is_settled(steps in prop::collection::vec(step(), 1..120)) {
        World::run(&steps, false);
    }
}

#[test]
fn sessions_that_are_registered_at_one_instance_only_are_lost_with_it() {
    let steps = || {
        let mut steps: Vec<Step> = (1..5).map(|user| Step::Open { edge: 0, user }).collect();
        steps.push(Step::Attach(0));
        steps.push(Step::Down { instance: 0, restart: false });
        steps.push(Step::Publish { chat: 1 });
        steps.push(Step::Answer(1));
        steps
    };
    World::run(&steps(), false);
    assert!(std::panic::catch_unwind(|| World::run(&steps(), true)).is_err());
}
