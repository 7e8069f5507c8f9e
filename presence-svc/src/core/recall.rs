//! What an instance notes for others and for later ones, and what it makes of their notes. Notes may be lost: they only add
//! to what an instance knows, and only until it knows better.
//!
//! A session that was noted counts as long as its edge lives, and until that edge has told its own here: what it doesn't tell
//! then has closed meanwhile, or belongs elsewhere.

use std::collections::{HashMap, HashSet};

use confab_ids::UserId;

use super::{Edge, Now, RECALLED, Roster, Stream, Told, Tracked};

/// An edge that is heard of more often is noted to be heard of this often, milliseconds: a bit less than its heartbeat.
const NOTED_EVERY_MS: u64 = 4_000;

/// Users that a fresh instance has asked for; of more it only knows what it is told. It is fresh for seconds.
const ASKED_MAX: usize = 200_000;

/// How long an answer counts, while the instance is fresh, milliseconds: fanout asks for the same users again and again.
const ASKED_MS: u64 = 1_000;

/// Sessions of a user that are noted before those whose edge is gone are cleared away.
const SESSIONS_KEPT: usize = 32;

/// A session's whole name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    /// The edge's incarnation.
    pub edge: String,
    /// Unique within it.
    pub number: u64,
}

/// Something to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Opened {
        user: UserId,
        session: Session,
    },
    Closed {
        user: UserId,
        session: Session,
    },
    /// Their last session that is known here closed at this Unix time, milliseconds.
    Seen {
        user: UserId,
        at_ms: i64,
    },
    /// An edge was heard of at this Unix time, milliseconds.
    Heard {
        edge: String,
        at_ms: i64,
    },
    Left {
        edge: String,
    },
}

/// What is noted of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recalled {
    pub sessions: Vec<Session>,
    /// 0: never.
    pub last_seen_ms: i64,
}

/// While an instance is fresh: when users were asked for, and their last seen.
#[derive(Debug, Default)]
pub(super) struct Asked(HashMap<UserId, (u64, i64)>);

impl Asked {
    pub(super) fn last_seen(&self, user: UserId) -> i64 {
        self.0.get(&user).map_or(0, |(_, last_seen_ms)| *last_seen_ms)
    }
}

impl Roster {
    /// From now on it notes things.
    pub(crate) fn keep_notes(&mut self) {
        self.notes = Some(Vec::new());
    }

    /// What was noted since the last time, in order.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        self.notes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn note(&mut self, note: impl FnOnce(&Self) -> Option<Note>) {
        if self.notes.is_none() {
            return;
        }
        let note = note(self);
        if let Some(notes) = &mut self.notes {
            notes.extend(note);
        }
    }

    /// If their last session is gone.
    pub(super) fn note_seen(&mut self, user: UserId) {
        self.note(|roster| {
            let state = roster.users.get(&user).filter(|state| state.sessions.is_empty())?;
            Some(Note::Seen { user, at_ms: state.last_seen_ms })
        });
    }

    pub(super) fn note_heard(&mut self, now: Now, stream: Stream) {
        if self.notes.is_none() {
            return;
        }
        let Some(state) = self.current(stream) else { return };
        if state.noted_ms.is_some_and(|noted| noted + NOTED_EVERY_MS > now.mono_ms) {
            return;
        }
        state.noted_ms = Some(now.mono_ms);
        let edge = state.name.clone();
        self.note(|_| Some(Note::Heard { edge, at_ms: now.wall_ms }));
    }

    pub(super) fn named(&self, edge: Edge, number: u64) -> Option<Session> {
        Some(Session { edge: self.edges.get(&edge)?.name.clone(), number })
    }

    /// Whose sessions notes may know of: all users', as long as edges may be yet to tell theirs, but those asked for lately.
    pub(crate) fn to_locate(&self, now: Now, users: impl Iterator<Item = UserId>) -> HashSet<UserId> {
        if self.notes.is_none() || self.is_warm {
            return HashSet::new();
        }
        let is_open = |user: &UserId| match self.asked.0.get(user) {
            Some((at, _)) => at + ASKED_MS <= now.mono_ms,
            None => self.asked.0.len() < ASKED_MAX,
        };
        users.filter(is_open).collect()
    }

    /// Of whose presence notes may know more: who isn't online, as far as is known here.
    pub(crate) fn to_tell(&self, now: Now, users: impl Iterator<Item = UserId>) -> HashSet<UserId> {
        if self.notes.is_none() {
            return HashSet::new();
        }
        if self.is_warm {
            return users.filter(|user| !self.users.contains_key(user)).collect();
        }
        self.to_locate(now, users.filter(|user| !self.users.get(user).is_some_and(super::User::is_online)))
    }

    /// Edges that sessions are noted of and of which it isn't known here whether they live.
    pub(crate) fn unheard(&self, recalled: &HashMap<UserId, Recalled>) -> HashSet<String> {
        let noted = recalled.values().flat_map(|recalled| &recalled.sessions).map(|session| &session.edge);
        noted.filter(|edge| !self.names.contains_key(*edge)).cloned().collect()
    }

    /// Takes notes for what they are. `heard`: when those of the [`unheard`](Self::unheard) edges that live were heard of.
    pub(crate) fn recalled(
        &mut self,
        now: Now,
        recalled: HashMap<UserId, Recalled>,
        heard: &HashMap<String, i64>,
    ) -> Told {
        let mut told = Told::new();
        for (user, Recalled { sessions, last_seen_ms }) in recalled {
            if self.is_warm {
                self.saw(user, last_seen_ms);
            } else {
                self.asked.0.insert(user, (now.mono_ms, last_seen_ms));
            }
            let many = sessions.len() > SESSIONS_KEPT;
            for session in sessions {
                let lives = self.names.contains_key(&session.edge) || heard.contains_key(&session.edge);
                if lives {
                    told.extend(self.recall(now, user, &session, heard));
                } else if many {
                    self.note(|_| Some(Note::Closed { user, session }));
                }
            }
        }
        told
    }

    /// Nothing is to be recalled of sessions any more.
    pub(super) fn remember_seen(&mut self) {
        for (user, (_, last_seen_ms)) in std::mem::take(&mut self.asked.0) {
            self.saw(user, last_seen_ms);
        }
    }

    fn saw(&mut self, user: UserId, last_seen_ms: i64) {
        if last_seen_ms > 0 && !self.users.contains_key(&user) {
            self.users.entry(user).or_default().last_seen_ms = last_seen_ms;
            self.seen.insert((last_seen_ms, user));
        }
    }

    fn recall(&mut self, now: Now, user: UserId, session: &Session, heard: &HashMap<String, i64>) -> Told {
        if self.is_warm {
            return Told::new();
        }
        let heard_ms = heard.get(&session.edge).copied().unwrap_or(now.wall_ms).min(now.wall_ms);
        let ago = u64::try_from(now.wall_ms - heard_ms).unwrap_or(0);
        let heard = Now { wall_ms: heard_ms, mono_ms: now.mono_ms.saturating_sub(ago) };
        let edge = self.edge(&session.edge, heard);
        let Some(state) = self.edges.get_mut(&edge).filter(|state| !state.is_known) else { return Told::new() };
        if state.sessions.contains_key(&(user, session.number)) {
            return Told::new();
        }
        state.sessions.insert((user, session.number), Tracked::by(RECALLED));
        self.add(edge, session.number, user)
    }
}
