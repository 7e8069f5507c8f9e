//! Where this edge's sessions are registered, pure and synchronous: each at the homes of its user, of which there are two where
//! there are enough instances. A session counts as registered when all of them that have a stream have said so; the others are
//! told all that belongs to them when they have one again.

#[cfg(test)]
mod model_test;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use confab_ids::UserId;
use confab_mesh::views::{Names, Views};
use confab_proto::presence::v1::{SessionClosed, SessionOpened, TrackRequest};

pub(super) type Name = Arc<str>;

/// How often each instance hears of this edge, milliseconds. Nearly three of them, and it takes the edge for dead.
const HEARTBEAT_MS: u64 = 5_000;

/// An instance that doesn't answer for so long is frozen, milliseconds: its stream is cut, and it is no longer waited for.
const SILENCE_MS: u64 = 8_000;

/// A session that was registered nowhere for longer than this has to come again, milliseconds. Fanout looks a little longer
/// for somebody whom nobody knows.
const UNREGISTERED_MS: u64 = 3_000;

/// Sessions per request.
const SESSIONS_MAX: usize = 4_096;

/// What an input led to.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Each instance's in this order.
    pub requests: Vec<(Name, TrackRequest)>,
    /// Sessions that are found from now on.
    pub registered: Vec<u64>,
    /// Sessions that were not found for a while.
    pub away: Vec<u64>,
    /// Streams to end.
    pub cut: Vec<Name>,
}

#[derive(Debug, Default)]
struct Lane {
    live: bool,
    sent_ms: u64,
    /// When it has answered last.
    heard_ms: Option<u64>,
}

#[derive(Debug)]
struct Pending {
    acked: bool,
    waits: Vec<Name>,
}

/// Grows with the instances and the sessions.
#[derive(Debug)]
pub(super) struct Registrar {
    edge_id: String,
    views: Views,
    lanes: HashMap<Name, Lane>,
    pending: HashMap<u64, Pending>,
    registered: HashSet<u64>,
}

/// What there is to know of it beside, the stream's end adds.
fn opened(session: u64, user: UserId) -> SessionOpened {
    SessionOpened { session, user_id: user.0, ..SessionOpened::default() }
}

/// A session, and whose it is.
type Session = (u64, UserId);

impl Registrar {
    pub(super) fn new(edge_id: String, instances: Names) -> Self {
        Self {
            edge_id,
            views: Views::new(instances),
            lanes: HashMap::new(),
            pending: HashMap::new(),
            registered: HashSet::new(),
        }
    }

    fn homes(&self, user: UserId) -> impl Iterator<Item = &Name> {
        self.views.names(self.views.homes(user.0))
    }

    fn is_live(&self, name: &str) -> bool {
        self.lanes.get(name).is_some_and(|lane| lane.live)
    }

    pub(super) fn opened(&mut self, (session, user): Session, fx: &mut Effects) {
        let waits: Vec<Name> = self.homes(user).filter(|home| self.is_live(home)).cloned().collect();
        for home in &waits {
            fx.request(home).opened.push(opened(session, user));
        }
        self.pending.insert(session, Pending { acked: false, waits });
    }

    pub(super) fn closed(&mut self, (session, user): Session, fx: &mut Effects) {
        self.pending.remove(&session);
        self.registered.remove(&session);
        for home in self.homes(user).filter(|home| self.is_live(home)) {
            fx.request(home).closed.push(SessionClosed { session, user_id: user.0 });
        }
    }

    /// An instance has a stream: it is told all that belongs there.
    pub(super) fn connected(
        &mut self,
        now_ms: u64,
        name: &Name,
        sessions: impl Iterator<Item = Session>,
        fx: &mut Effects,
    ) {
        self.lost(name, fx);
        let first = TrackRequest { edge_id: self.edge_id.clone(), ..TrackRequest::default() };
        fx.requests.push((name.clone(), first));
        for (session, user) in sessions {
            if !self.homes(user).any(|home| home == name) {
                continue;
            }
            fx.request(name).opened.push(opened(session, user));
            if let Some(pending) = self.pending.get_mut(&session) {
                pending.waits.push(name.clone());
            } else if self.registered.contains(&session) && self.was_lost(now_ms, user) {
                fx.away.push(session);
            }
        }
        fx.request(name).snapshot_done = true;
        let heard_ms = Some(now_ms);
        self.lanes.insert(name.clone(), Lane { live: true, sent_ms: now_ms, heard_ms });
    }

    /// For too long none of a user's homes had a stream.
    fn was_lost(&self, now_ms: u64, user: UserId) -> bool {
        if self.homes(user).any(|home| self.is_live(home)) {
            return false;
        }
        let heard = self.homes(user).filter_map(|home| self.lanes.get(home)?.heard_ms).max();
        heard.is_none_or(|heard| heard + UNREGISTERED_MS < now_ms)
    }

    /// An instance has answered: these are registered there.
    pub(super) fn answered(&mut self, now_ms: u64, name: &str, sessions: &[u64], fx: &mut Effects) {
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.heard_ms = Some(now_ms);
        }
        for session in sessions {
            if let Some(pending) = self.pending.get_mut(session) {
                pending.acked = true;
                pending.waits.retain(|wait| **wait != *name);
                self.is_registered(*session, fx);
            }
        }
    }

    fn is_registered(&mut self, session: u64, fx: &mut Effects) {
        if self.pending.get(&session).is_some_and(|pending| pending.acked && pending.waits.is_empty()) {
            self.pending.remove(&session);
            self.registered.insert(session);
            fx.registered.push(session);
        }
    }

    /// An instance's stream has ended: it is not waited for.
    pub(super) fn lost(&mut self, name: &str, fx: &mut Effects) {
        let Some(lane) = self.lanes.get_mut(name).filter(|lane| lane.live) else { return };
        lane.live = false;
        let mut waited = Vec::new();
        for (session, pending) in &mut self.pending {
            pending.waits.retain(|wait| **wait != *name);
            waited.push(*session);
        }
        waited.into_iter().for_each(|session| self.is_registered(session, fx));
    }

    /// The instances that are listed from now on.
    pub(super) fn listed(
        &mut self,
        now_ms: u64,
        instances: Names,
        sessions: impl Iterator<Item = Session>,
        fx: &mut Effects,
    ) {
        let before = self.views.clone();
        if self.views.change(now_ms, instances) {
            self.move_homes(&before, sessions, fx);
        }
    }

    /// Sessions whose homes have changed are registered at the new ones at once, and forgotten at the old ones, which were
    /// homes long enough after the change for everybody to know it.
    fn move_homes(&mut self, before: &Views, sessions: impl Iterator<Item = Session>, fx: &mut Effects) {
        for (session, user) in sessions {
            let old: Vec<Name> = before.names(before.homes(user.0)).cloned().collect();
            let new: Vec<Name> = self.homes(user).cloned().collect();
            let (lanes, mut pending) = (&self.lanes, self.pending.get_mut(&session));
            let is_live = |home: &Name| lanes.get(home).is_some_and(|lane| lane.live);
            for home in new.iter().filter(|home| !old.contains(home) && is_live(home)) {
                fx.request(home).opened.push(opened(session, user));
                pending.iter_mut().for_each(|pending| pending.waits.push(home.clone()));
            }
            for home in old.iter().filter(|home| !new.contains(home) && is_live(home)) {
                fx.request(home).moved.push(SessionClosed { session, user_id: user.0 });
                pending.iter_mut().for_each(|pending| pending.waits.retain(|wait| wait != home));
            }
            self.is_registered(session, fx);
        }
    }

    /// Heartbeats, frozen instances, views that are too old.
    pub(super) fn tick(&mut self, now_ms: u64, sessions: impl Iterator<Item = Session>, fx: &mut Effects) {
        let before = self.views.clone();
        if self.views.tick(now_ms) {
            self.move_homes(&before, sessions, fx);
        }
        for (name, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.live) {
            let silent = lane.heard_ms.is_none_or(|heard| heard + SILENCE_MS <= now_ms);
            if silent || !self.views.knows(name) {
                fx.cut.push(name.clone());
            } else if lane.sent_ms + HEARTBEAT_MS <= now_ms {
                lane.sent_ms = now_ms;
                fx.request(name);
            }
        }
        for name in fx.cut.clone() {
            self.lost(&name, fx);
        }
        let views = &self.views;
        self.lanes.retain(|name, _| views.knows(name));
    }

    /// The edge ends.
    pub(super) fn leave(&mut self, fx: &mut Effects) {
        for (name, _) in self.lanes.iter().filter(|(_, lane)| lane.live) {
            fx.request(name).leaving = true;
        }
    }
}

impl Effects {
    /// The request to an instance that has room.
    fn request(&mut self, name: &Name) -> &mut TrackRequest {
        let has_room = |request: &TrackRequest| {
            request.opened.len().max(request.closed.len()).max(request.moved.len()) < SESSIONS_MAX
        };
        let at = self.requests.iter().rposition(|(to, _)| to == name).filter(|at| has_room(&self.requests[*at].1));
        let at = at.unwrap_or_else(|| {
            self.requests.push((name.clone(), TrackRequest::default()));
            self.requests.len() - 1
        });
        &mut self.requests[at].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId(1);

    fn names(names: &[&str]) -> Names {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn registrar(instances: &[&str], live: &[&str]) -> Registrar {
        let mut registrar = Registrar::new("e".into(), names(instances));
        for name in live {
            let mut fx = Effects::default();
            registrar.connected(0, &Arc::from(*name), std::iter::empty(), &mut fx);
            let [(to, first)] = &fx.requests[..] else { panic!("one request: {fx:?}") };
            assert_eq!((&**to, first.edge_id.as_str(), first.snapshot_done), (*name, "e", true));
        }
        registrar
    }

    fn told(fx: &Effects) -> Vec<(&str, usize, usize, usize)> {
        let told = |(name, request): &'_ (Name, TrackRequest)| {
            (request.opened.len(), request.closed.len(), request.moved.len(), name.len())
        };
        let mut all: Vec<_> = fx.requests.iter().map(|all| (&*all.0, told(all))).collect();
        all.sort_unstable();
        all.into_iter().map(|(name, (opened, closed, moved, _))| (name, opened, closed, moved)).collect()
    }

    #[test]
    fn a_session_is_registered_when_all_its_homes_that_have_a_stream_have_it() {
        let mut registrar = registrar(&["p", "q"], &["p", "q"]);
        let mut fx = Effects::default();
        registrar.opened((7, ANN), &mut fx);
        assert_eq!(told(&fx), [("p", 1, 0, 0), ("q", 1, 0, 0)]);
        registrar.answered(1, "p", &[7], &mut fx);
        assert!(fx.registered.is_empty());
        registrar.lost("q", &mut fx);
        assert_eq!(fx.registered, [7]);
        let mut fx = Effects::default();
        registrar.connected(2, &"q".into(), [(7, ANN)].into_iter(), &mut fx);
        assert_eq!((told(&fx), fx.away.len()), (vec![("q", 1, 0, 0)], 0));
        registrar.closed((7, ANN), &mut fx);
        assert_eq!(told(&fx), [("p", 0, 1, 0), ("q", 1, 1, 0)]);
    }

    #[test]
    fn without_any_stream_it_waits_for_one() {
        let mut registrar = registrar(&["p", "q"], &[]);
        let mut fx = Effects::default();
        registrar.opened((7, ANN), &mut fx);
        assert!(fx.requests.is_empty() && fx.registered.is_empty());
        registrar.connected(90_000, &"q".into(), [(7, ANN)].into_iter(), &mut fx);
        registrar.answered(90_000, "q", &[7], &mut fx);
        assert_eq!((fx.registered.as_slice(), fx.away.as_slice()), (&[7][..], &[][..]));
    }

    #[test]
    fn who_was_registered_nowhere_for_too_long_has_to_come_again() {
        for (after, away) in [(UNREGISTERED_MS, 0), (UNREGISTERED_MS + 1, 1)] {
            let mut registrar = registrar(&["p"], &["p"]);
            let mut fx = Effects::default();
            registrar.opened((7, ANN), &mut fx);
            registrar.answered(10, "p", &[7], &mut fx);
            registrar.lost("p", &mut fx);
            registrar.connected(10 + after, &"p".into(), [(7, ANN)].into_iter(), &mut fx);
            assert_eq!(fx.away.len(), away);
        }
    }

    #[test]
    fn an_instance_hears_of_the_edge_and_one_that_is_silent_is_cut() {
        let mut registrar = registrar(&["p", "q"], &["p", "q"]);
        let mut tick = |now_ms, answers: bool| {
            let mut fx = Effects::default();
            registrar.tick(now_ms, std::iter::empty(), &mut fx);
            if answers {
                registrar.answered(now_ms, "p", &[], &mut fx);
            }
            (fx.requests.len(), fx.cut)
        };
        assert_eq!(tick(HEARTBEAT_MS - 1, true), (0, vec![]));
        assert_eq!(tick(HEARTBEAT_MS, true), (2, vec![]));
        assert_eq!(tick(SILENCE_MS, true), (0, vec!["q".into()]));
        assert_eq!(tick(2 * HEARTBEAT_MS, true), (1, vec![]));
    }

    #[test]
    fn sessions_move_with_their_homes_and_leave_the_old_ones_later() {
        let mut registrar = registrar(&["p", "q"], &["p", "q"]);
        let mut fx = Effects::default();
        registrar.opened((7, ANN), &mut fx);
        registrar.answered(1, "p", &[7], &mut fx);
        registrar.answered(1, "q", &[7], &mut fx);
        let mut fx = Effects::default();
        registrar.listed(2, names(&["r", "s"]), [(7, ANN)].into_iter(), &mut fx);
        registrar.connected(3, &"r".into(), [(7, ANN)].into_iter(), &mut fx);
        registrar.connected(3, &"s".into(), [(7, ANN)].into_iter(), &mut fx);
        assert_eq!(told(&fx), [("r", 1, 0, 0), ("s", 1, 0, 0)]);
        let mut fx = Effects::default();
        registrar.answered(29_000, "p", &[], &mut fx);
        registrar.answered(29_000, "r", &[], &mut fx);
        registrar.tick(30_002, [(7, ANN)].into_iter(), &mut fx);
        assert!(told(&fx).contains(&("p", 0, 0, 1)), "{fx:?}");
        assert!(fx.cut.contains(&"p".into()) && !fx.cut.contains(&"r".into()));
    }
}
