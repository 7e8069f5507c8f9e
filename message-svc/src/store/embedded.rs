//! The store on this machine's own disk: fjall, a log-structured tree with a journal.
//!
//! One thread commits: whatever was asked for while the last fsync ran goes out with the next one. Since fjall applies a
//! batch to its tables only after the journal is synced, a read never sees what a power cut could undo.

mod creation;
mod tables;
mod torn;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use confab_ids::{ChatId, UserId};
use fjall::PersistMode;
use tokio::sync::{Mutex, mpsc, oneshot};

use self::tables::Tables;
use super::{ChatOfUser, ChatRecord, Creation, CreationKey, EveryChat, MemberRow, Page, Range, Row, Store, StoreError};
use crate::core::recovery::LogRow;
use crate::core::user::UserRecord;
use crate::core::{Found, Lookup};

/// Rows that one fsync commits at most.
const GROUP_ROWS_MAX: usize = 16_384;

/// Between the beginnings of two commits at least: while many come, more of them share an fsync and its wakeups. A commit
/// that comes alone doesn't wait. At 20,000 messages/s it takes a tenth off the server's CPU.
const COMMIT_INTERVAL: Duration = Duration::from_millis(1);

/// When a commit is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk, before the ack.
    Synced,
    /// In the operating system's buffers: a power cut loses acked messages. Only to show that the tests notice.
    Buffered,
}

/// Why a folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store is in use by another process")]
    InUse,
    #[error("the store was written by a newer version of Confab")]
    Newer,
    #[error("the store is damaged ({0}): put back a copy of the folder, or move it away to start afresh")]
    Damaged(String),
    #[error("the store can't be opened: {0}")]
    Io(#[from] std::io::Error),
}

impl From<fjall::Error> for OpenError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => Self::InUse,
            fjall::Error::InvalidVersion(_) => Self::Newer,
            fjall::Error::Io(error) => Self::Io(error),
            other => Self::Damaged(format!("{other:?}")),
        }
    }
}

struct Commit {
    rows: Vec<Row>,
    user: Option<(UserId, UserRecord)>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The embedded store. Clones share it; the last one to go ends the committing thread.
#[derive(Clone)]
pub(crate) struct Embedded {
    tables: Arc<Tables>,
    // Not bounded here: the owner takes no commands beyond its `in_flight` bound.
    commits: mpsc::UnboundedSender<Commit>,
    /// One change of what users have set at a time: it is read before.
    changing_users: Arc<Mutex<()>>,
}

impl Embedded {
    pub(crate) fn open(folder: &Path, durability: Durability) -> Result<Self, OpenError> {
        creation::create_whole(folder)?;
        torn::cut_off(folder, durability)?;
        let tables = Arc::new(Tables::open(folder)?);
        // A keyspace that a newer version adds is a new folder, too.
        creation::sync_folder(&folder.join("keyspaces"))?;
        let (commits, queue) = mpsc::unbounded_channel();
        let writer = tables.clone();
        std::thread::Builder::new()
            .name("confab-commit".into())
            .spawn(move || commit_groups(&writer, queue, durability))?;
        Ok(Self { tables, commits, changing_users: Arc::default() })
    }

    fn store(
        &self,
        rows: Vec<Row>,
        user: Option<(UserId, UserRecord)>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + 'static {
        let (done, result) = oneshot::channel();
        let queued = self.commits.send(Commit { rows, user, done });
        async move {
            queued.map_err(|_| failed("the committing thread has ended"))?;
            result.await.unwrap_or_else(|_| Err(failed("the committing thread has ended")))
        }
    }

    /// Runs reads where they may block.
    async fn reading<T: Send + 'static>(
        &self,
        reads: impl FnOnce(&Tables) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tables = self.tables.clone();
        tokio::task::spawn_blocking(move || reads(&tables)).await.unwrap_or_else(|_| Err(failed("the reader panicked")))
    }
}

fn commit_groups(tables: &Tables, mut queue: mpsc::UnboundedReceiver<Commit>, durability: Durability) {
    // Every group, so that a power cut can tear the last one only (see `torn`).
    let mode = match durability {
        Durability::Synced => PersistMode::SyncData,
        Durability::Buffered => PersistMode::Buffer,
    };
    let mut failure: Option<StoreError> = None;
    let mut group = Vec::new();
    let mut begun: Option<Instant> = None;
    while let Some(first) = queue.blocking_recv() {
        let early = begun.map_or(Duration::ZERO, |begun| COMMIT_INTERVAL.saturating_sub(begun.elapsed()));
        #[expect(clippy::disallowed_methods, reason = "this thread only commits, and what comes meanwhile goes along")]
        std::thread::sleep(early);
        begun = Some(Instant::now());
        let mut rows = first.rows.len();
        group.push(first);
        while rows < GROUP_ROWS_MAX
            && let Ok(next) = queue.try_recv()
        {
            rows += next.rows.len();
            group.push(next);
        }
        // After a failed write or fsync the disk's state is unknown: nothing more is written over it.
        let result = match &failure {
            Some(error) => Err(error.clone()),
            None => {
                let users = group.iter().filter_map(|commit| commit.user.as_ref());
                tables.write(group.iter().flat_map(|commit| &commit.rows), users, mode)
            }
        };
        if let Err(error) = &result {
            failure.get_or_insert_with(|| error.clone());
        }
        for commit in group.drain(..) {
            // Whoever no longer waits doesn't need to know.
            let _gone = commit.done.send(result.clone());
        }
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError(error.to_string().into())
}

impl Store for Embedded {
    fn commit(&self, rows: Vec<Row>, _stamp: i64) -> impl Future<Output = Result<(), StoreError>> + Send + 'static {
        self.store(rows, None)
    }

    async fn load(&self, chats: Vec<ChatId>) -> Result<Vec<Option<ChatRecord>>, StoreError> {
        self.reading(move |tables| chats.into_iter().map(|chat| tables.chat(chat)).collect()).await
    }

    async fn tails(&self, asked: Vec<(ChatId, u32, usize)>) -> Result<Vec<Vec<LogRow>>, StoreError> {
        let tail = |tables: &Tables, (chat, bucket, limit)| tables.tail(chat, bucket, limit);
        self.reading(move |tables| asked.into_iter().map(|asked| tail(tables, asked)).collect()).await
    }

    async fn find_sends(&self, lookups: &[Lookup]) -> Result<Vec<Found>, StoreError> {
        let lookups = lookups.to_vec();
        let find = move |tables: &Tables| {
            let found = lookups.iter().map(|lookup| tables.find_send(lookup));
            found
                .map(|sent| Ok(Found { sent: sent?.map(|sent| (sent, None)).into_iter().collect(), of_sender: None }))
                .collect()
        };
        self.reading(find).await
    }

    async fn events(&self, ranges: Vec<Range>) -> Result<Vec<Page>, StoreError> {
        self.reading(move |tables| ranges.into_iter().map(|range| tables.events(range)).collect()).await
    }

    async fn chats_of(&self, user: UserId, after: ChatId, limit: usize) -> Result<Vec<ChatOfUser>, StoreError> {
        self.reading(move |tables| tables.chats_of(user, after, limit)).await
    }

    async fn acquainted(&self, user: UserId, others: Vec<UserId>) -> Result<Vec<UserId>, StoreError> {
        self.reading(move |tables| tables.acquainted(user, others)).await
    }

    async fn members(&self, chat: ChatId) -> Result<Vec<MemberRow>, StoreError> {
        self.reading(move |tables| tables.members(chat)).await
    }

    async fn creation(&self, key: CreationKey) -> Result<Option<Creation>, StoreError> {
        self.reading(move |tables| tables.creation(&key)).await
    }

    async fn every_chat(&self, after: Option<i64>, limit: usize) -> Result<Vec<EveryChat>, StoreError> {
        self.reading(move |tables| tables.every_chat(after, limit)).await
    }

    async fn users(&self, users: Vec<UserId>) -> Result<Vec<UserRecord>, StoreError> {
        self.reading(move |tables| users.into_iter().map(|user| tables.user(user)).collect()).await
    }

    async fn swap_user(&self, user: UserId, record: UserRecord) -> Result<bool, StoreError> {
        let _alone = self.changing_users.lock().await;
        let known = self.reading(move |tables| tables.user(user)).await?;
        let follows = known.version + 1 == record.version;
        if follows {
            self.store(Vec::new(), Some((user, record))).await?;
        }
        Ok(follows)
    }

    async fn erasing(&self) -> Result<Vec<UserId>, StoreError> {
        self.reading(Tables::erasing).await
    }

    async fn last_chat(&self) -> Result<u64, StoreError> {
        self.reading(Tables::last_chat).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{self, Writers};

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path(), Durability::Synced).expect("a store");
        suite::run(&store, Writers::One).await;
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path(), Durability::Synced).expect("a store");
        suite::fill(&store, Writers::One).await;
        drop(store);
        let again = loop {
            // The committing thread ends soon after its last sender, and with it the lock.
            match Embedded::open(folder.path(), Durability::Synced) {
                Err(OpenError::InUse) => tokio::task::yield_now().await,
                other => break other.expect("a store"),
            }
        };
        suite::check(&again, Writers::One).await;
    }

    #[test]
    fn a_folder_in_use_and_a_damaged_one_are_refused_in_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path(), Durability::Synced).expect("a store");
        assert!(matches!(Embedded::open(folder.path(), Durability::Synced), Err(OpenError::InUse)));
        drop(store);
        let other = tempfile::tempdir().expect("a folder");
        std::fs::write(other.path().join("version"), b"not a version").expect("written");
        let refused = Embedded::open(other.path(), Durability::Synced).err().expect("refused");
        assert!(refused.to_string().contains("store"), "{refused}");
    }
}
