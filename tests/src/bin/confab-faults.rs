//! Runs the fault table, or some of its rows, on three nodes of Cassandra: `cargo xtask faults`. All of it, and the capacity, go
//! to `docs/faults.md`.

#![allow(clippy::print_stdout, reason = "its lines are its progress")]

use anyhow::ensure;
use confab_tests::faults::{Capacity, Cluster, Load, Outcome, Page, Population, Row, Strike, TABLE, measure, row};
use confab_tests::harness::seed;

/// In the place of a row's name: measures what the mesh takes.
const CAPACITY: &str = "capacity";

/// Of the capacity, what the rows take; the issue allows 0.3. At that, with the reconnects of clients that roam, both cores are
/// two thirds busy before anything happens, most of it Cassandra's three nodes: what happens would wait for them.
const SHARE: f64 = 0.2;

/// User ids of a row.
const USERS: usize = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let seed = seed();
    println!("CONFAB_SEED={seed}: Cassandra starts, then two of each role");
    if names == [CAPACITY] {
        let cluster = Cluster::start(3).await?;
        let capacity = capacity(&cluster).await?;
        ensure!(capacity.holds(), "too slow at 70 % of the capacity");
        return Ok(());
    }
    let mut rows: Vec<Row> = if names.is_empty() {
        TABLE.to_vec()
    } else {
        names.iter().map(|name| row(name)).collect::<anyhow::Result<_>>()?
    };
    if rows.iter().all(|row| row.strike != Strike::Nothing) {
        // The others are held against it.
        rows.insert(0, row("baseline")?);
    }
    let mut cluster = Cluster::start(3).await?;
    let known = Capacity::recorded().filter(|_| !names.is_empty());
    let capacity = match known {
        Some(rate) => rate,
        None => capacity(&cluster).await?.rate,
    };
    let rate = f64::from(capacity) * SHARE;
    let outcomes = run(&mut cluster, &rows, rate, seed).await;
    if names.is_empty() {
        let mut page = Page::read();
        page.set_rows(&outcomes, seed, rate, capacity);
        page.write()?;
    }
    let held = |outcome: &Result<Outcome, String>| outcome.as_ref().is_ok_and(Outcome::holds);
    ensure!(outcomes.iter().all(held), "some rows do not hold");
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

/// A row that can't be judged doesn't keep the others from being run.
async fn run(cluster: &mut Cluster, rows: &[Row], rate: f64, seed: u64) -> Vec<Result<Outcome, String>> {
    let mut outcomes = Vec::new();
    let mut baseline = None;
    for (row, first) in rows.iter().zip((USERS as u64..).step_by(USERS)) {
        println!("{} …", row.name);
        let load = Load { population: Population::FULL, messages: row.messages, rate };
        let outcome = cluster.run(*row, load, seed, first, baseline).await;
        match &outcome {
            Ok(outcome) => {
                if row.strike == Strike::Nothing {
                    baseline = Some(outcome.figures.spared);
                }
                println!("{outcome}{}", if outcome.holds() { "" } else { ": DOES NOT HOLD" });
                if !outcome.report.is_clean() {
                    println!("{}", outcome.report);
                }
            }
            Err(error) => println!("{}: {error:#}", row.name),
        }
        outcomes.push(outcome.map_err(|error| format!("{}: {error:#}", row.name)));
    }
    outcomes
}
