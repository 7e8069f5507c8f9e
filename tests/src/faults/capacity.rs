//! How much of the rows' load a mesh takes, and how fast it is at 70 % of that.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use confab_bench::client::Endpoint;
use confab_bench::mix::{self, Mix, MixStep};
use confab_bench::search::RateSearch;
use confab_bench::token::Signer;

use super::load::Population;
use crate::harness::Mesh;

/// Where the search begins, messages per second.
const START: u32 = 50;
/// It ends when a rate that didn't hold is at most this many times one that did.
const PRECISION: f64 = 1.1;
/// A rate has failed when it did not hold so many times.
const TRIES: u32 = 2;
/// Of a step of the search, seconds.
const STEP_S: u32 = 10;
/// Of the step at 70 %, seconds.
const HOLD_S: u32 = 60;

/// What was measured.
pub struct Capacity {
    /// Messages per second, one in ten of them to a group.
    pub rate: u32,
    /// A long step at 70 % of it.
    pub hold: MixStep,
    /// Of the search, one line each.
    pub steps: Vec<String>,
}

impl Capacity {
    /// Whether each message reached its last reader in time at 70 %.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.hold.p99_ms() < mix::HELD_P99_MS && self.hold.tally.refused == 0
    }

    /// What was measured last on this machine, if it was.
    #[must_use]
    pub fn recorded() -> Option<u32> {
        std::fs::read_to_string(record().ok()?).ok()?.trim().parse().ok()
    }

    /// For [`Self::recorded`].
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(record()?, format!("{}\n", self.rate))?)
    }
}

/// Beside the program, for another machine has another capacity, as has another build.
fn record() -> anyhow::Result<PathBuf> {
    Ok(crate::harness::server::program()?.with_file_name("faults-capacity"))
}

/// Doubles, then bisects, then holds 70 % of the best; tells `note` each step. Users are `first` and those after it.
///
/// # Errors
/// If the mesh loses, doubles or reorders something, or doesn't get through with a step.
pub async fn measure(
    mesh: &Mesh,
    population: Population,
    first: u64,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Capacity> {
    let signer = Arc::new(Signer::read(mesh.folder())?);
    let endpoints: Vec<Endpoint> =
        (0..2).map(|at| Endpoint { addr: mesh.edge(at), signer: Some(Arc::clone(&signer)) }).collect();
    let count = |n: usize| u32::try_from(n).context("too many");
    let population = mix::Population {
        first_user: first,
        pairs: count(population.pairs)?,
        groups: count(population.groups)?,
        members: count(population.members)?,
    };
    let load = Mix::connect(&endpoints, population).await?;
    // Cassandra compiles what it runs often.
    load.step(START, 2 * STEP_S).await.context("the warm-up")?;
    let mut search = RateSearch::new(START, PRECISION, TRIES);
    let mut steps = Vec::new();
    while let Some(rate) = search.rate() {
        let step = load.step(rate, STEP_S).await?;
        let line = format!("{}: {}", if step.held() { "held" } else { "not held" }, step.describe());
        note(&line);
        steps.push(line);
        search.record(step.held());
    }
    let rate = search.best().context("not even 10 messages/s held")?;
    let hold = load.step(rate * 7 / 10, HOLD_S).await.context("the long step")?;
    note(&hold.describe());
    Ok(Capacity { rate, hold, steps })
}
