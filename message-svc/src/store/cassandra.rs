//! The store of a cluster: Cassandra or ScyllaDB, which merge by timestamp what several owners wrote. What makes that safe is
//! in `docs/design/0004-ownership.md`; what of it is asked of the store:
//!
//! - a write carries its owner's timestamp and replaces whole rows: `statements` prepares no other;
//! - what a commit writes to one partition is one mutation, so that it is there whole or not at all: `writes`;
//! - reads and writes are at `LOCAL_QUORUM`; leases, map and ids are lightweight transactions: `ledger`.

mod events;
mod ledger;
mod map;
mod reads;
mod schema;
mod sends;
mod statements;
#[cfg(test)]
mod tests;
mod users;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, UserId};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use self::statements::Statements;
use super::{ChatOfUser, ChatRecord, Creation, CreationKey, EveryChat, MemberRow, Page, Range, Row, Store, StoreError};
use crate::core::recovery::LogRow;
use crate::core::user::UserRecord;
use crate::core::{Found, Lookup};

pub use schema::migrate;

/// Requests that one call has under way at once.
const AT_ONCE: usize = 16;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the cluster's store is.
#[derive(Clone)]
pub struct CassandraConfig {
    /// `host:port` of some nodes; the others are found by them.
    pub contact_points: Vec<String>,
    /// Lower-case letters, digits and underscores, at most 48.
    pub keyspace: String,
    /// The home data centre: where the keyspace is kept, and the only one that is asked. None: a single node without names.
    pub datacenter: Option<String>,
    /// Copies of each row in the data centre; it counts when the keyspace is created.
    pub replication_factor: u32,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Without it: plaintext, which is for loopback alone. Nodes are known by their IP addresses.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl std::fmt::Debug for CassandraConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { contact_points, keyspace, datacenter, replication_factor, username, password, tls } = self;
        f.debug_struct("CassandraConfig")
            .field("contact_points", contact_points)
            .field("keyspace", keyspace)
            .field("datacenter", datacenter)
            .field("replication_factor", replication_factor)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "…"))
            .field("tls", &tls.is_some())
            .finish()
    }
}

/// Why the cluster's store could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the configuration of Cassandra: {0}")]
    Config(String),
    #[error("Cassandra can't be reached at {points}: {cause}")]
    Unreachable { points: String, cause: String },
    #[error("Cassandra's keyspace `{keyspace}` has no tables of Confab yet: run `confab migrate`")]
    Missing { keyspace: String },
    #[error(
        "Cassandra's keyspace `{keyspace}` is at version {found}, and this program needs {needed}: run `confab migrate`"
    )]
    Older { keyspace: String, found: i32, needed: i32 },
    #[error(
        "Cassandra's keyspace `{keyspace}` is at version {found}, and this program knows {needed}: `confab migrate` of a \
         newer program was run; update this one"
    )]
    Newer { keyspace: String, found: i32, needed: i32 },
    #[error("Cassandra: {0}")]
    Failed(String),
}

impl ConnectError {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The cluster's store. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Cassandra {
    session: Arc<Session>,
    statements: Arc<Statements>,
}

impl Cassandra {
    /// Connects, and checks that the tables are of this program's version.
    pub(crate) async fn open(cfg: &CassandraConfig) -> Result<Self, ConnectError> {
        let session = connect(cfg).await?;
        schema::check(&session, &cfg.keyspace).await?;
        let statements = Statements::prepare(&session).await?;
        Ok(Self { session: Arc::new(session), statements: Arc::new(statements) })
    }

    /// All rows of a statement that yields few.
    async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'frame> DeserializeRow<'frame, 'frame>,
    {
        let result = self.session.execute_unpaged(statement, values).await.map_err(failed)?;
        let rows = result.into_rows_result().map_err(failed)?;
        rows.rows::<R>().map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
    }

    /// The row of a statement that yields at most one.
    async fn row<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Option<R>, StoreError>
    where
        R: for<'frame> DeserializeRow<'frame, 'frame>,
    {
        Ok(self.rows(statement, values).await?.pop())
    }

    /// Does the same for each, [`AT_ONCE`] side by side; the results are in the items' order.
    async fn for_each<T, R, F>(&self, items: Vec<T>, run: impl Fn(Self, T) -> F + Send) -> Result<Vec<R>, StoreError>
    where
        T: Send,
        R: Send,
        F: Future<Output = Result<R, StoreError>> + Send,
    {
        let asked: Vec<F> = items.into_iter().map(|item| run(self.clone(), item)).collect();
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }
}

/// A session that has no keyspace yet.
async fn connect(cfg: &CassandraConfig) -> Result<Session, ConnectError> {
    check_config(cfg)?;
    let mut builder = SessionBuilder::new()
        .known_nodes(&cfg.contact_points)
        .connection_timeout(CONNECT_TIMEOUT)
        .tls_context(cfg.tls.clone())
        .default_execution_profile_handle(statements::base_profile().into_handle())
        // For where a row's replicas are; of other keyspaces nothing needs to be known.
        .keyspaces_to_fetch([&cfg.keyspace])
        .fetch_full_schema_metadata(false);
    if let Some(datacenter) = &cfg.datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    if let (Some(username), Some(password)) = (&cfg.username, &cfg.password) {
        builder = builder.user(username, password);
    }
    let points = cfg.contact_points.join(", ");
    builder.build().await.map_err(|error| ConnectError::Unreachable { points, cause: error.to_string() })
}

fn check_config(cfg: &CassandraConfig) -> Result<(), ConnectError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let name = &cfg.keyspace;
    if name.is_empty()
        || name.len() > 48
        || !name.chars().all(allowed)
        || !name.starts_with(|c| char::is_ascii_lowercase(&c))
    {
        return Err(ConnectError::Config(format!(
            "`keyspace` is {name:?}; it must begin with a letter and have only a-z, 0-9 and _, at most 48"
        )));
    }
    if cfg.replication_factor == 0 {
        return Err(ConnectError::Config("`replication_factor` must be at least 1".into()));
    }
    if cfg.username.is_some() != cfg.password.is_some() {
        return Err(ConnectError::Config("`username` and `password` go together".into()));
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError(format!("Cassandra: {error}").into())
}

/// A number as CQL has it; ids, seqs and counts are below 2^53.
fn big(number: u64) -> i64 {
    number.cast_signed()
}

impl Store for Cassandra {
    /// All or none by partition. Commits are not stored in the order of the calls: an owner waits for what must come first.
    fn commit(&self, rows: Vec<Row>, stamp: i64) -> impl Future<Output = Result<(), StoreError>> + Send + 'static {
        self.clone().write(rows, stamp)
    }

    async fn load(&self, chats: Vec<ChatId>) -> Result<Vec<Option<ChatRecord>>, StoreError> {
        self.for_each(chats, Self::load_one).await
    }

    async fn load_again(&self, chats: Vec<ChatId>) -> Result<Vec<Option<ChatRecord>>, StoreError> {
        self.for_each(chats, async |store, chat| Ok(store.chat(chat).await?.map(Self::record))).await
    }

    async fn tails(&self, asked: Vec<(ChatId, u32, usize)>) -> Result<Vec<Vec<LogRow>>, StoreError> {
        self.for_each(asked, |store, (chat, bucket, limit)| store.tail(chat, bucket, limit)).await
    }

    async fn find_sends(&self, lookups: &[Lookup]) -> Result<Vec<Found>, StoreError> {
        self.find(lookups).await
    }

    async fn events(&self, ranges: Vec<Range>) -> Result<Vec<Page>, StoreError> {
        self.for_each(ranges, Self::page).await
    }

    async fn chats_of(&self, user: UserId, after: ChatId, limit: usize) -> Result<Vec<ChatOfUser>, StoreError> {
        self.chats(user, after, limit).await
    }

    async fn acquainted(&self, user: UserId, others: Vec<UserId>) -> Result<Vec<UserId>, StoreError> {
        self.sharing(user, others).await
    }

    async fn members(&self, chat: ChatId) -> Result<Vec<MemberRow>, StoreError> {
        Ok(self.chat(chat).await?.map(|(_, roster)| roster.members.to_vec()).unwrap_or_default())
    }

    async fn creation(&self, key: CreationKey) -> Result<Option<Creation>, StoreError> {
        let key = Bytes::from(key.encoded());
        let row: Option<(i64, i64)> = self.row(&self.statements.creation, (key,)).await?;
        Ok(row.map(|(chat, hash)| Creation { chat: ChatId(chat.cast_unsigned()), body_hash: hash.cast_unsigned() }))
    }

    async fn every_chat(&self, after: Option<i64>, limit: usize) -> Result<Vec<EveryChat>, StoreError> {
        self.chats_after(after, limit).await
    }

    async fn users(&self, users: Vec<UserId>) -> Result<Vec<UserRecord>, StoreError> {
        self.users_of(users).await
    }

    async fn swap_user(&self, user: UserId, record: UserRecord) -> Result<bool, StoreError> {
        self.swap_one(user, record).await
    }

    async fn erasing(&self) -> Result<Vec<UserId>, StoreError> {
        self.erasures().await
    }

    /// Ids come from blocks of their own here: see [`Ledger::take_chat_ids`](super::Ledger::take_chat_ids).
    async fn last_chat(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
