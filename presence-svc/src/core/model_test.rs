//! Random schedules of edges whose streams break and come back, against who is really connected: a session that was acked is
//! found as long as it is open and its edge is heard of.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Open {
        edge: usize,
        user: u64,
    },
    Close {
        edge: usize,
        pick: usize,
    },
    /// The stream breaks, sessions close meanwhile, and it comes back.
    Break {
        edge: usize,
        closed: usize,
    },
    /// A request of an older stream arrives late.
    Late {
        edge: usize,
        user: u64,
    },
    Restart {
        edge: usize,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let edge = 0..3_usize;
    prop_oneof![
        4 => (edge.clone(), 1..4_u64).prop_map(|(edge, user)| Step::Open { edge, user }),
        3 => (edge.clone(), any::<usize>()).prop_map(|(edge, pick)| Step::Close { edge, pick }),
        2 => (edge.clone(), 0..2_usize).prop_map(|(edge, closed)| Step::Break { edge, closed }),
        1 => (edge.clone(), 1..4_u64).prop_map(|(edge, user)| Step::Late { edge, user }),
        1 => edge.prop_map(|edge| Step::Restart { edge }),
        2 => (1..20_000_u64).prop_map(Step::Wait),
    ]
}

struct EdgeModel {
    name: String,
    stream: Stream,
    older: Option<Stream>,
    open: Vec<(UserId, u64)>,
}

struct World {
    roster: Roster,
    now: Now,
    edges: Vec<EdgeModel>,
    sessions: u64,
    /// Edges that were restarted, and when they were last heard of.
    dead: Vec<(String, u64)>,
    /// The control: a stream that breaks takes its sessions with it, as a lease would.
    breaks_end_sessions: bool,
}

impl World {
    fn new(breaks_end_sessions: bool) -> Self {
        let mut roster = Roster::new(Times { grace_ms: 10_000, warm_up_ms: 0 });
        let now = Now { wall_ms: 1, mono_ms: 0 };
        let edge = |at: usize| {
            let name = format!("edge-{at}-0");
            EdgeModel { stream: roster.attach(now, &name), name, older: None, open: Vec::new() }
        };
        let edges = (0..3).map(edge).collect();
        Self { roster, now, edges, sessions: 0, dead: Vec::new(), breaks_end_sessions }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open { edge, user } => {
                self.sessions += 1;
                let edge = &mut self.edges[edge];
                edge.open.push((UserId(user), self.sessions));
                self.roster.open(edge.stream, self.sessions, UserId(user));
            }
            Step::Close { edge, pick } => {
                let edge = &mut self.edges[edge];
                if !edge.open.is_empty() {
                    let (user, session) = edge.open.remove(pick % edge.open.len());
                    self.roster.close(self.now, edge.stream, session, user);
                }
            }
            Step::Break { edge, closed } => {
                let edge = &mut self.edges[edge];
                if self.breaks_end_sessions {
                    self.roster.leave(self.now, edge.stream);
                    return;
                }
                edge.open.truncate(edge.open.len().saturating_sub(closed));
                edge.older = Some(edge.stream);
                edge.stream = self.roster.attach(self.now, &edge.name);
                for (user, session) in &edge.open {
                    self.roster.open(edge.stream, *session, *user);
                }
                self.roster.snapshot_done(self.now, edge.stream);
            }
            Step::Late { edge, user } => {
                if let Some(older) = self.edges[edge].older {
                    self.sessions += 1;
                    self.roster.open(older, self.sessions, UserId(user));
                    for (user, session) in &self.edges[edge].open {
                        self.roster.close(self.now, older, *session, *user);
                    }
                }
            }
            Step::Restart { edge } => {
                self.sessions += 1;
                let edge = &mut self.edges[edge];
                self.dead.push((edge.name.clone(), self.now.mono_ms));
                edge.name = format!("{}-{}", edge.name, self.sessions);
                edge.open.clear();
                edge.older = None;
                edge.stream = self.roster.attach(self.now, &edge.name);
            }
            Step::Wait(ms) => {
                for _ in 0..ms.div_ceil(5_000) {
                    self.now.mono_ms += 5_000;
                    for edge in &self.edges {
                        self.roster.heard(self.now, edge.stream);
                    }
                    self.roster.tick(self.now);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let asked = [1, 2, 3];
        let mut is: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for edge in self.roster.location(&asked).edges {
            is.insert(edge.edge_id, edge.user_ids);
        }
        for (name, heard) in &self.dead {
            let found = is.remove(name).is_some();
            assert!(!found || heard + EDGE_LIFE_MS > self.now.mono_ms, "{name} is still there");
        }
        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for edge in &self.edges {
            let on = |user: &u64| edge.open.iter().any(|(open, _)| open.0 == *user);
            let users: Vec<u64> = asked.into_iter().filter(on).collect();
            if !users.is_empty() {
                expected.insert(edge.name.clone(), users);
            }
        }
        assert_eq!(is, expected);
        for user in expected.into_values().flatten() {
            assert_eq!(self.roster.presence(UserId(user)).status(), PresenceStatus::Online);
        }
    }
}

proptest! {
    #[test]
    fn what_is_open_is_found_and_nothing_else(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(false);
        steps.iter().for_each(|step| world.step(step));
    }
}

#[test]
fn a_stream_that_ends_sessions_is_caught() {
    let steps = [Step::Open { edge: 0, user: 1 }, Step::Break { edge: 0, closed: 0 }];
    let run = || {
        let mut world = World::new(true);
        steps.iter().for_each(|step| world.step(step));
        world.check();
    };
    assert!(std::panic::catch_unwind(run).is_err());
}
