//! Runs a row: the load, what happens meanwhile, and what came of it.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use confab_test_servers::Cassandra;

use super::load::Load;
use super::paths::{Paths, Struck};
use super::strikes;
use super::table::{BASELINE, Row, Strike};
use super::watching::{Figures, Spread, figures};
use super::wiring::{self, Wired, Wiring};
use crate::checker::{History, Report};
use crate::harness::{Mesh, Store};
use crate::roam::{Field, roam_timed};

/// How long a row may take beyond what its sending takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// Of the messages, the strike comes after this part: everybody is there and has caught up.
const BEFORE: f64 = 0.2;

/// Where nobody who is struck has a part in the way, at most so many times the baseline.
pub(super) const P50_TIMES: f64 = 1.5;
pub(super) const P99_TIMES: f64 = 3.0;

/// A baseline counts for rows on the same mesh that begin no later than so: within an hour a machine can become half as fast again.
const BASELINE_MAX: Duration = Duration::from_secs(600);

/// What came of a row.
pub struct Outcome {
    pub row: Row,
    pub report: Report,
    pub figures: Figures,
    /// Of the last baseline on this mesh, if it had one.
    pub baseline: Option<Spread>,
    pub took: Duration,
}

impl Outcome {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.report.is_clean() && self.figures.stalled() <= self.row.within && self.spared_holds()
    }

    /// Whether who was spared hardly felt it. True where nobody was spared, or nothing is known to compare with.
    #[must_use]
    pub fn spared_holds(&self) -> bool {
        let spared = self.figures.spared;
        self.baseline.is_none_or(|baseline| {
            spared.count == 0
                || spared.p50_ms <= P50_TIMES * baseline.p50_ms && spared.p99_ms <= P99_TIMES * baseline.p99_ms
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, report, figures, took, .. } = self;
        let Spread { count, p50_ms, p99_ms } = figures.spared;
        write!(
            f,
            "{}: {} acked, {} violations, acked after {:.1} s (sent at {:.1} s), read after {:.1} s (sent at {:.1} s, {}; at most {} s), success {:.2} %, spared p50 \
             {p50_ms:.0} p99 {p99_ms:.0} ms of {count} (slow ones by second {:?}; others {:.0}, {:.0} of {}), {} connects, {} breaks, {:?}, {:.0} s",
            row.name,
            report.counts.acked,
            report.violation_count,
            figures.acked_after.as_secs_f64(),
            figures.slowest_at.as_secs_f64(),
            figures.read_after.as_secs_f64(),
            figures.read_slowest_at.as_secs_f64(),
            if figures.read_slowest_caught_up { "by catching up" } else { "on a connection that was there" },
            row.within.as_secs(),
            figures.success() * 100.0,
            figures.spared_slow,
            figures.hit.p50_ms,
            figures.hit.p99_ms,
            figures.hit.count,
            figures.connects,
            figures.breaks,
            figures.refusals,
            took.as_secs_f64()
        )
    }
}

/// A mesh of two of each role on a Cassandra.
pub struct Cluster {
    wiring: Wiring,
    wired: Wired,
    cassandra: Cassandra,
    is_root: bool,
    meshes: u32,
    /// What the last one on this mesh came to, and when.
    baseline: Option<(Spread, Instant)>,
}

impl Cluster {
    /// # Errors
    /// If something doesn't start.
    pub async fn start(nodes: u32) -> anyhow::Result<Self> {
        let cassandra = tokio::task::spawn_blocking(move || Cassandra::start(nodes)).await??;
        let is_root = std::fs::metadata("/proc/self")?.uid() == 0;
        let wiring = Wiring::Plain;
        let wired = wiring::start(wiring, Store::plain(cassandra.points()), is_root).await?;
        Ok(Self { wiring, wired, cassandra, is_root, meshes: 1, baseline: None })
    }

    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.wired.mesh
    }

    /// Another mesh, if this one isn't what is needed; this one ends before.
    async fn rewire(&mut self, wiring: Wiring) -> anyhow::Result<()> {
        if self.wiring == wiring {
            return Ok(());
        }
        self.wired.mesh.processes.clear();
        let store = Store { keyspace: format!("confab_{}", self.meshes), ..Store::plain(self.cassandra.points()) };
        self.meshes += 1;
        self.wired = wiring::start(wiring, store, self.is_root).await?;
        (self.wiring, self.baseline) = (wiring, None);
        Ok(())
    }

    /// Whether a baseline has to be run before this row: it has one to be held against, and there is none, or an old one.
    #[must_use]
    pub fn wants_baseline(&self, row: Row) -> bool {
        let has_spared = !matches!(row.strike.struck(), Struck::All) && row.strike != Strike::Nothing;
        has_spared && (self.wiring != row.strike.wiring() || self.fresh_baseline().is_none())
    }

    fn fresh_baseline(&self) -> Option<Spread> {
        self.baseline.filter(|(_, at)| at.elapsed() <= BASELINE_MAX).map(|(spread, _)| spread)
    }

    /// Puts the load on the mesh that `of` needs while nothing happens: what `of` is held against.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_baseline(&mut self, of: Row, load: Load, seed: u64, first: u64) -> anyhow::Result<Outcome> {
        self.rewire(of.strike.wiring()).await?;
        let outcome = self.run_here(BASELINE, load, seed, first).await?;
        self.baseline = Some((outcome.figures.spared, Instant::now()));
        Ok(outcome)
    }

    /// Puts the load on while it happens, and judges. `first`: a user id above all that were used before.
    ///
    /// # Errors
    /// If a client can't get through at all.
    pub async fn run(&mut self, row: Row, load: Load, seed: u64, first: u64) -> anyhow::Result<Outcome> {
        self.rewire(row.strike.wiring()).await?;
        self.run_here(row, load, seed, first).await
    }

    async fn run_here(&mut self, row: Row, load: Load, seed: u64, first: u64) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let baseline = self.fresh_baseline().filter(|_| row.strike != Strike::Nothing);
        strikes::prepare(row.strike)?;
        let load = load.for_at_least(row.strike.lasts().mul_f64(1.0 / (1.0 - BEFORE)));
        let talk = load.set_up(&self.wired.mesh, first).await?;
        let paths = Paths::look(&self.wired.mesh, &talk.chats, row.strike.struck()).await?;
        let addrs = [self.wired.mesh.edge(0), self.wired.mesh.edge(1)];
        let field = Arc::new(Field::new(addrs, seed, 1..2, &talk.chats, talk.parts.len()));
        let patience = PATIENCE + load.lasts();
        let start = |part| {
            let field = Arc::clone(&field);
            tokio::spawn(async move { roam_timed(&field, part, patience).await })
        };
        let roamers: Vec<_> = talk.parts.into_iter().map(start).collect();
        // As many as this are far below 2^53.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
        let before = (load.total() as f64 * BEFORE) as u64;
        field.reaches(before, "acks before it happens", patience).await?;
        let struck_at = Instant::now();
        strikes::strike(row.strike, &mut self.wired, &self.cassandra).await?;
        let was_over = field.is_done();
        let (mut history, mut timelines) = (History::new(seed), Vec::new());
        for roamer in roamers {
            let (seen, timeline) = roamer.await??;
            history.absorb(seen);
            timelines.push(timeline);
        }
        let report = history.judge();
        let (acked, total) = (report.counts.acked, load.total());
        strikes::mend(row.strike, &mut self.wired, &self.cassandra).await?;
        ensure!(acked >= total, "only {acked} of {total} acked");
        ensure!(!was_over, "the load was over before what happens was");
        let figures = figures(&timelines, struck_at, |way| paths.is_hit(way));
        Ok(Outcome { row, report, figures, baseline, took: started.elapsed() })
    }
}
