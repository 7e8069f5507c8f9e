//! Where notes are kept: Redis. The core says what to note and what to ask for (`core/recall.rs`); this is how.
//!
//! ```text
//! presence:{<user>}   a hash: <session>@<edge> -> the edge, last_seen -> Unix time, ms; until 30 days after the last write
//! edge:{<edge>}       when it was heard of, Unix time, ms; until 14 s after that
//! ```

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use confab_ids::UserId;
use confab_redis::{Behind, Command, Redis, Reply, Weighed};

use crate::core::{EDGE_LIFE_MS, Note, Recalled, Session};

/// How long a user's notes are kept, seconds.
const LIFE_SECONDS: i64 = 30 * 24 * 3_600;
/// How long each of the two questions may take; who asked waits.
const TIME: Duration = Duration::from_millis(50);
/// Notes per piece of the queue.
const PIECE_NOTES: usize = 128;
/// What a note costs in memory beside its names.
const OVERHEAD: usize = 64;
const LAST_SEEN: &str = "last_seen";

/// Clones share the way to Redis.
#[derive(Clone, Debug)]
pub(crate) struct Notes {
    redis: Redis,
    behind: Behind<Piece>,
}

struct Piece(Vec<Note>);

impl Weighed for Piece {
    fn weight(&self) -> usize {
        let names = self.0.iter().map(|note| match note {
            Note::Opened { session, .. } | Note::Closed { session, .. } => session.edge.len(),
            Note::Heard { edge, .. } | Note::Left { edge } => edge.len(),
            Note::Seen { .. } => 0,
        });
        names.map(|name| name + OVERHEAD).sum()
    }
}

impl Notes {
    pub(crate) fn start(redis: Redis) -> Self {
        let encode = |pieces: Vec<Piece>| pieces.into_iter().flat_map(|piece| piece.0).flat_map(write).collect();
        Self { behind: Behind::start(redis.clone(), "presence", encode), redis }
    }

    /// Never waits, and may lose them.
    pub(crate) fn keep(&self, mut notes: Vec<Note>) {
        while !notes.is_empty() {
            let rest = notes.split_off(notes.len().min(PIECE_NOTES));
            self.behind.push(Piece(notes));
            notes = rest;
        }
    }

    /// What is noted of them, of each; `None`: there is no telling now.
    pub(crate) async fn of(&self, users: HashSet<UserId>) -> Option<HashMap<UserId, Recalled>> {
        let users: Vec<UserId> = users.into_iter().collect();
        let asked = users.iter().map(|user| Command::new("HGETALL", presence(*user))).collect();
        let replies = self.redis.ask(asked, TIME).await.ok()?;
        Some(users.into_iter().zip(replies.into_iter().map(recalled)).collect())
    }

    /// Which of these edges live, and when they were heard of.
    pub(crate) async fn heard(&self, edges: HashSet<String>) -> Option<HashMap<String, i64>> {
        let edges: Vec<String> = edges.into_iter().collect();
        let asked = edges.iter().map(|edge| Command::new("GET", self::edge(edge))).collect();
        let replies = self.redis.ask(asked, TIME).await.ok()?;
        Some(edges.into_iter().zip(replies).filter_map(|(edge, reply)| Some((edge, reply.parsed()?))).collect())
    }
}

fn presence(user: UserId) -> String {
    format!("presence:{{{}}}", user.0)
}

fn edge(name: &str) -> String {
    format!("edge:{{{name}}}")
}

fn field(session: &Session) -> String {
    format!("{}@{}", session.number, session.edge)
}

fn write(note: Note) -> Vec<Command> {
    let lasting = |user, command| vec![command, Command::new("EXPIRE", presence(user)).number(LIFE_SECONDS)];
    match note {
        Note::Opened { user, session } => {
            lasting(user, Command::new("HSET", presence(user)).text(field(&session)).text(session.edge))
        }
        Note::Closed { user, session } => vec![Command::new("HDEL", presence(user)).text(field(&session))],
        Note::Seen { user, at_ms } => lasting(user, Command::new("HSET", presence(user)).text(LAST_SEEN).number(at_ms)),
        // Until a time, not for a time: a note that arrives late keeps nobody alive.
        Note::Heard { edge, at_ms } => {
            let until = at_ms.saturating_add(EDGE_LIFE_MS.cast_signed());
            vec![Command::new("SET", self::edge(&edge)).number(at_ms).text("PXAT").number(until)]
        }
        Note::Left { edge } => vec![Command::new("DEL", self::edge(&edge))],
    }
}

/// Fields and values as they alternate; what isn't understood is left out.
fn recalled(reply: Reply) -> Recalled {
    let mut recalled = Recalled::default();
    let mut items = reply.into_list().into_iter();
    while let (Some(field), Some(value)) = (items.next(), items.next()) {
        let field: String = field.parsed().unwrap_or_default();
        if field == LAST_SEEN {
            recalled.last_seen_ms = value.parsed().unwrap_or(0);
        } else if let Some((number, edge)) = field.split_once('@')
            && let Ok(number) = number.parse()
        {
            recalled.sessions.push(Session { edge: edge.to_owned(), number });
        }
    }
    recalled
}
