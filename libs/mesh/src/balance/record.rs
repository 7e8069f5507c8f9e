//! An instance's failures in a row, and the ejections that follow.

use tokio::time::Instant;

use super::BalanceConfig;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    failures: u32,
    ejections: u32,
    until: Option<Instant>,
}

impl Record {
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What was under way when it was ejected changes nothing.
    pub(super) fn success(&mut self, now: Instant) {
        if !self.is_ejected(now) {
            *self = Self::default();
        }
    }

    /// Whether it is ejected for it, which it is only if it `may`. After an ejection the first failure is enough.
    pub(super) fn failure(&mut self, now: Instant, cfg: &BalanceConfig, may: bool) -> bool {
        if self.is_ejected(now) {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let ejected = may && self.failures >= cfg.failures_max;
        if ejected {
            let longer = 2_u32.saturating_pow(self.ejections);
            self.until = now.checked_add(cfg.ejection_min.saturating_mul(longer).min(cfg.ejection_max));
            self.ejections = self.ejections.saturating_add(1);
        }
        ejected
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BalanceConfig, Instant, Record};

    const CFG: BalanceConfig = BalanceConfig::new("test-svc");

    #[test]
    fn five_failures_in_a_row_eject_and_then_each_one_for_twice_as_long() {
        let mut now = Instant::now();
        let mut record = Record::default();
        for _ in 0..2 {
            for _ in 0..4 {
                assert!(!record.failure(now, &CFG, true));
            }
            record.success(now);
        }
        for _ in 0..4 {
            assert!(!record.failure(now, &CFG, true));
        }
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(record.failure(now, &CFG, true));
            let end = now + Duration::from_secs(seconds);
            assert!(record.is_ejected(end - Duration::from_millis(1)), "{seconds} s");
            // Calls that were under way: they neither lengthen nor end it.
            assert!(!record.failure(now, &CFG, true));
            record.success(now);
            assert!(record.is_ejected(now) && !record.is_ejected(end), "{seconds} s");
            now = end;
        }
        record.success(now);
        assert!(!record.failure(now, &CFG, true), "all is forgiven");
    }

    #[test]
    fn one_that_may_not_be_ejected_is_as_soon_as_it_may() {
        let now = Instant::now();
        let mut record = Record::default();
        for _ in 0..10 {
            assert!(!record.failure(now, &CFG, false));
        }
        assert!(record.failure(now, &CFG, true));
    }
}
