//! Thousands of users who come and go, each watched by others: whether messages are held up by that.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use crate::flapping::{Counts, Flapping, Shape};
use crate::lab::Lab;
use crate::pairs::{Pairs, Step};
use crate::recorder::Latencies;
use crate::report::{Figure, Report};

/// Messages/s of the pairs: of what two cores sustain less than a tenth, so that the latency is the server's and not a queue's.
const RATE: u32 = 2000;
/// A message may take so many times as long beside them, at p99.
const RATIO_MAX: f64 = 1.3;
/// Users who flap have ids from here on, far from the pairs'.
const FIRST_USER: u64 = 100_000;
/// Who is away for longer than 10 s is told to be offline, a bit later: so long nothing is as it was before.
const HALF_PERIOD: Duration = Duration::from_secs(11);
/// Of the changes that were due, so many have to be seen by their watchers, or nothing was measured.
const SEEN_MIN: f64 = 0.8;

/// All steps with, or all without, that come and go.
struct Side {
    delivery: Latencies,
    ack: Latencies,
    /// Of each step, the deliveries' p99 in ms.
    each: Vec<f64>,
    cpu_micros: u64,
    seconds: u32,
}

/// Runs it: the same load with and without, in turn on the same server.
pub async fn run(lab: &Lab) -> Result<Report> {
    let (rounds, seconds) = lab.pick((4, 12), (1, 2));
    let full = Shape { groups: 25, flapping: 200, watching: 8, first_user: FIRST_USER, half_period: HALF_PERIOD };
    let shape = lab.pick(full, Shape { groups: 1, ..full });
    lab.progress.phase(format!("presence: connecting {} users, half of them, and who watches them", shape.users()));
    let server = lab.confab().await?;
    let flapping = Flapping::start(server.endpoint(), shape).await?;
    let pairs = Pairs::confab(server.endpoint(), lab.in_flight_max).await?;
    pairs.step(&server, RATE, 2).await.context("warm-up")?;
    let (mut with, mut without) = (Side::new(), Side::new());
    let mut seen = Counts::default();
    for round in 0..rounds {
        // In turn first and second, so that a machine that gets slower or faster all the time takes no side.
        for on in [round % 2 == 0, round % 2 != 0] {
            flapping.set(on);
            let how = if on { "come and go" } else { "stay as they are" };
            lab.progress.phase(format!("presence: {RATE} messages/s for {seconds} s while they {how}"));
            sleep(HALF_PERIOD + Duration::from_secs(1)).await;
            let before = flapping.counts()?;
            let step = pairs.step(&server, RATE, seconds).await;
            let step = step.with_context(|| format!("while they {how}"))?;
            let after = flapping.counts()?;
            lab.progress.note(format!("  they {how}: {}", step.describe()));
            if on {
                seen.changes += after.changes - before.changes;
                seen.told += after.told - before.told;
                with.add(&step, seconds);
            } else {
                ensure!(after.changes == before.changes, "they did not stay as they are");
                without.add(&step, seconds);
            }
        }
    }
    drop((flapping, pairs));
    server.stop().await?;
    report(shape, &with, &without, seen)
}

impl Side {
    fn new() -> Self {
        Self { delivery: Latencies::new(), ack: Latencies::new(), each: Vec::new(), cpu_micros: 0, seconds: 0 }
    }

    fn add(&mut self, step: &Step, seconds: u32) {
        self.delivery.merge(&step.tally.delivery);
        self.ack.merge(&step.tally.ack);
        self.each.push(step.tally.delivery.ms(0.99));
        self.cpu_micros += step.server_cpu_micros;
        self.seconds += seconds;
    }

    /// Cores that the server kept busy.
    fn cores(&self) -> f64 {
        self.cpu_micros as f64 / 1e6 / f64::from(self.seconds.max(1))
    }

    fn each(&self) -> String {
        self.each.iter().map(|ms| format!("{ms:.1}")).collect::<Vec<_>>().join(", ")
    }
}

fn report(shape: Shape, with: &Side, without: &Side, seen: Counts) -> Result<Report> {
    // Each change is told to all who watch.
    let due = seen.changes * shape.watching;
    let share = seen.told as f64 / due.max(1) as f64;
    let seconds = f64::from(with.seconds.max(1));
    ensure!(seen.changes as f64 >= SEEN_MIN * shape.changes_per_second() * seconds, "only {seen:?} in {seconds} s");
    let mut report = Report::default();
    let ratio = |of: fn(&Side) -> &Latencies| of(with).ms(0.99) / of(without).ms(0.99).max(0.001);
    for (what, of) in [("delivery", (|side| &side.delivery) as fn(&Side) -> &Latencies), ("ack", |side| &side.ack)] {
        report.figures.push(
            Figure::new(
                format!("{what} at {RATE} /s beside {} users who come and go", shape.users()),
                format!("p50 {:.1}, p99 {:.1} ms", of(with).ms(0.5), of(with).ms(0.99)),
            )
            .against(format!("the same run without p99 {:.1} ms", of(without).ms(0.99)), ratio(of))
            .must(format!("p99 ≤ {RATIO_MAX} × without, {SEEN_MIN} of the changes seen"), {
                ratio(of) <= RATIO_MAX && share >= SEEN_MIN
            }),
        );
    }
    report.notes.push(format!(
        "Presence: {} users in groups of {}, each {} s connected and {} s away, so that they count as offline each time; {:.0} \
         connections a second made or closed, and {:.0} presence frames a second to {} watchers of a group each, {:.0} % of one \
         for each change. In turn they come and go, and stay as they are, after {} s in which this begins or comes to rest. \
         Deliveries' p99 by turn: {} ms with, {} without. Cores for the server: {:.2} with, {:.2} without.",
        shape.users(),
        shape.flapping,
        shape.half_period.as_secs(),
        shape.half_period.as_secs(),
        seen.changes as f64 / seconds,
        seen.told as f64 / seconds,
        shape.groups * shape.watching,
        share * 100.0,
        HALF_PERIOD.as_secs() + 1,
        with.each(),
        without.each(),
        with.cores(),
        without.cores(),
    ));
    Ok(report)
}
