//! Which instance a call goes to, where any will do: the better of two chosen at random (P2C), by latency and calls in
//! flight (PeakEWMA).
//!
//! Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); the load is that of Finagle and Linkerd:
//! the peak latency, decaying, times the calls under way and the one to come.

mod core;
mod latency;
mod peer;
mod record;

use std::time::Duration;

pub use peer::balanced;

/// How calls are spread over a pool. Start from [`BalanceConfig::new`].
#[derive(Clone, Debug)]
pub struct BalanceConfig {
    /// Whom we call: `message-svc`, … Is named in errors.
    pub target: &'static str,
    /// RPC method names (`"Converse"`) whose calls are meant to last: their latency is taken at the response's head, that
    /// of all others at its end. Default: none.
    pub streaming: &'static [&'static str],
    /// How fast a latency is forgotten: after this time it weighs 1/e. Default: 10 s.
    pub decay: Duration,
    /// The latency of an instance that has not answered yet, for as long as its first call is under way: until then it
    /// is given one, whatever the others' load. Default: 50 ms.
    pub latency_default: Duration,
    /// What a failed call counts as, at least, so that failing fast does not look like being fast. Default: 1 s.
    /// Failures are `Unavailable`, and calls that no server answered.
    pub failure_latency: Duration,
    /// Failures in a row that eject an instance: it gets no calls for a time, and then one that decides. Default: 5.
    /// Never more than half of the instances (rounded down) are ejected.
    pub failures_max: u32,
    /// How long the first ejection lasts; each further one twice as long as the one before … Default: 1 s.
    pub ejection_min: Duration,
    /// … up to this. Default: 30 s.
    pub ejection_max: Duration,
    /// Instances that a call is tried on while nothing of it was sent. Default: 3.
    pub attempts: usize,
}

impl BalanceConfig {
    /// The documented defaults.
    #[must_use]
    pub const fn new(target: &'static str) -> Self {
        Self {
            target,
            streaming: &[],
            decay: Duration::from_secs(10),
            latency_default: Duration::from_millis(50),
            failure_latency: Duration::from_secs(1),
            failures_max: 5,
            ejection_min: Duration::from_secs(1),
            ejection_max: Duration::from_secs(30),
            attempts: 3,
        }
    }

    /// Sets [`streaming`](Self#structfield.streaming).
    #[must_use]
    pub const fn streaming(mut self, methods: &'static [&'static str]) -> Self {
        self.streaming = methods;
        self
    }
}
