//! The control of the fault table, on one node of Cassandra: `cargo xtask faults held-write`.

#![allow(clippy::print_stdout, reason = "its lines are its result")]

use anyhow::ensure;
use confab_test_servers::Cassandra;
use confab_tests::harness::{Store, seed};
use confab_tests::held_write::{self, Seen};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seed = seed();
    println!("CONFAB_SEED={seed}");
    let cassandra = tokio::task::spawn_blocking(|| Cassandra::start(1)).await??;
    for (fenced, keyspace, first) in [(true, "fenced", 1), (false, "unfenced", 1_001)] {
        let store = Store { keyspace: keyspace.to_owned(), ..Store::plain(cassandra.points()) };
        let Seen { report, arrived } = held_write::run(store, fenced, seed, first).await?;
        println!("{keyspace}: {arrived} writes of an owner arrived after its lease; {report}");
        ensure!(report.is_clean() == fenced, "{keyspace}: {} violations", report.violation_count);
    }
    println!("fenced, nothing is broken; with fencing off, the checker sees it");
    Ok(())
}
