//! Runs the fault table, or some of its rows, on three nodes of Cassandra: `cargo xtask faults`. What comes of each goes
//! to `docs/faults.md` when it is over.

#![allow(clippy::print_stdout, reason = "its lines are its progress")]

use anyhow::ensure;
use confab_tests::faults::{
    BASELINE, Capacity, Cluster, Load, Outcome, Page, Population, Row, SHARE, Strike, TABLE, measure, row,
};
use confab_tests::harness::seed;

/// In the place of a row's name: measures what the mesh takes, before the rows.
const CAPACITY: &str = "capacity";

/// User ids of a row.
const USERS: usize = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let seed = seed();
    println!("CONFAB_SEED={seed}: Cassandra starts, then two of each role");
    let rows: Vec<Row> = if names.is_empty() {
        TABLE.to_vec()
    } else {
        names.iter().filter(|name| *name != CAPACITY).map(|name| row(name)).collect::<anyhow::Result<_>>()?
    };
    let measures = names.is_empty() || names.iter().any(|name| name == CAPACITY);
    let mut cluster = Cluster::start(3).await?;
    let (capacity, is_fast_enough) = match Capacity::recorded().filter(|_| !measures) {
        Some(rate) => (rate, true),
        None => {
            let capacity = capacity(&cluster).await?;
            (capacity.rate, capacity.holds())
        }
    };
    let all_hold = run(&mut cluster, &rows, capacity, seed).await?;
    ensure!(is_fast_enough, "too slow at 70 % of the capacity");
    ensure!(all_hold, "some rows do not hold");
    Ok(())
}

/// Measured, kept for single rows, and written down.
async fn capacity(cluster: &Cluster) -> anyhow::Result<Capacity> {
    println!("capacity …");
    let capacity = measure(cluster.mesh(), Population::FULL, 1, |step| println!("  {step}")).await?;
    println!("capacity: {} messages/s", capacity.rate);
    capacity.keep()?;
    let mut page = Page::read();
    page.set_capacity(&capacity, Population::FULL);
    page.write()?;
    Ok(capacity)
}

/// Whether all hold. A row that can't be judged doesn't keep the others from being run. `capacity`: messages/s.
async fn run(cluster: &mut Cluster, rows: &[Row], capacity: u32, seed: u64) -> anyhow::Result<bool> {
    let rate = f64::from(capacity) * SHARE;
    let mut all_hold = true;
    let mut users = (USERS as u64..).step_by(USERS);
    let mut first = || users.next().unwrap_or(u64::MAX);
    for row in rows {
        let load = Load { population: Population::FULL, messages: row.messages, rate };
        if cluster.wants_baseline(*row) {
            println!("{}, for {} …", BASELINE.name, row.name);
            let short = Load { messages: BASELINE.messages, ..load };
            let outcome = cluster.run_baseline(*row, short, seed, first()).await;
            all_hold &= judge(&BASELINE, outcome, seed, capacity)?;
        }
        println!("{} …", row.name);
        let outcome = match row.strike {
            Strike::Nothing => cluster.run_baseline(*row, load, seed, first()).await,
            _ => cluster.run(*row, load, seed, first()).await,
        };
        all_hold &= judge(row, outcome, seed, capacity)?;
    }
    Ok(all_hold)
}

/// Says and writes down what came of a row, and whether it holds.
fn judge(row: &Row, outcome: anyhow::Result<Outcome>, seed: u64, capacity: u32) -> anyhow::Result<bool> {
    match &outcome {
        Ok(outcome) => {
            println!("{outcome}{}", if outcome.holds() { "" } else { ": DOES NOT HOLD" });
            if !outcome.report.is_clean() {
                println!("{}", outcome.report);
            }
        }
        Err(error) => println!("{}: {error:#}", row.name),
    }
    let holds = outcome.as_ref().is_ok_and(Outcome::holds);
    let mut page = Page::read();
    page.set_row(row, &outcome.map_err(|error| format!("{error:#}")), seed, capacity);
    page.write()?;
    Ok(holds)
}
