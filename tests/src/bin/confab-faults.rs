//! Runs the fault table, or some of its rows, on three nodes of Cassandra, and writes `docs/faults.md`: `cargo xtask faults`.

#![allow(clippy::print_stdout, reason = "its lines are its progress")]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use confab_tests::faults::{Cluster, Load, Outcome, Row, Strike, TABLE, row};
use confab_tests::harness::seed;

/// Of the rows that befall an owner of chats, and of the others.
const OWNERS: Load = Load { messages: 20_000, lasts: Duration::from_secs(60) };
const OTHERS: Load = Load { messages: 5_000, lasts: Duration::from_secs(40) };

/// User ids of a row.
const USERS: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let rows: Vec<Row> = if names.is_empty() {
        TABLE.to_vec()
    } else {
        names.iter().map(|name| row(name)).collect::<anyhow::Result<_>>()?
    };
    let seed = seed();
    println!("CONFAB_SEED={seed}: {} rows; Cassandra starts, then two of each role", rows.len());
    let mut cluster = Cluster::start(3).await?;
    let mut outcomes = Vec::new();
    for (row, first) in rows.into_iter().zip((1..).step_by(USERS)) {
        println!("{} …", row.name);
        let outcome = cluster.run(row, load(row.strike), seed, first).await?;
        println!("{outcome}{}", if outcome.holds() { "" } else { ": DOES NOT HOLD" });
        if !outcome.report.is_clean() {
            println!("{}", outcome.report);
        }
        outcomes.push(outcome);
    }
    if names.is_empty() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
        std::fs::write(path, page(&outcomes, seed)?)?;
    }
    ensure!(outcomes.iter().all(Outcome::holds), "some rows do not hold");
    Ok(())
}

fn load(strike: Strike) -> Load {
    match strike {
        Strike::Kill("message-svc-0") | Strike::Freeze("message-svc-1", _) => OWNERS,
        _ => OTHERS,
    }
}

fn page(outcomes: &[Outcome], seed: u64) -> Result<String, std::fmt::Error> {
    let mut page = format!(
        "# Faults\n\nWhat `cargo xtask faults` saw last: two of each role over mutual TLS on three nodes of Cassandra, all on one \
         machine; 16 groups of 6, each member in a connection that drops at random. CONFAB_SEED={seed}.\n\n\
         | what happens | acked | lost, doubled, out of order | a chat's longest stall, s | at most, s | connects | holds |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for outcome in outcomes {
        let Outcome { row, report, stalled, reconnects, .. } = outcome;
        writeln!(
            page,
            "| {} | {} | {} | {:.1} | {} | {reconnects} | {} |",
            row.name,
            report.counts.acked,
            report.violation_count,
            stalled.as_secs_f64(),
            row.within.as_secs(),
            if outcome.holds() { "yes" } else { "no" }
        )?;
    }
    Ok(page)
}
