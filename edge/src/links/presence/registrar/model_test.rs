//! Random schedules of sessions, streams and listings: a session that counts as registered is at each of its homes that has a
//! stream and has caught up, or is told to come again; and in the end everything is at its homes and nowhere else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const INSTANCES: [&str; 4] = ["p", "q", "r", "s"];

#[derive(Clone, Debug)]
enum Step {
    Open {
        user: u64,
    },
    Close(usize),
    /// The instance takes what was sent to it, and its answer arrives.
    Serve(usize),
    Connect(usize),
    Lose(usize),
    List(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20_u64).prop_map(|user| Step::Open { user }),
        2 => any::<usize>().prop_map(Step::Close),
        8 => (0..4_usize).prop_map(Step::Serve),
        4 => (0..4_usize).prop_map(Step::Connect),
        2 => (0..4_usize).prop_map(Step::Lose),
        1 => (1..16_u8).prop_map(Step::List),
        4 => prop_oneof![1..2_000_u64, 2_000..40_000_u64].prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct Instance {
    /// What this edge has told it, by its session: which stream told it last.
    sessions: BTreeMap<u64, u64>,
    streams: u64,
    sent: Option<VecDeque<TrackRequest>>,
}

struct World {
    registrar: Registrar,
    now_ms: u64,
    instances: [Instance; 4],
    open: BTreeMap<u64, UserId>,
    registered: BTreeSet<u64>,
    last: u64,
    /// The control: an instance that has been away is not told what is there already.
    forgets_snapshots: bool,
}

impl World {
    fn new(forgets_snapshots: bool) -> Self {
        Self {
            registrar: Registrar::new("e".into(), listing(0b11)),
            now_ms: 0,
            instances: std::array::from_fn(|_| Instance::default()),
            open: BTreeMap::new(),
            registered: BTreeSet::new(),
            last: 0,
            forgets_snapshots,
        }
    }

    fn run(steps: &[Step], forgets_snapshots: bool) {
        let mut world = Self::new(forgets_snapshots);
        steps.iter().for_each(|step| world.step(step));
        world.come_to_rest();
    }

    fn sessions(&self) -> Vec<Session> {
        self.open.iter().map(|(session, user)| (*session, *user)).collect()
    }

    fn step(&mut self, step: &Step) {
        let (now_ms, mut fx, sessions) = (self.now_ms, Effects::default(), self.sessions());
        match *step {
            Step::Open { user } => {
                self.last += 1;
                self.open.insert(self.last, UserId(user));
                self.registrar.opened((self.last, UserId(user)), &mut fx);
            }
            Step::Close(pick) if !sessions.is_empty() => self.close(sessions[pick % sessions.len()], &mut fx),
            Step::Close(_) => {}
            Step::Serve(at) => self.serve(at, &mut fx),
            Step::Connect(at) if self.instances[at].sent.is_none() => {
                self.instances[at].sent = Some(VecDeque::new());
                self.instances[at].streams += 1;
                let told = if self.forgets_snapshots { Vec::new() } else { sessions };
                self.registrar.connected(now_ms, &INSTANCES[at].into(), told.into_iter(), &mut fx);
            }
            Step::Connect(_) => {}
            Step::Lose(at) => {
                self.instances[at].sent = None;
                self.registrar.lost(INSTANCES[at], &mut fx);
            }
            Step::List(bits) => self.registrar.listed(now_ms, listing(bits), sessions.into_iter(), &mut fx),
            Step::Wait(ms) => self.wait(ms, &mut fx),
        }
        self.act(fx);
        self.check();
    }

    fn close(&mut self, session: Session, fx: &mut Effects) {
        self.open.remove(&session.0);
        self.registered.remove(&session.0);
        self.registrar.closed(session, fx);
    }

    fn serve(&mut self, at: usize, fx: &mut Effects) {
        let instance = &mut self.instances[at];
        for request in instance.sent.iter_mut().flat_map(|sent| sent.drain(..)) {
            let opened: Vec<u64> = request.opened.iter().map(|opened| opened.session).collect();
            instance.sessions.extend(opened.iter().map(|session| (*session, instance.streams)));
            for gone in request.closed.iter().chain(&request.moved) {
                instance.sessions.remove(&gone.session);
            }
            if request.snapshot_done {
                instance.sessions.retain(|_, told_by| *told_by == instance.streams);
            }
            self.registrar.answered(self.now_ms, INSTANCES[at], &opened, fx);
        }
    }

    /// Whoever has a stream answers in time.
    fn wait(&mut self, ms: u64, fx: &mut Effects) {
        for _ in 0..ms.div_ceil(1_000) {
            self.now_ms += 1_000;
            let sessions = self.sessions();
            self.registrar.tick(self.now_ms, sessions.into_iter(), fx);
            self.act(std::mem::take(fx));
            (0..4).for_each(|at| self.serve(at, fx));
            self.act(std::mem::take(fx));
        }
    }

    fn act(&mut self, fx: Effects) {
        for (name, request) in fx.requests {
            let at = INSTANCES.iter().position(|known| **known == *name).expect("an instance");
            self.instances[at].sent.as_mut().expect("a stream to it").push_back(request);
        }
        for name in fx.cut {
            let at = INSTANCES.iter().position(|known| **known == *name).expect("an instance");
            self.instances[at].sent = None;
        }
        self.registered.extend(fx.registered.into_iter().filter(|session| self.open.contains_key(session)));
        let mut closing = Effects::default();
        for session in fx.away {
            if let Some(user) = self.open.get(&session).copied() {
                self.close((session, user), &mut closing);
            }
        }
        if !closing.requests.is_empty() {
            self.act(closing);
        }
    }

    fn homes(&self, user: UserId) -> BTreeSet<&str> {
        self.registrar.homes(user).map(|home| &**home).collect()
    }

    fn check(&self) {
        for session in &self.registered {
            let homes = self.homes(self.open[session]);
            for (name, instance) in INSTANCES.iter().zip(&self.instances) {
                let caught_up = instance.sent.as_ref().is_some_and(VecDeque::is_empty);
                if caught_up && homes.contains(name) {
                    assert!(instance.sessions.contains_key(session), "{session} is not at {name}");
                }
            }
        }
    }

    fn come_to_rest(&mut self) {
        self.step(&Step::Wait(40_000));
        (0..4).for_each(|at| self.step(&Step::Connect(at)));
        self.step(&Step::Wait(2_000));
        for (name, instance) in INSTANCES.iter().zip(&self.instances) {
            let at_home = self.open.iter().filter(|(_, user)| self.homes(**user).contains(name));
            let expected: Vec<u64> = at_home.map(|(session, _)| *session).collect();
            if instance.sent.is_some() {
                assert_eq!(instance.sessions.keys().copied().collect::<Vec<_>>(), expected, "at {name}");
            }
        }
        assert_eq!(self.registered, self.open.keys().copied().collect());
        assert!(self.registrar.pending.is_empty());
    }
}

fn listing(bits: u8) -> Names {
    let listed = INSTANCES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    listed.map(|(_, name)| Arc::from(*name)).collect()
}

proptest! {
    #[test]
    fn what_is_registered_is_at_its_homes(steps in prop::collection::vec(step(), 1..80)) {
        World::run(&steps, false);
    }
}

#[test]
fn an_instance_that_is_not_told_what_is_there_already_is_caught() {
    let steps = || vec![Step::Connect(0), Step::Open { user: 1 }, Step::Serve(0), Step::Connect(1), Step::Serve(1)];
    World::run(&steps(), false);
    assert!(std::panic::catch_unwind(|| World::run(&steps(), true)).is_err());
}
