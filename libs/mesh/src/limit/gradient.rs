//! How many unary calls may be under way at once.
//!
//! The gradient algorithm of Envoy's adaptive concurrency filter and Netflix's concurrency-limits (`Gradient2`), with
//! these differences:
//! - Latency is compared per method, so that another mix of calls is not taken for another latency.
//! - What is below [`latencies::CALM`] is never taken for slow.
//! - The baseline is measured again by lowering the limit for a moment (as Envoy does) only while calls are refused
//!   anyway; else whenever few calls are under way by themselves.

use std::time::Duration;

use tokio::time::Instant;

use super::latencies::Latencies;

/// A window is at least this long and has this many samples.
const WINDOW: Duration = Duration::from_millis(250);
const SAMPLES_MIN: u64 = 16;
/// Calls that may take this many times their baseline, in thousandths: from there on the limit falls.
const TOLERANCE: u64 = 2_000;
/// At a server's start: it doubles per window until calls become slow for the first time.
const START: usize = 128;
/// While calls are refused the baseline is measured anew this often, by a quarter of the limit, for at most `PROBE_MAX`.
const PROBE_EVERY: Duration = Duration::from_secs(30);
const PROBE_MAX: Duration = Duration::from_secs(2);

/// A call that has ended well, or too late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The hash of its path.
    pub(super) method: u64,
    pub(super) started: Instant,
}

#[derive(Debug)]
pub(super) struct Gradient {
    min: usize,
    max: usize,
    limit: usize,
    in_flight: usize,
    mode: Mode,
    /// No call was slow yet.
    starting: bool,
    probed: Option<Instant>,
    latencies: Latencies,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Following,
    Probing,
}

/// What was seen since `opened`.
#[derive(Debug)]
struct Window {
    opened: Instant,
    /// A call that started before says how it was under another limit.
    counts_from: Instant,
    peak: usize,
    refused: bool,
}

impl Gradient {
    /// Between `min` and `max`; `max` wins where they contradict each other.
    pub(super) fn new(min: usize, max: usize, now: Instant) -> Self {
        let min = min.min(max);
        Self {
            min,
            max,
            limit: START.clamp(min, max),
            in_flight: 0,
            mode: Mode::Following,
            starting: true,
            probed: None,
            latencies: Latencies::default(),
            window: Window { opened: now, counts_from: now, peak: 0, refused: false },
        }
    }

    pub(super) fn limit(&self) -> usize {
        match self.mode {
            Mode::Following => self.limit,
            Mode::Probing => (self.limit / 4).max(self.min),
        }
    }

    /// Whether one more may begin; if so, [`end`](Self::end) must follow.
    pub(super) fn admit(&mut self) -> bool {
        if self.in_flight >= self.limit() {
            self.window.refused = true;
            return false;
        }
        self.in_flight += 1;
        self.window.peak = self.window.peak.max(self.in_flight);
        true
    }

    /// A call has ended; `sample` if its time says something. The new limit, if that has changed.
    pub(super) fn end(&mut self, sample: Option<Sample>, now: Instant) -> Option<usize> {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(sample) = sample.filter(|sample| sample.started >= self.window.counts_from) {
            self.latencies.add(sample.method, now.duration_since(sample.started));
        }
        let age = now.duration_since(self.window.opened);
        let enough = self.latencies.samples() >= SAMPLES_MIN;
        let over = match self.mode {
            Mode::Following => enough && age >= WINDOW,
            Mode::Probing => (enough && age >= WINDOW) || age >= PROBE_MAX,
        };
        if !over {
            return None;
        }
        let before = self.limit();
        match self.mode {
            Mode::Following => self.follow(now),
            Mode::Probing => self.end_probe(now),
        }
        let limit = self.limit();
        (limit != before).then_some(limit)
    }

    fn follow(&mut self, now: Instant) {
        if self.window.peak <= self.min {
            self.latencies.settle();
        }
        let inflation = self.latencies.inflation();
        let due = self.probed.is_none_or(|at| now.duration_since(at) >= PROBE_EVERY);
        if self.window.refused && due && self.limit > self.min {
            self.mode = Mode::Probing;
            self.open_window(now, now);
            return;
        }
        let next = self.next(inflation);
        let counts_from = if next < self.limit { now } else { self.window.counts_from };
        self.limit = next;
        self.open_window(now, counts_from);
    }

    fn next(&mut self, inflation: u64) -> usize {
        if inflation > TOLERANCE {
            self.starting = false;
            // What was really under way, for a limit far above it would take many steps to mean anything.
            let from = self.limit.min(self.window.peak);
            let gradient = TOLERANCE * 1_000 / inflation;
            let share = usize::try_from(gradient.max(500)).unwrap_or(1_000);
            return (from * share / 1_000).clamp(self.min, self.limit);
        }
        // A limit that nobody came near says nothing about a higher one.
        if self.window.peak < self.limit / 2 {
            return self.limit;
        }
        let more = if self.starting { self.limit } else { self.limit.isqrt() };
        self.limit.saturating_add(more.max(1)).min(self.max)
    }

    fn end_probe(&mut self, now: Instant) {
        self.latencies.replace();
        self.probed = Some(now);
        self.mode = Mode::Following;
        self.open_window(now, now);
    }

    fn open_window(&mut self, now: Instant, counts_from: Instant) {
        self.latencies.clear();
        self.window = Window { opened: now, counts_from, peak: self.in_flight, refused: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const METHOD: u64 = 7;

    /// A server of `capacity` calls at a time, each `work` long, that is offered `load` at a time, for `rounds` rounds of as
    /// many calls as are let in. What takes longest is the queue.
    fn serve(gradient: &mut Gradient, now: &mut Instant, load: usize, capacity: usize, work: Duration, rounds: usize) {
        for _ in 0..rounds {
            let admitted = (0..load).filter(|_| gradient.admit()).count();
            let started = *now;
            for call in 0..admitted {
                let turns = u32::try_from(call / capacity + 1).expect("small");
                *now = started + work * turns;
                gradient.end(Some(Sample { method: METHOD, started }), *now);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_settles_near_the_capacity_and_follows_when_that_changes() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(16, 10_000, now);
        serve(&mut gradient, &mut now, 1_000, 40, 50 * MS, 2_000);
        // Queue included: a call waits for at most about as long as it works.
        assert!((40..=200).contains(&gradient.limit), "{}", gradient.limit);

        serve(&mut gradient, &mut now, 5_000, 400, 50 * MS, 2_000);
        assert!((400..=2_000).contains(&gradient.limit), "{}", gradient.limit);

        serve(&mut gradient, &mut now, 1_000, 40, 50 * MS, 2_000);
        assert!((40..=200).contains(&gradient.limit), "{}", gradient.limit);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_slow_by_itself_is_no_reason_to_refuse_for_long() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(16, 10_000, now);
        serve(&mut gradient, &mut now, 300, 10_000, 50 * MS, 100);
        assert!(gradient.limit >= 300);
        // What it calls has become ten times slower, however many calls there are.
        serve(&mut gradient, &mut now, 300, 10_000, 500 * MS, 400);
        assert!(gradient.limit >= 300, "{}", gradient.limit);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fast_is_not_slow_however_uneven() {
        let mut now = Instant::now();
        let mut gradient = Gradient::new(16, 10_000, now);
        serve(&mut gradient, &mut now, 10, 10, MS / 10, 10_000);
        serve(&mut gradient, &mut now, 100, 4, MS, 1_000);
        assert!(gradient.limit >= START, "{}", gradient.limit);
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_to_its_bounds() {
        for (min, max) in [(16, 10), (16, 0), (2, 4), (16, 20)] {
            let mut now = Instant::now();
            let mut gradient = Gradient::new(min, max, now);
            assert_eq!(gradient.limit, max);
            serve(&mut gradient, &mut now, 50, 1, 50 * MS, 200);
            assert!(gradient.limit() >= min.min(max) && gradient.limit() <= max);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_ended_is_in_flight() {
        let now = Instant::now();
        let mut gradient = Gradient::new(2, 2, now);
        assert!(gradient.admit() && gradient.admit() && !gradient.admit());
        gradient.end(None, now);
        assert!(gradient.admit() && !gradient.admit());
    }
}
