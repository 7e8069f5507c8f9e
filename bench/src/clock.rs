//! One clock for every process of a run: nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Nanoseconds per second.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds since the machine started.
pub fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Nanoseconds of CPU that this process has used, all threads together.
pub fn own_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// The tokio instant of a time of [`now_ns`]; one that has passed is now.
pub fn instant_at(ns: u64) -> Instant {
    let now = Instant::now();
    now + Duration::from_nanos(ns.saturating_sub(now_ns()))
}

/// Whole microseconds from one time to a later one; 0 if it isn't later.
pub fn micros_between(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1000
}

fn read(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * SECOND + nanos
}
