//! What a run's timelines come to. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use confab_bench::recorder::Latencies;

use super::paths::Way;
use crate::roam::{Fate, Timeline, Try};

/// A spared delivery that took longer is noted by when: to find out what it met.
const SLOW: Duration = Duration::from_millis(200);

/// The figures of a run, of what happened from the strike on.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The longest from a message's first try to its ack.
    pub acked_after: Duration,
    /// The first try of the one that took longest, from the strike on.
    pub slowest_at: Duration,
    /// The longest from a message's first try until a reader had it, by whichever connection and in whichever way.
    pub read_after: Duration,
    /// The first try of the one that took longest to a reader, from the strike on.
    pub read_slowest_at: Duration,
    /// And whether that reader got it by catching up, on a new connection.
    pub read_slowest_caught_up: bool,
    /// First tries that were acked on their connection, and those that were not; where the client itself went away before,
    /// neither.
    pub answered: u64,
    pub failed: u64,
    /// Retryable errors, by code.
    pub refusals: BTreeMap<String, u32>,
    /// Connections that ended without their client's doing.
    pub breaks: usize,
    /// Connections made, for whatever reason.
    pub connects: usize,
    /// From the first try to the socket of each reader who was connected and had caught up before: where nobody who is struck
    /// has a part in the way.
    pub spared: Spread,
    /// Those of them that took more than [`SLOW`], by the second of their first try, from the strike on.
    pub spared_slow: BTreeMap<u64, u32>,
    /// As `spared`, of the other ways.
    pub hit: Spread,
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Spread {
    fn of(all: &Latencies) -> Self {
        Self { count: all.count(), p50_ms: all.ms(0.5), p99_ms: all.ms(0.99) }
    }
}

impl Figures {
    /// The longest that a message was not acked, or a reader was without it.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        self.acked_after.max(self.read_after)
    }

    /// Of the first tries, how many were answered with an ack. 1 if there were none.
    #[must_use]
    pub fn success(&self) -> f64 {
        match self.answered + self.failed {
            0 => 1.0,
            all => self.answered as f64 / all as f64,
        }
    }
}

/// `from`: when the strike came. What was over before that does not count.
pub(super) fn figures(timelines: &[Timeline], from: Instant, is_hit: impl Fn(Way) -> bool) -> Figures {
    let mut figures = Figures::default();
    let mut firsts: HashMap<(u64, u64), &Try> = HashMap::new();
    for timeline in timelines {
        for one in &timeline.sends {
            let Some((seq, at)) = one.acked else { continue };
            firsts.insert((one.chat, seq), one);
            if at >= from {
                let took = at.saturating_duration_since(one.at);
                if took > figures.acked_after {
                    (figures.acked_after, figures.slowest_at) = (took, one.at.saturating_duration_since(from));
                }
                figures.answered += u64::from(one.fate == Fate::Answered);
                figures.failed += u64::from(one.fate == Fate::Failed);
            }
        }
        for (_, code) in timeline.refusals.iter().filter(|(at, _)| *at >= from) {
            *figures.refusals.entry(code.clone()).or_default() += 1;
        }
        let since = |times: &[Instant]| times.iter().filter(|at| **at >= from).count();
        figures.breaks += since(&timeline.breaks);
        figures.connects += since(&timeline.connects);
    }
    let (mut spared, mut hit) = (Latencies::new(), Latencies::new());
    for arrival in timelines.iter().flat_map(|timeline| &timeline.arrivals).filter(|arrival| arrival.at >= from) {
        let Some(sent) = firsts.get(&(arrival.chat, arrival.seq)) else { continue };
        let took = arrival.at.saturating_duration_since(sent.at);
        let was_there = arrival.synced.is_some_and(|synced| synced <= sent.at);
        if took > figures.read_after {
            (figures.read_after, figures.read_slowest_at) = (took, sent.at.saturating_duration_since(from));
            figures.read_slowest_caught_up = !was_there;
        }
        if sent.at >= from && was_there {
            let way = Way { chat: arrival.chat, from_edge: sent.edge, to_edge: arrival.edge };
            let is_spared = !is_hit(way);
            if is_spared && took > SLOW {
                *figures.spared_slow.entry(sent.at.saturating_duration_since(from).as_secs()).or_default() += 1;
            }
            let all = if is_spared { &mut spared } else { &mut hit };
            all.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }
    (figures.spared, figures.hit) = (Spread::of(&spared), Spread::of(&hit));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roam::Arrival;

    struct Times(Instant);

    impl Times {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn sent(&self, chat: u64, at: u64, fate: Fate, acked: Option<(u64, u64)>) -> Try {
            Try { chat, at: self.at(at), edge: 0, fate, acked: acked.map(|(seq, at)| (seq, self.at(at))) }
        }

        fn arrival(&self, chat: u64, seq: u64, at: u64, synced: u64) -> Arrival {
            Arrival { chat, seq, at: self.at(at), edge: 1, synced: Some(self.at(synced)) }
        }
    }

    #[test]
    fn the_longest_wait_counts_from_the_first_try_and_only_what_was_not_over_before() {
        let times = Times(Instant::now());
        let sends = vec![
            times.sent(1, 0, Fate::Answered, Some((2, 900))),
            times.sent(1, 950, Fate::Failed, Some((3, 4_000))),
            times.sent(1, 1_100, Fate::Left, Some((4, 4_100))),
            times.sent(1, 1_200, Fate::Answered, Some((5, 4_200))),
        ];
        let arrivals = vec![times.arrival(1, 2, 950, 0), times.arrival(1, 3, 6_000, 5_000)];
        let sender = Timeline { sends, breaks: vec![times.at(500), times.at(1_500)], ..Timeline::default() };
        let reader = Timeline { arrivals, ..Timeline::default() };
        let seen = figures(&[sender, reader], times.at(1_000), |_| false);
        assert_eq!((seen.acked_after, seen.read_after), (Duration::from_millis(3_050), Duration::from_millis(5_050)));
        assert_eq!((seen.answered, seen.failed, seen.breaks, seen.stalled()), (1, 1, 1, seen.read_after));
        assert!((seen.success() - 0.5).abs() < f64::EPSILON);
        assert_eq!(seen.spared.count, 0, "who catches up says nothing of the way");
    }

    #[test]
    fn ways_around_the_strike_are_looked_at_apart() {
        let times = Times(Instant::now());
        let sends = [1, 2].map(|chat| times.sent(chat, 10, Fate::Answered, Some((2, 15)))).to_vec();
        let arrivals = vec![times.arrival(1, 2, 30, 5), times.arrival(2, 2, 510, 5), times.arrival(2, 9, 30, 5)];
        let seen = figures(&[Timeline { sends, arrivals, ..Timeline::default() }], times.at(0), |way| way.chat == 2);
        assert_eq!((seen.spared.count, seen.hit.count), (1, 1));
        assert!((seen.spared.p99_ms - 20.0).abs() < 0.1 && (seen.hit.p50_ms - 500.0).abs() < 1.0, "{seen:?}");
    }
}
