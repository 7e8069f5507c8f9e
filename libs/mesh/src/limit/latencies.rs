//! How long calls take, per method, beside how long they take when there are few.

use std::time::Duration;

/// Below this no call is slow, microseconds: a tenth of what an event may take end to end, less what is noise.
pub(super) const CALM: u64 = 20_000;
/// Methods that are kept apart; further ones are taken for one.
const METHODS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Latencies {
    methods: Vec<Method>,
    samples: u64,
}

#[derive(Debug)]
struct Method {
    id: u64,
    /// Mean when few calls are under way, microseconds; `None` until it was seen for a whole window.
    baseline: Option<u64>,
    count: u64,
    /// Microseconds.
    sum: u64,
}

impl Latencies {
    pub(super) fn add(&mut self, id: u64, took: Duration) {
        self.samples += 1;
        let method = self.method(id);
        method.count += 1;
        method.sum = method.sum.saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Since [`clear`](Self::clear).
    pub(super) fn samples(&self) -> u64 {
        self.samples
    }

    /// Keeps the baselines only.
    pub(super) fn clear(&mut self) {
        self.samples = 0;
        for method in &mut self.methods {
            (method.count, method.sum) = (0, 0);
        }
    }

    /// Few calls were under way: half of the baseline is from now on what they took.
    pub(super) fn settle(&mut self) {
        self.set_baselines(|baseline, mean| baseline.midpoint(mean));
    }

    /// Few calls were under way, on purpose: what they took is the baseline.
    pub(super) fn replace(&mut self) {
        self.set_baselines(|_, mean| mean);
    }

    /// How many times their baselines the calls took, in thousandths. A method's first window is its baseline.
    pub(super) fn inflation(&mut self) -> u64 {
        self.set_baselines(|baseline, _| baseline);
        let of = |method: &Method| {
            let baseline = method.baseline.unwrap_or(0).max(CALM);
            method.sum.saturating_mul(1_000) / baseline
        };
        self.methods.iter().map(of).fold(0, u64::saturating_add) / self.samples.max(1)
    }

    fn set_baselines(&mut self, rule: impl Fn(u64, u64) -> u64) {
        for method in self.methods.iter_mut().filter(|method| method.count > 0) {
            let mean = method.sum / method.count;
            method.baseline = Some(method.baseline.map_or(mean, |baseline| rule(baseline, mean)));
        }
    }

    fn method(&mut self, id: u64) -> &mut Method {
        let found = self.methods.iter().position(|method| method.id == id);
        let at = found.unwrap_or_else(|| {
            if self.methods.len() < METHODS_MAX {
                self.methods.push(Method { id, baseline: None, count: 0, sum: 0 });
            }
            self.methods.len() - 1
        });
        &mut self.methods[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn another_mix_of_calls_is_no_other_latency() {
        let mut latencies = Latencies::default();
        for _ in 0..10 {
            latencies.add(1, 30 * MS);
        }
        latencies.add(2, 3_000 * MS);
        assert_eq!(latencies.inflation(), 1_000);
        latencies.clear();
        for _ in 0..10 {
            latencies.add(2, 3_000 * MS);
        }
        latencies.add(1, 30 * MS);
        assert_eq!(latencies.inflation(), 1_000);
        latencies.clear();
        latencies.add(1, 300 * MS);
        assert_eq!(latencies.inflation(), 10_000);
    }

    #[test]
    fn methods_beyond_the_bound_are_one() {
        let mut latencies = Latencies::default();
        for id in 0..1_000 {
            latencies.add(id, MS);
        }
        assert_eq!((latencies.methods.len(), latencies.samples()), (METHODS_MAX, 1_000));
    }
}
