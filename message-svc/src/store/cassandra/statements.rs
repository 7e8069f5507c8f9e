//! The CQL texts, and the one way to prepare them: what a text is decides how it may be repeated.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::policies::retry::{DefaultRetryPolicy, FallthroughRetryPolicy};
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use super::ConnectError;

/// A read that hasn't answered within this goes to another coordinator, too.
const SPECULATIVE_AFTER: Duration = Duration::from_millis(100);

/// More than the server's own 2 s (writes) and 5 s (reads), so that it can say what failed.
const TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 30 } else { 6 });

/// Of a compare-and-set: a lease that could not be renewed by then is tried again while it still holds.
const CONDITIONAL_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 30 } else { 3 });

/// Rows of a page, where a read may need more.
const PAGE_ROWS: i32 = 1_000;

/// Events of a page: the largest has some 20 KiB.
const PAGE_EVENTS: i32 = 100;

/// How long a send's key is kept, seconds.
const SENDS_TTL_S: u32 = 48 * 3_600;

/// A table whose rows their chat's owner writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Messages,
    Sends,
    Chats,
    ChatsByUser,
    Creations,
    Watermarks,
}

/// Tables that are changed by compare-and-set only.
const CONDITIONAL: [&str; 6] =
    ["instance_leases", "shard_map", "chat_id_blocks", "schema_versions", "users", "erasures"];

impl Table {
    pub(super) const ALL: [Self; 6] =
        [Self::Messages, Self::Sends, Self::Chats, Self::ChatsByUser, Self::Creations, Self::Watermarks];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Sends => "sends",
            Self::Chats => "chats",
            Self::ChatsByUser => "chats_by_user",
            Self::Creations => "creations",
            Self::Watermarks => "watermarks",
        }
    }

    /// All of them: a row is replaced whole, or parts of an older one would show through.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["chat_id", "bucket", "seq", "epoch", "bytes"],
            Self::Sends => &["chat_id", "bucket", "sender_id", "key", "seq", "message_id", "created_at", "body_hash"],
            Self::Chats => &["chat_id", "meta", "roster", "roster_seq"],
            Self::ChatsByUser => &["user_id", "chat_id", "kind"],
            Self::Creations => &["key", "chat_id", "body_hash"],
            Self::Watermarks => &["chat_id", "block", "marks"],
        }
    }

    /// Writes a row: its columns in order, then the timestamp.
    fn insert(self) -> String {
        let columns = self.columns();
        let marks = vec!["?"; columns.len()].join(", ");
        let ttl = if self == Self::Sends { format!("TTL {SENDS_TTL_S} AND ") } else { String::new() };
        format!("INSERT INTO {} ({}) VALUES ({marks}) USING {ttl}TIMESTAMP ?", self.name(), columns.join(", "))
    }
}

/// How a statement may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// As often as one likes, and at two coordinators at once.
    Read,
    /// As often as one likes: its timestamp makes it the same write.
    Stamped,
    /// Never by the driver: what came of the first one would not be known.
    Conditional,
}

/// `None`: a write that would win over a newer owner's, or one that goes round a compare-and-set.
fn class(text: &str) -> Option<Class> {
    let mut words = text.split_whitespace();
    let table = match words.next()? {
        "SELECT" => return Some(Class::Read),
        "INSERT" => words.nth(1)?,
        "UPDATE" => words.next()?,
        // Only what is changed by compare-and-set: elsewhere a tombstone would need its rules, too.
        "DELETE" => words.nth(1).filter(|table| CONDITIONAL.contains(table))?,
        _ => return None,
    };
    if CONDITIONAL.contains(&table) {
        return text.contains(" IF ").then_some(Class::Conditional);
    }
    let stamped = text.starts_with("INSERT") && text.contains(" USING ") && text.ends_with("TIMESTAMP ?");
    (stamped && !text.contains(" IF ")).then_some(Class::Stamped)
}

struct Profiles {
    read: ExecutionProfileHandle,
    stamped: ExecutionProfileHandle,
    conditional: ExecutionProfileHandle,
}

/// What all statements have in common. LOCAL_SERIAL: all of a keyspace's replicas are in one data centre.
pub(super) fn base_profile() -> ExecutionProfile {
    ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .request_timeout(Some(TIMEOUT))
        .build()
}

impl Profiles {
    fn new() -> Self {
        let base = base_profile();
        let speculative = SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: SPECULATIVE_AFTER };
        let read = base.to_builder().speculative_execution_policy(Some(Arc::new(speculative)));
        let conditional = base
            .to_builder()
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .request_timeout(Some(CONDITIONAL_TIMEOUT));
        Self {
            read: read.build().into_handle(),
            stamped: base.into_handle(),
            conditional: conditional.build().into_handle(),
        }
    }

    async fn prepare(&self, session: &Session, text: &str) -> Result<PreparedStatement, ConnectError> {
        let class = class(text).ok_or_else(|| ConnectError::Failed(format!("not a write that may be made: {text}")))?;
        let mut statement = session.prepare(text).await.map_err(ConnectError::failed)?;
        let (profile, idempotent) = match class {
            Class::Read => (&self.read, true),
            Class::Stamped => (&self.stamped, true),
            Class::Conditional => (&self.conditional, false),
        };
        statement.set_execution_profile_handle(Some(profile.clone()));
        statement.set_is_idempotent(idempotent);
        Ok(statement)
    }
}

/// One write of a row, by its timestamp.
#[derive(Clone, Debug)]
pub(super) struct Stamped(PreparedStatement);

impl Stamped {
    pub(super) fn statement(&self) -> &PreparedStatement {
        &self.0
    }
}

/// Writes of whole rows, by table.
#[derive(Debug)]
pub(super) struct Inserts([Stamped; Table::ALL.len()]);

impl Inserts {
    async fn prepare(profiles: &Profiles, session: &Session) -> Result<Self, ConnectError> {
        let mut prepared = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            prepared.push(Stamped(profiles.prepare(session, &table.insert()).await?));
        }
        let count = |_| ConnectError::Failed("a table without its statement".into());
        Ok(Self(prepared.try_into().map_err(count)?))
    }

    pub(super) fn of(&self, table: Table) -> &Stamped {
        &self.0[table as usize]
    }
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:literal $(, page $page:expr)?;)*) => {
        /// All statements, prepared.
        #[derive(Debug)]
        pub(super) struct Statements {
            pub insert: Inserts,
            $($(#[$doc])* pub $name: PreparedStatement,)*
        }

        /// The texts of all but the inserts.
        #[cfg(test)]
        const TEXTS: &[&str] = &[$($text),*];

        impl Statements {
            pub(super) async fn prepare(session: &Session) -> Result<Self, ConnectError> {
                let profiles = Profiles::new();
                $(
                    #[allow(unused_mut, reason = "those that are read by pages")]
                    let mut $name = profiles.prepare(session, $text).await?;
                    $($name.set_page_size($page);)?
                )*
                let insert = Inserts::prepare(&profiles, session).await?;
                Ok(Self { insert, $($name,)* })
            }
        }
    };
}

statements! {
    chat = "SELECT meta, roster, roster_seq FROM chats WHERE chat_id = ?";
    /// All of them, by their partitions.
    every_chat = "SELECT token(chat_id), chat_id, meta FROM chats WHERE token(chat_id) > ? LIMIT ?";
    marks = "SELECT marks FROM watermarks WHERE chat_id = ?";
    /// The newest rows first: the clustering's order.
    tail = "SELECT seq, epoch, bytes FROM messages WHERE chat_id = ? AND bucket = ? LIMIT ?";
    event = "SELECT bytes FROM messages WHERE chat_id = ? AND bucket = ? AND seq = ?";
    events_up = "SELECT bytes FROM messages WHERE chat_id = ? AND bucket = ? AND seq >= ? AND seq <= ? ORDER BY seq ASC LIMIT ?", page PAGE_EVENTS;
    events_down = "SELECT bytes FROM messages WHERE chat_id = ? AND bucket = ? AND seq >= ? AND seq <= ? ORDER BY seq DESC LIMIT ?", page PAGE_EVENTS;
    sends = "SELECT key, seq, message_id, created_at, body_hash FROM sends WHERE chat_id = ? AND bucket = ? AND sender_id = ?", page PAGE_ROWS;
    chats_of = "SELECT chat_id, kind FROM chats_by_user WHERE user_id = ? AND chat_id > ? LIMIT ?";
    all_chats_of = "SELECT chat_id, kind FROM chats_by_user WHERE user_id = ?", page PAGE_ROWS;
    creation = "SELECT chat_id, body_hash FROM creations WHERE key = ?";

    user = "SELECT bytes FROM users WHERE user_id = ?";
    users = "SELECT user_id, bytes FROM users WHERE user_id IN ?";
    user_first = "INSERT INTO users (user_id, version, bytes) VALUES (?, ?, ?) IF NOT EXISTS";
    user_next = "UPDATE users SET version = ?, bytes = ? WHERE user_id = ? IF version = ?";
    erasures = "SELECT user_id FROM erasures WHERE bucket IN ?";
    erasure_begun = "INSERT INTO erasures (bucket, user_id) VALUES (?, ?) IF NOT EXISTS";
    erasure_done = "DELETE FROM erasures WHERE bucket = ? AND user_id = ? IF EXISTS";

    leases = "SELECT incarnation, addr, counter, hi, standing FROM instance_leases WHERE bucket IN ?";
    renew_first = "INSERT INTO instance_leases (addr, counter, hi, standing, bucket, incarnation) VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    /// The last two conditions always hold: a refusal shows only the columns that are in conditions.
    renew = "UPDATE instance_leases SET addr = ?, counter = ?, hi = ?, standing = ? WHERE bucket = ? AND incarnation = ? IF counter < ? AND standing < ? AND addr >= '' AND hi >= -9223372036854775808";
    mark_dead = "UPDATE instance_leases SET standing = ? WHERE bucket = ? AND incarnation = ? IF counter = ?";
    purge = "DELETE FROM instance_leases WHERE bucket = ? AND incarnation = ? IF standing = ?";
    map_version = "SELECT version FROM shard_map WHERE id = 0";
    map = "SELECT version, map FROM shard_map WHERE id = 0";
    map_first = "INSERT INTO shard_map (id, version, map) VALUES (0, ?, ?) IF NOT EXISTS";
    /// The last condition always holds; see `renew`.
    map_swap = "UPDATE shard_map SET version = ?, map = ? WHERE id = 0 IF version = ? AND map >= 0x";
    ids = "SELECT next FROM chat_id_blocks WHERE id = 0";
    ids_first = "INSERT INTO chat_id_blocks (id, next) VALUES (0, ?) IF NOT EXISTS";
    ids_next = "UPDATE chat_id_blocks SET next = ? WHERE id = 0 IF next = ?";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_of_an_owner_has_its_timestamp() {
        for table in Table::ALL {
            assert_eq!(class(&table.insert()), Some(Class::Stamped), "{table:?}");
        }
        for text in TEXTS {
            let expected = if text.starts_with("SELECT") { Class::Read } else { Class::Conditional };
            assert_eq!(class(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_write_without_its_timestamp_or_condition_is_not_prepared() {
        let bad = [
            "INSERT INTO chats (chat_id, meta, roster, roster_seq) VALUES (?, ?, ?, ?)",
            "INSERT INTO sends (key) VALUES (?) USING TTL 172800",
            "UPDATE chats SET meta = ? WHERE chat_id = ?",
            "UPDATE chats SET meta = ? WHERE chat_id = ? IF roster_seq = ?",
            "INSERT INTO chats (chat_id) VALUES (?) IF NOT EXISTS USING TIMESTAMP ?",
            "DELETE FROM messages WHERE chat_id = ? AND bucket = ?",
            "UPDATE shard_map SET map = ? WHERE id = 0",
            "DELETE FROM instance_leases WHERE bucket = ? AND incarnation = ?",
            "INSERT INTO shard_map (id, version, map) VALUES (0, ?, ?) USING TIMESTAMP ?",
        ];
        for text in bad {
            assert_eq!(class(text), None, "{text}");
        }
    }

    #[test]
    fn every_column_of_the_schema_is_written() {
        let schema = include_str!("schema/0001_chats.cql");
        for table in Table::ALL {
            let begin = format!("CREATE TABLE IF NOT EXISTS {} (", table.name());
            let (_, rest) = schema.split_once(&begin).expect("the table");
            let columns =
                rest.lines().skip(1).map(str::trim).take_while(|line| *line != ");" && !line.starts_with(") "));
            let names: Vec<&str> =
                columns.filter(|line| !line.starts_with("PRIMARY")).filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(names, table.columns(), "{table:?}");
        }
    }
}
