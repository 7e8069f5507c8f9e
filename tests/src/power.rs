//! Power cuts: a store runs on a [`LossyFs`] until the power is cut, is opened again on what is left, and everything
//! that it had acked must be there.

pub mod append_log;
pub mod program;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use crate::lossy_fs::LossyFs;

/// What a store acked, or has: key → content. A key is the store's own name for the thing.
pub type Items = BTreeMap<String, String>;

/// A store under test.
pub trait Workload {
    /// Opens the store in `dir` (empty the first time), writes and notes in `acked` each thing that is acked, until
    /// `cut` turns true; then ends everything that has files open in `dir`. That the store fails to open or to write
    /// *after* the cut is no error.
    fn run_until_cut(
        &mut self,
        dir: &Path,
        cut: watch::Receiver<bool>,
        acked: &mut Items,
    ) -> impl Future<Output = anyhow::Result<()>>;

    /// Opens the store on what a cut left in `dir` (a real folder), reads everything, and closes it.
    fn recovered(&mut self, dir: &Path) -> impl Future<Output = anyhow::Result<Items>>;
}

/// How to cut.
#[derive(Clone, Copy, Debug)]
pub struct Cuts {
    pub seed: u64,
    /// How many cuts.
    pub points: u32,
    /// A fresh folder is begun after so many cuts; before that, each run goes on from what the last cut left.
    pub chain: u32,
    /// The cut comes at a random operation from 1 to this one, in a fresh folder …
    pub fresh_ops_max: u64,
    /// … and in a folder that was cut before.
    pub ops_max: u64,
}

/// What the cuts showed.
#[derive(Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    pub points: u32,
    /// Distinct things acked.
    pub acked: usize,
    /// Cuts after which something acked was missing or changed.
    pub bad_points: u32,
    pub missing: usize,
    pub changed: usize,
    /// Unsynced changes of data and names that the cuts took.
    pub lost_ops: u64,
    /// Operations and syncs that the disk saw.
    pub ops: u64,
    pub file_syncs: u64,
    pub dir_syncs: u64,
    pub elapsed: Duration,
    /// The first violations in words.
    pub words: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "CONFAB_SEED={}: {} cuts in {:.1?}, {} acked, {} operations ({} file syncs, {} folder syncs), {} unsynced \
             changes lost: {} missing and {} changed after {} of the cuts",
            self.seed,
            self.points,
            self.elapsed,
            self.acked,
            self.ops,
            self.file_syncs,
            self.dir_syncs,
            self.lost_ops,
            self.missing,
            self.changed,
            self.bad_points,
        )?;
        self.words.iter().try_for_each(|words| write!(f, "\n  - {words}"))
    }
}

/// Cuts the power `cuts.points` times and compares, after each, what was acked with what is there.
///
/// # Errors
/// If FUSE doesn't work here, or the store doesn't open after a cut.
pub async fn cut_and_compare(workload: &mut impl Workload, cuts: Cuts) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut rng = StdRng::seed_from_u64(cuts.seed);
    let mut outcome = Outcome { seed: cuts.seed, ..Outcome::default() };
    let mut folder = tempfile::tempdir()?;
    let mut acked = Items::new();
    for point in 0..cuts.points {
        let link = point % cuts.chain;
        if link == 0 {
            outcome.acked += acked.len();
            acked.clear();
            folder = tempfile::tempdir()?;
        }
        let last = folder.path().join(format!("left-{link}"));
        let next = folder.path().join(format!("left-{}", link + 1));
        let from = (link > 0).then_some(last.as_path());
        let disk = LossyFs::mount(&folder.path().join(format!("mnt-{link}")), from, rng.random())?;
        let at = rng.random_range(1..=if link == 0 { cuts.fresh_ops_max } else { cuts.ops_max });
        disk.arm(at);
        let place =
            || format!("cut {point} (number {link} of its folder, at operation {at}, CONFAB_SEED={})", cuts.seed);
        let path = disk.path().to_owned();
        workload.run_until_cut(&path, disk.watch_cut(), &mut acked).await.with_context(place)?;
        let counts = disk.counts();
        let left = disk.materialise(&next)?;
        outcome.ops += counts.ops;
        outcome.file_syncs += counts.file_syncs;
        outcome.dir_syncs += counts.dir_syncs;
        outcome.lost_ops += left.data_lost + left.names_lost;
        let recovered = workload
            .recovered(&next)
            .await
            .with_context(|| format!("opening after {}, names lost: {:?}", place(), left.lost_names))?;
        compare(&acked, &recovered, &format!("{}, names lost: {:?}", place(), left.lost_names), &mut outcome);
        // Go on from what is really there, so that one loss isn't counted again.
        acked.retain(|key, content| recovered.get(key) == Some(content));
        outcome.points += 1;
    }
    outcome.acked += acked.len();
    outcome.elapsed = begun.elapsed();
    Ok(outcome)
}

fn compare(acked: &Items, recovered: &Items, place: &str, outcome: &mut Outcome) {
    let missing: Vec<&String> = acked.keys().filter(|key| !recovered.contains_key(*key)).collect();
    let changed: Vec<&String> = acked
        .iter()
        .filter(|(key, content)| recovered.get(*key).is_some_and(|there| there != *content))
        .map(|(key, _)| key)
        .collect();
    outcome.missing += missing.len();
    outcome.changed += changed.len();
    if missing.is_empty() && changed.is_empty() {
        return;
    }
    outcome.bad_points += 1;
    if outcome.words.len() < 10 {
        let some = |keys: &[&String]| keys.iter().take(3).map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
        outcome.words.push(format!(
            "{place}: of {} acked, {} missing ({}), {} changed ({})",
            acked.len(),
            missing.len(),
            some(&missing),
            changed.len(),
            some(&changed)
        ));
    }
}
