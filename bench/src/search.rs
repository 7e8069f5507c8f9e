//! The search for the highest rate that holds: doubling, then bisecting. Pure: told what held, it says what to try.

/// Rates are tried from the start upwards, never beyond this: messages per second.
const RATE_MAX: u32 = 400_000;
/// Below this the search gives up: messages per second.
const RATE_MIN: u32 = 10;

/// A search in progress.
#[derive(Clone, Debug)]
pub struct RateSearch {
    current: Option<u32>,
    held: Option<u32>,
    failed: Option<u32>,
    failures: u32,
    tries: u32,
    precision: f64,
}

impl RateSearch {
    /// Starts at `start` messages/s and ends when the lowest rate that failed is at most `precision` (such as 1.06)
    /// times the highest that held. A rate has failed when it did not hold in any of `tries` steps.
    pub fn new(start: u32, precision: f64, tries: u32) -> Self {
        let current = Some(start.clamp(RATE_MIN, RATE_MAX));
        Self { current, held: None, failed: None, failures: 0, tries: tries.max(1), precision: precision.max(1.001) }
    }

    /// The rate to try now; `None` when the search is over.
    pub fn rate(&self) -> Option<u32> {
        self.current
    }

    /// The highest rate that held.
    pub fn best(&self) -> Option<u32> {
        self.held
    }

    /// Tells what became of [`RateSearch::rate`].
    pub fn record(&mut self, held: bool) {
        let Some(rate) = self.current else { return };
        if held {
            self.held = Some(rate);
        } else {
            self.failures += 1;
            if self.failures < self.tries {
                return;
            }
            self.failed = Some(rate);
        }
        self.failures = 0;
        self.current = self.propose();
    }

    fn propose(&self) -> Option<u32> {
        match (self.held, self.failed) {
            (Some(held), None) => (held < RATE_MAX).then(|| held.saturating_mul(2).min(RATE_MAX)),
            (None, Some(failed)) => (failed > RATE_MIN).then(|| (failed / 2).max(RATE_MIN)),
            (Some(held), Some(failed)) => {
                let open = f64::from(failed) > f64::from(held) * self.precision && failed - held > 1;
                open.then(|| held + (failed - held) / 2)
            }
            (None, None) => self.current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(mut search: RateSearch, capacity: u32) -> (Option<u32>, u32) {
        let mut steps = 0;
        while let Some(rate) = search.rate() {
            search.record(rate <= capacity);
            steps += 1;
            assert!(steps < 100, "no end in sight at {rate}/s");
        }
        (search.best(), steps)
    }

    #[test]
    fn doubles_then_bisects() {
        let mut search = RateSearch::new(1000, 1.06, 1);
        let mut tried = Vec::new();
        while let Some(rate) = search.rate() {
            tried.push(rate);
            search.record(rate <= 5300);
        }
        assert_eq!(tried, [1000, 2000, 4000, 8000, 6000, 5000, 5500, 5250]);
        assert_eq!(search.best(), Some(5250));
    }

    #[test]
    fn one_hiccup_is_forgiven_when_a_rate_has_two_tries() {
        let mut search = RateSearch::new(1000, 1.06, 2);
        search.record(false);
        assert_eq!(search.rate(), Some(1000));
        search.record(true);
        assert_eq!(search.rate(), Some(2000));
        search.record(false);
        search.record(false);
        assert_eq!(search.rate(), Some(1500));
    }

    #[test]
    fn a_start_that_is_too_high_goes_down() {
        assert_eq!(run(RateSearch::new(1000, 1.06, 1), 300).0, Some(296));
        assert_eq!(run(RateSearch::new(1000, 1.06, 1), 0).0, None);
    }

    proptest! {
        #[test]
        fn ends_within_the_precision(start in 10_u32..20_000, capacity in 100_u32..200_000, tries in 1_u32..3) {
            let (best, steps) = run(RateSearch::new(start, 1.06, tries), capacity);
            let best = best.expect("100/s is above the floor");
            prop_assert!(best <= capacity);
            prop_assert!(f64::from(best) * 1.06 + 2.0 >= f64::from(capacity), "{best} of {capacity}");
            prop_assert!(steps <= 24 * tries);
        }
    }
}
