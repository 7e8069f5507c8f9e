//! Who is where, pure and synchronous: edges and their sessions, the grace after a user's last one closes, and who watches.
//!
//! An edge is known by its incarnation, and lives as long as it is heard of: its streams come and go. A new stream tells all of
//! its sessions again; what an older stream says no longer counts.

#[cfg(test)]
mod model_test;
pub(crate) mod noticed;
pub(crate) mod polls;
mod recall;
#[cfg(test)]
mod tests;
mod watchers;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use confab_ids::UserId;
use confab_proto::presence::v1::{EdgeUsers, LocateRequest, LocateResponse, Location, Presence, PresenceStatus};

use self::recall::Asked;
pub(crate) use self::recall::{Note, Recalled, Session};
use self::watchers::Watchers;
pub(crate) use self::watchers::{Told, Watcher};

/// The time of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Unix time, milliseconds.
    pub wall_ms: i64,
    /// Milliseconds on a clock that never steps back, since the service's start.
    pub mono_ms: u64,
}

/// An edge that is not heard of for so long is gone, milliseconds: nearly three of its heartbeats. Watchers are to hear of it within
/// 15 s of its death, which may come right after a heartbeat, and it is looked for four times a second.
pub(crate) const EDGE_LIFE_MS: u64 = 14_000;

/// An edge's incarnation, as a small number.
type Edge = u32;

/// A stream of an edge, as what it says is told apart from what its earlier streams said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    edge: Edge,
    number: u64,
}

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

#[derive(Debug)]
struct EdgeState {
    name: String,
    heard: Now,
    /// Its newest stream; 0: none yet.
    stream: u64,
    sessions: HashMap<(UserId, u64), Tracked>,
    /// All that belong here were told: nothing more is to be recalled of it.
    is_known: bool,
    /// When it was last noted that it is heard of, by [`Now::mono_ms`].
    noted_ms: Option<u64>,
}

#[derive(Debug)]
struct Tracked {
    /// By which stream it was told last; [`RECALLED`]: by none yet, another instance has noted it.
    told_by: u64,
    /// Unless it is known from notes alone, or of an edge that doesn't say it.
    about: Option<Box<About>>,
}

impl Tracked {
    fn by(told_by: u64) -> Self {
        Self { told_by, about: None }
    }
}

/// What a session's user may want to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// What its client calls it.
    pub name: [u8; 16],
    pub device: Box<str>,
    pub opened_at_ms: i64,
}

/// What stands for a stream with a session that no stream has told.
const RECALLED: u64 = 0;

/// How long users count as online, and how long the service doesn't know everything, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub grace_ms: u64,
    pub warm_up_ms: u64,
}

/// The state of one presence service. Grows with the sessions tracked and the users watched, and with
/// [`LAST_SEEN_MAX`] users who were here.
#[derive(Debug)]
pub(crate) struct Roster {
    times: Times,
    is_warm: bool,
    users: HashMap<UserId, User>,
    edges: HashMap<Edge, EdgeState>,
    names: HashMap<String, Edge>,
    next_edge: Edge,
    next_stream: u64,
    leaving: BTreeSet<(u64, UserId)>,
    watchers: Watchers,
    /// Offline users whose last seen is still known, oldest first.
    seen: BTreeSet<(i64, UserId)>,
    /// What other instances, and later ones, may want to know; none: nobody keeps it.
    notes: Option<Vec<Note>>,
    asked: Asked,
}

/// Offline users whose last seen is remembered; beyond it the oldest is forgotten, and is offline since an unknown time.
const LAST_SEEN_MAX: usize = 1_000_000;

impl Roster {
    pub(crate) fn new(times: Times) -> Self {
        Self {
            times,
            is_warm: times.warm_up_ms == 0,
            users: HashMap::new(),
            edges: HashMap::new(),
            names: HashMap::new(),
            next_edge: 0,
            next_stream: 0,
            leaving: BTreeSet::new(),
            watchers: Watchers::default(),
            seen: BTreeSet::new(),
            notes: None,
            asked: Asked::default(),
        }
    }

    /// A tracking stream of an edge begins. An older one of the same incarnation is over.
    pub(crate) fn attach(&mut self, now: Now, name: &str) -> Stream {
        let edge = self.edge(name, now);
        self.next_stream += 1;
        if let Some(state) = self.edges.get_mut(&edge) {
            state.stream = self.next_stream;
            state.heard = now;
        }
        let stream = Stream { edge, number: self.next_stream };
        self.note_heard(now, stream);
        stream
    }

    /// The newest stream of an edge.
    pub(crate) fn stream_of(&self, name: &str) -> Option<Stream> {
        let edge = *self.names.get(name)?;
        self.edges.get(&edge).map(|state| Stream { edge, number: state.stream })
    }

    /// The edge of this name, or a new one.
    fn edge(&mut self, name: &str, heard: Now) -> Edge {
        self.names.get(name).copied().unwrap_or_else(|| {
            self.next_edge += 1;
            self.names.insert(name.to_owned(), self.next_edge);
            let name = name.to_owned();
            let state = EdgeState { name, heard, stream: 0, sessions: HashMap::new(), is_known: false, noted_ms: None };
            self.edges.insert(self.next_edge, state);
            self.next_edge
        })
    }

    /// Something has come by a stream. `false`: it is over, for a newer one has begun or its edge is gone.
    pub(crate) fn heard(&mut self, now: Now, stream: Stream) -> bool {
        let state = self.current(stream);
        let is_current = state.is_some();
        state.into_iter().for_each(|state| state.heard = now);
        self.note_heard(now, stream);
        is_current
    }

    fn current(&mut self, stream: Stream) -> Option<&mut EdgeState> {
        self.edges.get_mut(&stream.edge).filter(|state| state.stream == stream.number)
    }

    pub(crate) fn open(&mut self, stream: Stream, session: u64, user: UserId) -> Told {
        let Some(state) = self.current(stream) else { return Told::new() };
        let is_new = match state.sessions.entry((user, session)) {
            Entry::Occupied(mut known) => {
                known.get_mut().told_by = stream.number;
                false
            }
            Entry::Vacant(place) => {
                place.insert(Tracked::by(stream.number));
                true
            }
        };
        // Again with each new stream: the note may be lost.
        self.note(|roster| roster.named(stream.edge, session).map(|session| Note::Opened { user, session }));
        if is_new { self.add(stream.edge, session, user) } else { Told::new() }
    }

    /// What is told of a session that is open.
    pub(crate) fn describe(&mut self, stream: Stream, session: u64, user: UserId, about: About) {
        if let Some(tracked) = self.current(stream).and_then(|state| state.sessions.get_mut(&(user, session))) {
            tracked.about = Some(Box::new(about));
        }
    }

    /// All sessions have been told by now.
    pub(crate) fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// A user's sessions of which something is known, and how their edges call them.
    pub(crate) fn sessions_of(&self, user: UserId) -> Vec<(Stream, u64, &About)> {
        let sessions = self.users.get(&user).map_or(&[][..], |state| &state.sessions);
        let about = |(edge, session): &(Edge, u64)| {
            let state = self.edges.get(edge)?;
            let about = state.sessions.get(&(user, *session))?.about.as_deref()?;
            Some((Stream { edge: *edge, number: state.stream }, *session, about))
        };
        sessions.iter().filter_map(about).collect()
    }

    /// A session that its edge has already.
    fn add(&mut self, edge: Edge, session: u64, user: UserId) -> Told {
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
    pub(crate) fn close(&mut self, now: Now, stream: Stream, session: u64, user: UserId) {
        let known = self.current(stream).is_some_and(|state| state.sessions.remove(&(user, session)).is_some());
        if known {
            self.closed(now, stream.edge, session, user);
        }
    }

    /// The session goes on, and is tracked elsewhere from now on. Nobody is told anything.
    pub(crate) fn moved(&mut self, stream: Stream, session: u64, user: UserId) {
        let known = self.current(stream).is_some_and(|state| state.sessions.remove(&(user, session)).is_some());
        if known && self.remove(stream.edge, session, user) {
            self.users.remove(&user);
        }
    }

    /// All of the edge's sessions have been told on this stream: the others closed while there was none.
    pub(crate) fn snapshot_done(&mut self, now: Now, stream: Stream) {
        let Some(state) = self.current(stream) else { return };
        state.is_known = true;
        let older = state.sessions.extract_if(|_, tracked| tracked.told_by != stream.number);
        let older: Vec<_> = older.map(|(session, tracked)| (session, tracked.told_by)).collect();
        for ((user, session), told_by) in older {
            if told_by == RECALLED {
                // It may have closed, or belong to other instances: those note what becomes of it.
                self.begin_grace(now, stream.edge, session, user);
            } else {
                self.closed(now, stream.edge, session, user);
            }
        }
    }

    /// The edge says goodbye.
    pub(crate) fn leave(&mut self, now: Now, stream: Stream) {
        if let Some(edge) = self.current(stream).map(|state| state.name.clone()) {
            self.note(|_| Some(Note::Left { edge: edge.clone() }));
            for (user, session) in self.forget_edge(stream.edge) {
                self.note(|_| Some(Note::Closed { user, session: Session { edge: edge.clone(), number: session } }));
                self.begin_grace(now, stream.edge, session, user);
                self.note_seen(user);
            }
        }
    }

    fn closed(&mut self, now: Now, edge: Edge, session: u64, user: UserId) {
        self.note(|roster| roster.named(edge, session).map(|session| Note::Closed { user, session }));
        self.begin_grace(now, edge, session, user);
        self.note_seen(user);
    }

    fn forget_edge(&mut self, edge: Edge) -> Vec<(UserId, u64)> {
        let Some(state) = self.edges.remove(&edge) else { return Vec::new() };
        self.names.remove(&state.name);
        state.sessions.into_keys().collect()
    }

    fn begin_grace(&mut self, now: Now, edge: Edge, session: u64, user: UserId) {
        if self.remove(edge, session, user)
            && let Some(state) = self.users.get_mut(&user)
        {
            state.last_seen_ms = now.wall_ms;
            let at = now.mono_ms + self.times.grace_ms;
            state.offline_at = Some(at);
            self.leaving.insert((at, user));
        }
    }

    /// Says whether it was the user's last one.
    fn remove(&mut self, edge: Edge, session: u64, user: UserId) -> bool {
        let Some(state) = self.users.get_mut(&user) else { return false };
        state.sessions.retain(|known| *known != (edge, session));
        state.sessions.is_empty()
    }

    /// Ends the graces and the edges whose time is over, and the service's own ignorance.
    pub(crate) fn tick(&mut self, now: Now) -> Told {
        let mut told = self.expire(now);
        while let Some((at, user)) = self.leaving.first().copied()
            && at <= now.mono_ms
        {
            self.leaving.pop_first();
            told.extend(self.is_offline(user));
        }
        if !self.is_warm && now.mono_ms >= self.times.warm_up_ms {
            self.is_warm = true;
            self.remember_seen();
            // Also those who went offline meanwhile: their watchers were told that they may be elsewhere.
            let is_online = |user: &UserId| self.users.get(user).is_some_and(|state| state.is_online());
            let unknown: Vec<UserId> = self.watchers.users().filter(|user| !is_online(user)).collect();
            told.extend(unknown.into_iter().flat_map(|user| self.tell(user)));
        }
        while self.seen.len() > LAST_SEEN_MAX {
            if let Some((_, user)) = self.seen.pop_first() {
                self.users.remove(&user);
            }
        }
        told
    }

    /// Edges that were not heard of in time: their users had their grace already.
    fn expire(&mut self, now: Now) -> Told {
        let is_over = |state: &EdgeState| state.heard.mono_ms + EDGE_LIFE_MS <= now.mono_ms;
        let over = self.edges.iter().filter(|(_, state)| is_over(state));
        let over: Vec<(Edge, i64)> = over.map(|(edge, state)| (*edge, state.heard.wall_ms)).collect();
        let mut told = Told::new();
        for (edge, heard_ms) in over {
            for (user, session) in self.forget_edge(edge) {
                if self.remove(edge, session, user) {
                    self.users.entry(user).or_default().last_seen_ms = heard_ms;
                    self.note_seen(user);
                    told.extend(self.is_offline(user));
                }
            }
        }
        told
    }

    fn is_offline(&mut self, user: UserId) -> Told {
        if let Some(state) = self.users.get_mut(&user) {
            state.offline_at = None;
            self.seen.insert((state.last_seen_ms, user));
        }
        self.tell(user)
    }

    fn tell(&self, user: UserId) -> Told {
        self.watchers.tell(self.presence(user))
    }

    pub(crate) fn presence(&self, user: UserId) -> Presence {
        let (status, last_seen_ms) = match self.users.get(&user) {
            Some(state) if state.is_online() => (PresenceStatus::Online, 0),
            // Another edge of theirs may be yet to come. What was noted of their last session is true whatever comes.
            state if !self.is_warm => {
                let here = state.map_or(0, |state| state.last_seen_ms);
                (PresenceStatus::Unspecified, here.max(self.asked.last_seen(user)))
            }
            Some(state) => (PresenceStatus::Offline, state.last_seen_ms),
            None => (PresenceStatus::Offline, 0),
        };
        Presence { user_id: user.0, status: status.into(), last_seen_ms }
    }

    /// The edges of some users, and which of some edges live.
    pub(crate) fn locate(&self, request: &LocateRequest) -> LocateResponse {
        let lives = |name: &&String| self.names.contains_key(*name);
        LocateResponse {
            locations: request.sets.iter().map(|set| self.location(&set.user_ids)).collect(),
            live_edge_ids: request.edge_ids.iter().filter(lives).cloned().collect(),
            partial: !self.is_warm,
        }
    }

    /// Each user once per edge, in the order of the question. Users without a session are in none.
    fn location(&self, users: &[u64]) -> Location {
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
        let named = |(edge, user_ids)| Some(EdgeUsers { edge_id: self.edges.get(&edge)?.name.clone(), user_ids });
        Location { edges: by_edge.into_iter().filter_map(named).collect() }
    }

    /// Begins to watch; returns the present state, to be told to this watcher.
    pub(crate) fn watch(&mut self, watcher: Watcher, user: UserId) -> Presence {
        self.watchers.watch(watcher, user);
        self.presence(user)
    }

    pub(crate) fn unwatch(&mut self, watcher: Watcher, user: UserId) {
        self.watchers.unwatch(watcher, user);
    }

    /// The streams that watch a user.
    pub(crate) fn watchers_of(&self, user: UserId) -> impl Iterator<Item = Watcher> + '_ {
        self.watchers.of(user)
    }

    /// How many users are watched, each once for every watcher.
    pub(crate) fn watched(&self) -> usize {
        self.watchers.count()
    }

    /// A watching stream has ended.
    pub(crate) fn end_watch(&mut self, watcher: Watcher) {
        self.watchers.end(watcher);
    }
}
