//! Leases, the shard map and chat ids: lightweight transactions. Whatever error one ends with, it may have been applied, or
//! may yet be by the next transaction on its partition: that is [`Swapped::Unknown`].
//!
//! Observations are plain reads at `LOCAL_QUORUM`, and need no serial ones (four rounds, and a lock on what is renewed): a
//! confirmed change was committed at `LOCAL_QUORUM`, so they see it. They may miss one whose outcome nobody was told. Of a
//! lease, its holder counts that as failed, and whoever would mark it as dead is refused, since its transaction completes the
//! renewal first. Of the map, the next swap on it completes and returns it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use confab_ids::NUMBER_LIMIT;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use uuid::Uuid;

use super::{Cassandra, big, failed, map};
use crate::core::ownership::lease::{Incarnation, LeaseRow, Standing, Swapped};
use crate::core::ownership::map::ShardMap;
use crate::store::{Ledger, StoreError};

/// Partitions that leases are spread over.
const LEASE_BUCKETS: i32 = 16;

/// Tries for a block of ids: each that fails means that another got one.
const ID_TRIES: usize = 32;

const DEAD: i32 = 2;

/// What a transaction returned: the columns of the row that was there, if it was refused.
pub(super) struct Answer {
    pub(super) applied: bool,
    columns: HashMap<String, CqlValue>,
}

impl Answer {
    fn text(&self, column: &str) -> Option<String> {
        self.columns.get(column)?.as_text().cloned()
    }

    fn big(&self, column: &str) -> Option<i64> {
        self.columns.get(column)?.as_bigint()
    }

    fn int(&self, column: &str) -> Option<i32> {
        self.columns.get(column)?.as_int()
    }

    fn lease(&self, incarnation: Incarnation) -> Option<LeaseRow> {
        Some(LeaseRow {
            incarnation,
            addr: self.text("addr")?,
            counter: self.big("counter")?.cast_unsigned(),
            hi: self.big("hi")?,
            standing: standing(self.int("standing")?),
        })
    }

    fn map(&self) -> Result<ShardMap, StoreError> {
        let version = self.big("version").unwrap_or_default().cast_unsigned();
        match self.columns.get("map").and_then(CqlValue::as_blob) {
            Some(bytes) => map::decoded(version, bytes),
            None => Ok(ShardMap::default()),
        }
    }
}

impl Cassandra {
    pub(super) async fn swap(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send,
    ) -> Result<Answer, StoreError> {
        let result = self.session.execute_unpaged(statement, values).await.map_err(failed)?;
        let rows = result.into_rows_result().map_err(failed)?;
        let names: Vec<String> = rows.column_specs().iter().map(|spec| spec.name().to_owned()).collect();
        let row: Row = rows.single_row().map_err(failed)?;
        let named = names.into_iter().zip(row.columns);
        let mut columns: HashMap<String, CqlValue> = named.filter_map(|(name, value)| Some((name, value?))).collect();
        match columns.remove("[applied]") {
            Some(CqlValue::Boolean(applied)) => Ok(Answer { applied, columns }),
            _ => Err(failed("an answer that doesn't say whether it was applied")),
        }
    }

    async fn newer_map(&self, known: u64) -> Result<Option<Arc<ShardMap>>, StoreError> {
        let version: Option<(i64,)> = self.row(&self.statements.map_version, ()).await?;
        if version.is_none_or(|(version,)| version.cast_unsigned() <= known) {
            return Ok(None);
        }
        let row: Option<(i64, Bytes)> = self.row(&self.statements.map, ()).await?;
        row.map(|(version, bytes)| Ok(Arc::new(map::decoded(version.cast_unsigned(), &bytes)?))).transpose()
    }

    /// One try; `None`: another got these.
    async fn try_ids(&self, count: u64) -> Result<Option<u64>, StoreError> {
        let row: Option<(i64,)> = self.row(&self.statements.ids, ()).await?;
        let first = row.map_or(1, |(next,)| next.cast_unsigned());
        let next = first.saturating_add(count);
        if next > NUMBER_LIMIT {
            return Err(StoreError("all chat ids are given out".into()));
        }
        let answer = match row {
            None => self.swap(&self.statements.ids_first, (big(next),)).await?,
            Some((before,)) => self.swap(&self.statements.ids_next, (big(next), before)).await?,
        };
        Ok(answer.applied.then_some(first))
    }
}

impl Ledger for Cassandra {
    async fn renew(&self, row: LeaseRow) -> Swapped<Option<LeaseRow>> {
        let incarnation = row.incarnation;
        let set = (row.addr, big(row.counter), row.hi, number(row.standing));
        let (bucket, name) = key_of(incarnation);
        let answer = if row.counter == 1 {
            self.swap(&self.statements.renew_first, (set.0, set.1, set.2, set.3, bucket, name)).await
        } else {
            let values = (set.0, set.1, set.2, set.3, bucket, name, set.1, DEAD);
            self.swap(&self.statements.renew, values).await
        };
        match answer {
            Ok(answer) if answer.applied => Swapped::Applied,
            Ok(answer) => Swapped::Refused(answer.lease(incarnation)),
            Err(error) => unknown("a lease's renewal", &error),
        }
    }

    async fn observe(&self, known: u64) -> Result<(Vec<LeaseRow>, Option<Arc<ShardMap>>), StoreError> {
        let buckets: Vec<i32> = (0..LEASE_BUCKETS).collect();
        let rows = self.rows::<(Uuid, String, i64, i64, i32)>(&self.statements.leases, (buckets,));
        let (rows, map) = futures_util::future::try_join(rows, self.newer_map(known)).await?;
        let leases = rows.into_iter().map(|(name, addr, counter, hi, at)| LeaseRow {
            incarnation: Incarnation(name.as_u128()),
            addr,
            counter: counter.cast_unsigned(),
            hi,
            standing: standing(at),
        });
        Ok((leases.collect(), map))
    }

    async fn mark_dead(&self, incarnation: Incarnation, counter: u64) {
        let (bucket, name) = key_of(incarnation);
        if let Err(error) = self.swap(&self.statements.mark_dead, (DEAD, bucket, name, big(counter))).await {
            tracing::warn!(%error, ?incarnation, "whether a lease was marked as dead is not known");
        }
    }

    async fn purge(&self, incarnation: Incarnation) {
        let (bucket, name) = key_of(incarnation);
        if let Err(error) = self.swap(&self.statements.purge, (bucket, name, DEAD)).await {
            tracing::warn!(%error, ?incarnation, "whether the row of a lease was removed is not known");
        }
    }

    async fn swap_map(&self, map: Arc<ShardMap>) -> Swapped<Arc<ShardMap>> {
        let bytes = Bytes::from(map::encoded(&map));
        let version = big(map.version);
        let answer = match map.version {
            0 | 1 => self.swap(&self.statements.map_first, (version, bytes)).await,
            _ => self.swap(&self.statements.map_swap, (version, bytes, version - 1)).await,
        };
        let outcome = answer.and_then(|answer| {
            Ok(if answer.applied { Swapped::Applied } else { Swapped::Refused(Arc::new(answer.map()?)) })
        });
        outcome.unwrap_or_else(|error| unknown("a swap of the shard map", &error))
    }

    /// Ids of a try whose outcome is not known are nobody's.
    async fn take_chat_ids(&self, count: u64) -> Result<u64, StoreError> {
        let mut last = failed("too many take chat ids at once");
        for _ in 0..ID_TRIES {
            match self.try_ids(count).await {
                Ok(Some(first)) => return Ok(first),
                Ok(None) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn unknown<T>(what: &str, error: &StoreError) -> Swapped<T> {
    tracing::warn!(%error, "what became of {what} is not known");
    Swapped::Unknown
}

fn key_of(incarnation: Incarnation) -> (i32, Uuid) {
    let bucket = i32::try_from(incarnation.0 % LEASE_BUCKETS.unsigned_abs() as u128).unwrap_or_default();
    (bucket, Uuid::from_u128(incarnation.0))
}

fn number(standing: Standing) -> i32 {
    match standing {
        Standing::Serving => 0,
        Standing::Draining => 1,
        Standing::Dead => DEAD,
    }
}

/// What is not known, of a newer version, is not to be given shards.
fn standing(number: i32) -> Standing {
    match number {
        0 => Standing::Serving,
        DEAD => Standing::Dead,
        _ => Standing::Draining,
    }
}
