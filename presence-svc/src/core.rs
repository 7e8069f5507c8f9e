//! Who is where, pure and synchronous: sessions by user, the grace after the last one closes, and who watches.

use std::collections::{BTreeSet, HashMap, HashSet};

use confab_ids::UserId;
use confab_proto::presence::v1::{EdgeUsers, Location, Presence, PresenceStatus};

/// The time of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Unix time, milliseconds.
    pub wall_ms: i64,
    /// Milliseconds on a clock that never steps back.
    pub mono_ms: u64,
}

/// An edge's incarnation, as a small number.
pub(crate) type Edge = u32;

/// A watching stream.
pub(crate) type Watcher = u64;

/// What watchers have to be told.
pub(crate) type Told = Vec<(Watcher, Presence)>;

#[derive(Debug, Default)]
struct User {
    sessions: Vec<(Edge, u64)>,
    /// When the last session closed; kept while somebody may ask.
    last_seen_ms: i64,
    /// The grace is running out then: still online.
    offline_at: Option<u64>,
}

impl User {
    fn is_online(&self) -> bool {
        !self.sessions.is_empty() || self.offline_at.is_some()
    }
}

/// The state of one presence service. Grows with the sessions tracked and the users watched, and with
/// [`LAST_SEEN_MAX`] users who were here.
#[derive(Debug)]
pub(crate) struct Roster {
    grace_ms: u64,
    users: HashMap<UserId, User>,
    edges: HashMap<Edge, HashSet<(UserId, u64)>>,
    names: HashMap<Edge, String>,
    next_edge: Edge,
    leaving: BTreeSet<(u64, UserId)>,
    watchers: HashMap<UserId, Vec<Watcher>>,
    watched: HashMap<Watcher, HashSet<UserId>>,
    /// Offline users whose last seen is still known, oldest first.
    seen: BTreeSet<(i64, UserId)>,
}

/// Offline users whose last seen is remembered; beyond it the oldest is forgotten, and is `UNSPECIFIED` to who asks.
const LAST_SEEN_MAX: usize = 1_000_000;

impl Roster {
    pub(crate) fn new(grace_ms: u64) -> Self {
        Self {
            grace_ms,
            users: HashMap::new(),
            edges: HashMap::new(),
            names: HashMap::new(),
            next_edge: 0,
            leaving: BTreeSet::new(),
            watchers: HashMap::new(),
            watched: HashMap::new(),
            seen: BTreeSet::new(),
        }
    }

    /// A tracking stream of an edge begins.
    pub(crate) fn attach(&mut self, name: &str) -> Edge {
        self.next_edge += 1;
        self.names.insert(self.next_edge, name.to_owned());
        self.edges.insert(self.next_edge, HashSet::new());
        self.next_edge
    }

    /// An edge's stream has ended: its sessions are gone, with the same grace as if each had closed.
    pub(crate) fn detach(&mut self, now: Now, edge: Edge) {
        for (user, session) in self.edges.remove(&edge).unwrap_or_default() {
            self.remove(now, edge, user, session);
        }
        self.names.remove(&edge);
    }

    pub(crate) fn open(&mut self, edge: Edge, session: u64, user: UserId) -> Told {
        let Some(sessions) = self.edges.get_mut(&edge) else { return Told::new() };
        if !sessions.insert((user, session)) {
            return Told::new();
        }
        let state = self.users.entry(user).or_default();
        let was_online = state.is_online();
        state.sessions.push((edge, session));
        if let Some(at) = state.offline_at.take() {
            self.leaving.remove(&(at, user));
        }
        self.seen.remove(&(state.last_seen_ms, user));
        if was_online { Told::new() } else { self.tell(user) }
    }

    /// By the session's own name, so that a late close harms no newer session.
    pub(crate) fn close(&mut self, now: Now, edge: Edge, session: u64, user: UserId) {
        let known = self.edges.get_mut(&edge).is_some_and(|sessions| sessions.remove(&(user, session)));
        if known {
            self.remove(now, edge, user, session);
        }
    }

    fn remove(&mut self, now: Now, edge: Edge, user: UserId, session: u64) {
        let Some(state) = self.users.get_mut(&user) else { return };
        state.sessions.retain(|known| *known != (edge, session));
        if state.sessions.is_empty() {
            state.last_seen_ms = now.wall_ms;
            let at = now.mono_ms + self.grace_ms;
            state.offline_at = Some(at);
            self.leaving.insert((at, user));
        }
    }

    /// Ends the graces that are over.
    pub(crate) fn tick(&mut self, now: Now) -> Told {
        let mut told = Told::new();
        while let Some((at, user)) = self.leaving.first().copied()
            && at <= now.mono_ms
        {
            self.leaving.pop_first();
            if let Some(state) = self.users.get_mut(&user) {
                state.offline_at = None;
                self.seen.insert((state.last_seen_ms, user));
            }
            told.extend(self.tell(user));
        }
        while self.seen.len() > LAST_SEEN_MAX {
            if let Some((_, user)) = self.seen.pop_first() {
                self.users.remove(&user);
            }
        }
        told
    }

    fn tell(&self, user: UserId) -> Told {
        let presence = self.presence(user);
        self.watchers.get(&user).into_iter().flatten().map(|watcher| (*watcher, presence)).collect()
    }

    pub(crate) fn presence(&self, user: UserId) -> Presence {
        let (status, last_seen_ms) = match self.users.get(&user) {
            Some(state) if state.is_online() => (PresenceStatus::Online, 0),
            Some(state) => (PresenceStatus::Offline, state.last_seen_ms),
            None => (PresenceStatus::Offline, 0),
        };
        Presence { user_id: user.0, status: status.into(), last_seen_ms }
    }

    /// The edges of some users. Users without a session are in none.
    pub(crate) fn locate(&self, users: &[u64]) -> Location {
        let mut by_edge: Vec<(Edge, Vec<u64>)> = Vec::new();
        for user in users {
            let Some(state) = self.users.get(&UserId(*user)) else { continue };
            for (at, (edge, _)) in state.sessions.iter().enumerate() {
                if state.sessions[..at].iter().any(|(earlier, _)| earlier == edge) {
                    continue;
                }
                match by_edge.iter_mut().find(|(known, _)| known == edge) {
                    Some((_, users)) => users.push(*user),
                    None => by_edge.push((*edge, vec![*user])),
                }
            }
        }
        let named = |(edge, user_ids)| Some(EdgeUsers { edge_id: self.names.get(&edge)?.clone(), user_ids });
        Location { edges: by_edge.into_iter().filter_map(named).collect() }
    }

    /// Begins to watch; returns the present state, to be told to this watcher.
    pub(crate) fn watch(&mut self, watcher: Watcher, user: UserId) -> Presence {
        if self.watched.entry(watcher).or_default().insert(user) {
            self.watchers.entry(user).or_default().push(watcher);
        }
        self.presence(user)
    }

    pub(crate) fn unwatch(&mut self, watcher: Watcher, user: UserId) {
        if let Some(watched) = self.watched.get_mut(&watcher) {
            watched.remove(&user);
        }
        self.forget_watcher(watcher, user);
    }

    /// A watching stream has ended.
    pub(crate) fn end_watch(&mut self, watcher: Watcher) {
        for user in self.watched.remove(&watcher).unwrap_or_default() {
            self.forget_watcher(watcher, user);
        }
    }

    fn forget_watcher(&mut self, watcher: Watcher, user: UserId) {
        if let Some(watchers) = self.watchers.get_mut(&user) {
            watchers.retain(|known| *known != watcher);
            if watchers.is_empty() {
                self.watchers.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId(1);
    const BEN: UserId = UserId(2);

    fn at(ms: u64) -> Now {
        Now { wall_ms: i64::try_from(ms).expect("small") + 1_000_000, mono_ms: ms }
    }

    fn status(roster: &Roster, user: UserId) -> PresenceStatus {
        roster.presence(user).status()
    }

    #[test]
    fn only_transitions_are_told_and_offline_comes_after_the_grace() {
        let mut roster = Roster::new(10_000);
        let edge = roster.attach("e");
        assert_eq!(roster.watch(7, ANN).status(), PresenceStatus::Offline);
        assert_eq!(roster.open(edge, 1, ANN).len(), 1);
        assert!(roster.open(edge, 2, ANN).is_empty());
        roster.close(at(0), edge, 1, ANN);
        roster.close(at(5), edge, 2, ANN);
        assert_eq!(status(&roster, ANN), PresenceStatus::Online);
        assert!(roster.tick(at(10_004)).is_empty());
        let told = roster.tick(at(10_005));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].1.status(), told[0].1.last_seen_ms), (PresenceStatus::Offline, 1_000_005));
    }

    #[test]
    fn who_comes_back_within_the_grace_was_never_away() {
        let mut roster = Roster::new(10_000);
        let edge = roster.attach("e");
        roster.watch(7, ANN);
        roster.open(edge, 1, ANN);
        roster.close(at(0), edge, 1, ANN);
        assert!(roster.open(edge, 2, ANN).is_empty());
        assert!(roster.tick(at(60_000)).is_empty());
        // A late close of the old session harms nothing.
        roster.close(at(60_000), edge, 1, ANN);
        assert!(roster.tick(at(90_000)).is_empty());
    }

    #[test]
    fn users_are_located_once_per_edge_and_not_after_their_last_session() {
        let mut roster = Roster::new(0);
        let (one, two) = (roster.attach("one"), roster.attach("two"));
        roster.open(one, 1, ANN);
        roster.open(one, 2, ANN);
        roster.open(two, 3, ANN);
        roster.open(two, 4, BEN);
        let location = roster.locate(&[1, 2, 3]);
        let edges: Vec<_> =
            location.edges.iter().map(|edge| (edge.edge_id.as_str(), edge.user_ids.as_slice())).collect();
        assert_eq!(edges, [("one", &[1][..]), ("two", &[1, 2][..])]);
        roster.detach(at(0), two);
        assert_eq!(roster.locate(&[1, 2]).edges.len(), 1);
        roster.tick(at(1));
        assert_eq!(status(&roster, BEN), PresenceStatus::Offline);
        assert_eq!(status(&roster, ANN), PresenceStatus::Online);
    }

    #[test]
    fn who_watches_no_more_is_told_no_more() {
        let mut roster = Roster::new(0);
        let edge = roster.attach("e");
        roster.watch(7, ANN);
        roster.watch(8, ANN);
        roster.watch(8, BEN);
        roster.unwatch(7, ANN);
        assert_eq!(roster.open(edge, 1, ANN).iter().map(|(watcher, _)| *watcher).collect::<Vec<_>>(), [8]);
        roster.end_watch(8);
        assert!(roster.open(edge, 2, BEN).is_empty());
        assert!(roster.watchers.is_empty());
    }
}
