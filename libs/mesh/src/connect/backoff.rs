//! How long to wait between attempts to connect.

use std::time::Duration;

/// Before the next attempt after `failures` in a row (none: at once). `random` in 0..1 cuts the pause by up to a half,
/// so that not all who lost an instance come back at the same moment.
pub(super) fn pause(failures: u32, min: Duration, max: Duration, random: f64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let whole = min.saturating_mul(2_u32.saturating_pow(doublings)).min(max);
    whole.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::{Duration, pause};

    #[test]
    fn it_doubles_up_to_the_maximum_and_is_cut_by_up_to_a_half() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(1));
        for (failures, whole) in
            [(0, 0), (1, 20), (2, 40), (3, 80), (6, 640), (7, 1_000), (40, 1_000), (u32::MAX, 1_000)]
        {
            let whole = Duration::from_millis(whole);
            assert_eq!(pause(failures, min, max, 0.0), whole, "{failures} failures");
            assert_eq!(pause(failures, min, max, 1.0), whole / 2, "{failures} failures");
        }
    }
}
