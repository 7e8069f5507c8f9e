//! PeakEWMA: a latency that jumps to each new peak and comes down slowly.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of an instance's latency: nothing, at first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency(Option<Peak>);

#[derive(Clone, Copy, Debug)]
struct Peak {
    seconds: f64,
    at: Instant,
}

impl Latency {
    /// In seconds. What is not confirmed fades, so that an instance that was slow is tried again.
    pub(super) fn now(&self, now: Instant, decay: Duration) -> Option<f64> {
        self.0.map(|peak| peak.seconds * peak.weight(now, decay))
    }

    /// A call took so long.
    pub(super) fn observe(&mut self, took: Duration, now: Instant, decay: Duration) {
        let sample = took.as_secs_f64();
        let seconds = match self.0 {
            Some(peak) => {
                let weight = peak.weight(now, decay);
                // A sample above what is left of the peak is the new one.
                if sample > peak.seconds * weight { sample } else { peak.seconds * weight + sample * (1.0 - weight) }
            }
            None => sample,
        };
        self.0 = Some(Peak { seconds, at: now });
    }

    /// A call that nobody waits for any more had taken so long: how long it would have is not known, only that it is more.
    /// Of one of which nothing is known, `expected` is.
    pub(super) fn at_least(&mut self, took: Duration, expected: Duration, now: Instant, decay: Duration) {
        if took.as_secs_f64() > self.now(now, decay).unwrap_or(expected.as_secs_f64()) {
            self.observe(took, now, decay);
        }
    }
}

impl Peak {
    fn weight(&self, now: Instant, decay: Duration) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (-passed / decay.as_secs_f64().max(f64::MIN_POSITIVE)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Latency};

    const DECAY: Duration = Duration::from_secs(10);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_jumps_to_a_peak_and_comes_down_by_the_decay() {
        let start = Instant::now();
        let mut latency = Latency::default();
        assert_eq!(latency.now(start, DECAY), None);
        latency.observe(ms(10), start, DECAY);
        assert_eq!(latency.now(start, DECAY), Some(0.010));
        latency.observe(ms(500), start, DECAY);
        assert_eq!(latency.now(start, DECAY), Some(0.500));

        // Without a word it fades: after one decay to 1/e.
        let later = start + DECAY;
        let faded = latency.now(later, DECAY).expect("known");
        assert!((faded - 0.500 / std::f64::consts::E).abs() < 1e-9, "{faded}");
        // With small samples it comes down to them, not below.
        let mut now = start;
        for _ in 0..1_000 {
            now += ms(100);
            latency.observe(ms(10), now, DECAY);
        }
        let settled = latency.now(now, DECAY).expect("known");
        assert!((settled - 0.010).abs() < 0.001, "{settled}");
    }

    #[test]
    fn a_call_that_was_given_up_counts_only_as_more() {
        let start = Instant::now();
        let mut latency = Latency::default();
        latency.at_least(ms(50), ms(50), start, DECAY);
        assert_eq!(latency.now(start, DECAY), None, "one that was given up early says nothing");
        let mut hangs = latency;
        hangs.at_least(ms(500), ms(50), start, DECAY);
        assert_eq!(hangs.now(start, DECAY), Some(0.500));
        latency.observe(ms(10), start, DECAY);
        latency.at_least(ms(1), ms(50), start, DECAY);
        assert_eq!(latency.now(start, DECAY), Some(0.010));
        latency.at_least(ms(70), ms(50), start, DECAY);
        assert_eq!(latency.now(start, DECAY), Some(0.070));
    }
}
