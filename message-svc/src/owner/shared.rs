//! What an owner among others does with the store: leases and the map, blocks of ids, and writes that are tried until they
//! are stored or not wanted any more.

use std::sync::Arc;
use std::time::Duration;

use confab_ids::ChatId;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::core::chat_ids::BLOCK_IDS;
use crate::core::owner::{Answered, Write};
use crate::core::ownership::Ask;
use crate::core::ownership::lease::{Incarnation, LeaseRow, Swapped};
use crate::core::ownership::map::ShardMap;
use crate::others::Others;
use crate::store::{Ledger, Row, Store, StoreError};

/// A compare-and-set that has no answer by then has an unknown outcome. Below a lease's third, so that it can be tried again.
const SWAP_MAX: Duration = Duration::from_millis(1_800);

/// Reading all leases and the map.
const OBSERVE_MAX: Duration = Duration::from_secs(3);

/// One try of a write. The next one writes the same with the same timestamp, so both may be stored.
const TRY_MAX: Duration = Duration::from_secs(3);

const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The place of an owner among others.
#[derive(Clone, Debug)]
pub(crate) struct Place<L> {
    pub ledger: L,
    /// Where this instance is called.
    pub addr: String,
    pub others: Arc<Others>,
}

pub(super) fn new_incarnation() -> Incarnation {
    Incarnation(Uuid::new_v4().as_u128())
}

pub(super) async fn ask(ledger: &impl Ledger, ask: Ask) -> Answered {
    match ask {
        #[cfg(feature = "failpoints")]
        Ask::Renew(row) if super::failpoints::is_holding() => {
            super::failpoints::released().await;
            Answered::Renewed(ledger.renew(row).await)
        }
        Ask::Renew(row) => Answered::Renewed(timeout(SWAP_MAX, ledger.renew(row)).await.unwrap_or(Swapped::Unknown)),
        Ask::Observe { known } => match timeout(OBSERVE_MAX, ledger.observe(known)).await {
            Ok(Ok((leases, map))) => Answered::Observed { leases, map },
            Ok(Err(error)) => {
                tracing::warn!(%error, "leases and shard map could not be read");
                Answered::Unobserved
            }
            Err(_) => Answered::Unobserved,
        },
        Ask::MarkDead { incarnation, counter } => {
            let _in_time = timeout(SWAP_MAX, ledger.mark_dead(incarnation, counter)).await;
            Answered::MarkedDead
        }
        Ask::Purge(incarnation) => {
            let _in_time = timeout(SWAP_MAX, ledger.purge(incarnation)).await;
            Answered::Purged
        }
        Ask::SwapMap(map) => {
            Answered::Swapped(timeout(SWAP_MAX, ledger.swap_map(map)).await.unwrap_or(Swapped::Unknown))
        }
    }
}

pub(super) async fn take_ids(ledger: &impl Ledger) -> Option<u64> {
    match timeout(OBSERVE_MAX, ledger.take_chat_ids(BLOCK_IDS)).await {
        Ok(Ok(first)) => Some(first),
        Ok(Err(error)) => {
            tracing::warn!(%error, "no block of chat ids could be taken");
            None
        }
        Err(_) => None,
    }
}

/// Writes until it is stored; whoever wants it no more aborts it. How often it is tried is bounded by the owner's lease: when
/// it can't be renewed, all is dropped.
pub(super) async fn write(store: impl Store, write: Write) -> u64 {
    let Write { number, stamp, rows } = write;
    let mut pause = BACKOFF.0;
    loop {
        #[cfg(feature = "failpoints")]
        super::failpoints::released().await;
        let stored = timeout(TRY_MAX, store.commit(rows.clone(), stamp)).await;
        match stored {
            Ok(Ok(())) => return number,
            Ok(Err(error)) => {
                let chat = rows.first().map_or(ChatId(0), Row::chat);
                tracing::warn!(%error, %chat, "a write failed, and is tried again");
            }
            Err(_) => tracing::warn!("a write is late, and is tried again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Of a store without other owners: there is no value of it.
#[derive(Clone, Debug)]
pub(crate) enum NoLedger {}

impl Ledger for NoLedger {
    async fn renew(&self, _row: LeaseRow) -> Swapped<Option<LeaseRow>> {
        match *self {}
    }

    async fn observe(&self, _known: u64) -> Result<(Vec<LeaseRow>, Option<Arc<ShardMap>>), StoreError> {
        match *self {}
    }

    async fn mark_dead(&self, _incarnation: Incarnation, _counter: u64) {
        match *self {}
    }

    async fn purge(&self, _incarnation: Incarnation) {
        match *self {}
    }

    async fn swap_map(&self, _map: Arc<ShardMap>) -> Swapped<Arc<ShardMap>> {
        match *self {}
    }

    async fn take_chat_ids(&self, _count: u64) -> Result<u64, StoreError> {
        match *self {}
    }
}
