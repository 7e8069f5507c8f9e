//! A commit as writes: what goes to one partition is one unlogged batch.
//!
//! Cassandra makes one mutation of all of a batch's statements that have the same keyspace and the same value as partition
//! key, whatever their tables (`BatchUpdatesCollector.getMutationBuilder`): one entry of the commit log and one message to
//! each replica, so that it has all of it or nothing. A batch of a single mutation has no bound but that of a mutation, half
//! a commit log segment: 16 MiB (`BatchStatement.verifyBatchSize`). The tests look at both. A reader may see the mutation's
//! part in one table before that in the other; who looks a send up checks it against the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use prost::Message;
use scylla::serialize::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};
use scylla::statement::batch::{Batch, BatchType};
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use super::statements::Table;
use super::{Cassandra, big, failed};
use crate::store::rows::{ChatValue, MarksValue, RosterValue};
use crate::store::{Row, SendKey, StoreError, bucket_of};

/// Of a kind in a user's list of chats: they have left it.
pub(super) const LEFT: i32 = 8;

/// One column's value; there is none for null.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Int(i32),
    Big(i64),
    Blob(Bytes),
    Uuid(Uuid),
    Time(CqlTimestamp),
}

impl SerializeValue for Cell {
    fn serialize<'b>(
        &self,
        typ: &scylla::cluster::metadata::ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Self::Int(value) => value.serialize(typ, writer),
            Self::Big(value) => value.serialize(typ, writer),
            Self::Blob(value) => value.serialize(typ, writer),
            Self::Uuid(value) => value.serialize(typ, writer),
            Self::Time(value) => value.serialize(typ, writer),
        }
    }
}

/// What is written whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Partition {
    Log(ChatId, u32),
    Chat(ChatId),
    User(UserId),
    Creation(Bytes),
    Marks(ChatId),
}

/// A row of a partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Event(Seq),
    Send(SendKey),
    ChatOfUser(ChatId),
    Block(u32),
    Only,
}

struct Write {
    partition: Partition,
    key: Key,
    table: Table,
    /// In the order of the table's columns.
    cells: Vec<Cell>,
}

type Mutation = BTreeMap<Key, Write>;

/// The commit's mutations. Of two writes to the same row only the later one is kept: they have the same timestamp, and then
/// Cassandra keeps the greater value, not the later one.
fn mutations(rows: Vec<Row>) -> Result<BTreeMap<Partition, Mutation>, StoreError> {
    let mut mutations: BTreeMap<Partition, Mutation> = BTreeMap::new();
    for row in rows {
        if let Some(write) = write_of(row)? {
            mutations.entry(write.partition.clone()).or_default().insert(write.key.clone(), write);
        }
    }
    Ok(mutations)
}

/// `None`: nothing is to be written.
fn write_of(row: Row) -> Result<Option<Write>, StoreError> {
    let (partition, key, table, cells) = match row {
        Row::Event { chat, seq, epoch, bytes } => {
            let bucket = bucket_of(seq);
            let cells = vec![id(chat.0), int(bucket), id(seq.0), Cell::Big(epoch), Cell::Blob(bytes)];
            (Partition::Log(chat, bucket), Key::Event(seq), Table::Messages, cells)
        }
        Row::Send { chat, key, sent } => {
            let bucket = bucket_of(sent.seq);
            let cells = vec![
                id(chat.0),
                int(bucket),
                id(key.user().0),
                Cell::Blob(Bytes::copy_from_slice(key.as_bytes())),
                id(sent.seq.0),
                Cell::Uuid(Uuid::from_bytes(sent.message_id.0)),
                Cell::Time(CqlTimestamp(sent.created_at_ms)),
                id(sent.body_hash),
            ];
            (Partition::Log(chat, bucket), Key::Send(key), Table::Sends, cells)
        }
        Row::Chat { meta, roster } => {
            let missing = || StoreError("a chat's row without its members: they are kept with it here".into());
            let roster = roster.ok_or_else(missing)?;
            let cells =
                vec![id(meta.chat.0), blob(&ChatValue::of(&meta)), blob(&RosterValue::of(&roster)), id(roster.seq.0)];
            (Partition::Chat(meta.chat), Key::Only, Table::Chats, cells)
        }
        Row::Member { chat, kind, member } => {
            let kind = i32::from(kind) | if member.is_in() { 0 } else { LEFT };
            let cells = vec![id(member.user.0), id(chat.0), Cell::Int(kind)];
            (Partition::User(member.user), Key::ChatOfUser(chat), Table::ChatsByUser, cells)
        }
        Row::Creation { key, made } => {
            let key = Bytes::from(key.encoded());
            let cells = vec![Cell::Blob(key.clone()), id(made.chat.0), id(made.body_hash)];
            (Partition::Creation(key), Key::Only, Table::Creations, cells)
        }
        Row::Marks { chat, block, marks } => {
            let cells = vec![id(chat.0), int(block), blob(&MarksValue::of(&marks))];
            (Partition::Marks(chat), Key::Block(block), Table::Watermarks, cells)
        }
        // They have a time to live; members are kept with the chat.
        Row::DropSends { .. } | Row::DropMember { .. } => return Ok(None),
    };
    Ok(Some(Write { partition, key, table, cells }))
}

fn id(number: u64) -> Cell {
    Cell::Big(big(number))
}

fn int(number: u32) -> Cell {
    Cell::Int(number.cast_signed())
}

fn blob(value: &impl Message) -> Cell {
    Cell::Blob(value.encode_to_vec().into())
}

impl Cassandra {
    pub(super) async fn write(self, rows: Vec<Row>, stamp: i64) -> Result<(), StoreError> {
        let mutations = mutations(rows)?.into_values().collect();
        self.for_each(mutations, |store, mutation: Mutation| store.apply(mutation, stamp)).await?;
        Ok(())
    }

    async fn apply(self, mutation: Mutation, stamp: i64) -> Result<(), StoreError> {
        let (batch, values) = self.batch(mutation.into_values(), stamp);
        self.session.batch(&batch, values).await.map_err(failed)?;
        Ok(())
    }

    /// All writes are made here, each with the timestamp.
    fn batch(&self, writes: impl Iterator<Item = Write>, stamp: i64) -> (Batch, Vec<Vec<Cell>>) {
        let mut batch = Batch::new(BatchType::Unlogged);
        // The timestamp makes a repeated write the same one.
        batch.set_is_idempotent(true);
        let mut values = Vec::new();
        for Write { table, mut cells, .. } in writes {
            batch.append_statement(self.statements.insert.of(table).statement().clone());
            cells.push(Cell::Big(stamp));
            values.push(cells);
        }
        (batch, values)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use confab_ids::MessageId;

    use super::super::tests::store;
    use super::*;
    use crate::core::sends::Sent;
    use crate::store::Store;

    /// A message and its send's key, in these chats.
    fn message_and_key(message_in: u64, key_in: u64, bytes: usize) -> Vec<Row> {
        let key = SendKey::new(UserId(1), "phone", "id", MessageId([0; 16]));
        let sent = Sent { seq: Seq(3), message_id: MessageId([0; 16]), created_at_ms: 0, body_hash: 0 };
        let bytes = Bytes::from(vec![7; bytes]);
        vec![
            Row::Event { chat: ChatId(message_in), seq: Seq(3), epoch: 1, bytes },
            Row::Send { chat: ChatId(key_in), key, sent },
        ]
    }

    /// Of all partitions.
    fn writes(rows: Vec<Row>) -> impl Iterator<Item = Write> {
        mutations(rows).expect("mutations").into_values().flat_map(Mutation::into_values)
    }

    /// How long Cassandra may take to tell what it did.
    const TOLD: Duration = Duration::from_secs(20);

    /// What Cassandra says that it did for an unlogged batch of these rows, whatever their partitions.
    async fn trace(store: &Cassandra, rows: Vec<Row>) -> Vec<String> {
        let (mut batch, values) = store.batch(writes(rows), 5);
        batch.set_tracing(true);
        let result = store.session.batch(&batch, values).await.expect("stored");
        let id = result.tracing_id().expect("traced");
        // Cassandra writes what it did down later, in parts: all is there when both tables are, and nothing more comes.
        let until = Instant::now() + TOLD;
        let mut before = Vec::new();
        loop {
            let trace = store.session.get_tracing_info(&id).await.expect("a trace");
            let told: Vec<String> = trace.events.into_iter().filter_map(|event| event.activity).collect();
            let is_all = ["to messages memtable", "to sends memtable"].iter().all(|what| count(&told, what) > 0);
            if is_all && told == before {
                return told;
            }
            assert!(Instant::now() < until, "not told in time: {told:?}");
            before = told;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn count(trace: &[String], what: &str) -> usize {
        trace.iter().filter(|activity| activity.contains(what)).count()
    }

    #[tokio::test]
    async fn a_message_and_its_key_are_one_entry_of_the_commit_log() {
        let (_, store) = store("commit_log").await;
        let trace_of = async |key_in| trace(&store, message_and_key(1, key_in, 10)).await;
        // On each replica: there is one, unless it was asked for more.
        let counts = |trace: &[String]| {
            ["Appending to commitlog", "to messages memtable", "to sends memtable"].map(|what| count(trace, what))
        };
        let one = trace_of(1).await;
        let [entries, messages, sends] = counts(&one);
        assert!(entries > 0 && entries == messages && entries == sends, "{one:?}");
        // That the trace would tell.
        let two = trace_of(2).await;
        let [entries, messages, sends] = counts(&two);
        assert!(messages > 0 && sends > 0 && entries == messages + sends, "{two:?}");
    }

    #[tokio::test]
    async fn a_large_recovery_is_not_too_large_for_a_batch() {
        let (_, store) = store("large").await;
        let large = 4 << 20;
        store.commit(message_and_key(1, 1, large), 5).await.expect("one mutation has no bound of a batch");
        let (batch, values) = store.batch(writes(message_and_key(1, 2, large)), 5);
        let refused = store.session.batch(&batch, values).await.expect_err("two are bounded").to_string();
        assert!(refused.contains("too large"), "{refused}");
    }
}
