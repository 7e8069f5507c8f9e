//! The time, as the core wants it.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::core::Now;

/// Counts the time that a machine sleeps, too: a lease must not outlive it.
#[cfg(target_os = "linux")]
const STEADY: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const STEADY: ClockId = ClockId::Monotonic;

pub(super) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let steady = clock_gettime(STEADY);
    let (seconds, nanos) = (u64::try_from(steady.tv_sec), u64::try_from(steady.tv_nsec));
    Now {
        wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
        mono_ms: seconds.unwrap_or(0).saturating_mul(1_000) + nanos.unwrap_or(0) / 1_000_000,
    }
}
