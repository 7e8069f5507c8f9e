//! A real server process, and clients that speak its public protocol.
//!
//! Everything here waits on a condition with a bound ([`BOUND`] unless it says otherwise) and tells, when the bound
//! passes, what it was waiting for and what came instead.

mod binary;
pub mod client;
pub mod collector;
pub mod http;
pub mod mesh;
pub mod poller;
pub mod processes;
pub mod server;
pub mod shards;
pub mod stage;
pub mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use confab_test_servers::Cassandra;

pub use client::{Client, Incoming, Mode};
pub use collector::Collector;
pub use mesh::{Mesh, Shape, Store};
pub use poller::Poller;
pub use processes::{Process, Signal};
pub use server::{Server, command};
pub use stage::Stage;

/// How long anything may take that should be quick. Generous: CI has two busy cores.
pub const BOUND: Duration = Duration::from_secs(15);

/// The run's seed: `CONFAB_SEED`, or a new one. Print it.
///
/// # Panics
/// If `CONFAB_SEED` is set and no number.
#[must_use]
pub fn seed() -> u64 {
    match std::env::var("CONFAB_SEED") {
        Ok(text) => text.trim().parse().unwrap_or_else(|_| panic!("CONFAB_SEED must be a number, not {text:?}")),
        Err(_) => rand::random::<u32>().into(),
    }
}

/// Reads of a Cassandra by table, by its own counters.
///
/// # Errors
/// If they can't be asked for.
pub async fn cassandra_reads(cassandra: &Arc<Cassandra>) -> anyhow::Result<BTreeMap<String, u64>> {
    let cassandra = Arc::clone(cassandra);
    let pattern = "type=Table,keyspace=confab,scope=*,name=ReadLatency";
    tokio::task::spawn_blocking(move || cassandra.counts(pattern)).await?
}

/// Polls `check` every few milliseconds until it gives `Some`.
///
/// # Errors
/// If it doesn't within `bound`.
pub async fn wait_for<T, F>(what: &str, bound: Duration, mut check: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let polled = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(bound, polled).await.map_err(|_| anyhow::anyhow!("waited {bound:?} in vain for: {what}"))
}
