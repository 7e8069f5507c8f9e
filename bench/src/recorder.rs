//! What a step of load measured: latencies and counts, shared by the tasks of the generator.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use crate::clock::micros_between;

/// Latencies in µs, to 0.1 %, up to ten minutes.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    const MICROS_MAX: u64 = 600_000_000;

    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, Self::MICROS_MAX, 3).expect("the bounds are in order"))
    }

    /// Adds one, in µs.
    pub fn add(&mut self, micros: u64) {
        self.0.saturating_record(micros);
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// A quantile (0.99 …) in ms.
    pub fn ms(&self, quantile: f64) -> f64 {
        micros_to_ms(self.0.value_at_quantile(quantile))
    }

    /// The mean in ms.
    pub fn mean_ms(&self) -> f64 {
        self.0.mean() / 1000.0
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99, p999) = (self.ms(0.5), self.ms(0.99), self.ms(0.999));
        write!(f, "p50 {p50:.1}, p99 {p99:.1}, p99.9 {p999:.1} ms")
    }
}

fn micros_to_ms(micros: u64) -> f64 {
    // Ten minutes of µs are far below 2^53.
    micros as f64 / 1000.0
}

/// One step's measurements.
#[derive(Clone, Default)]
pub struct Tally {
    /// Frames written to a socket.
    pub sent: u64,
    /// Messages acked (echoed, by an echo server).
    pub acked: u64,
    /// Of those, before the step's schedule ended.
    pub acked_in_time: u64,
    /// Messages that reached their recipient's socket.
    pub delivered: u64,
    /// Messages answered by an `error` frame.
    pub refused: u64,
    /// From the intended time to the ack.
    pub ack: Latencies,
    /// From the intended time to the recipient's socket.
    pub delivery: Latencies,
    /// From the intended time to the write: the generator's own delay, and that of the in-flight bound.
    pub lateness: Latencies,
}

/// The tally of the step that runs now. The lock is held for one addition at a time.
#[derive(Default)]
pub struct Recorder {
    step: Mutex<(Tally, u64)>,
}

impl Recorder {
    /// Starts a new step, whose schedule ends at `end_ns`.
    pub fn begin(&self, end_ns: u64) {
        *self.lock() = (Tally::default(), end_ns);
    }

    /// A message was written.
    pub fn sent(&self, due_ns: u64, now_ns: u64) {
        let mut step = self.lock();
        step.0.sent += 1;
        step.0.lateness.add(micros_between(due_ns, now_ns));
    }

    /// A message was acked.
    pub fn acked(&self, due_ns: u64, now_ns: u64) {
        let mut step = self.lock();
        step.0.acked += 1;
        step.0.acked_in_time += u64::from(now_ns <= step.1);
        step.0.ack.add(micros_between(due_ns, now_ns));
    }

    /// A message reached its recipient.
    pub fn delivered(&self, due_ns: u64, now_ns: u64) {
        let mut step = self.lock();
        step.0.delivered += 1;
        step.0.delivery.add(micros_between(due_ns, now_ns));
    }

    /// A message was answered by an error.
    pub fn refused(&self) {
        self.lock().0.refused += 1;
    }

    /// The counts (acked, refused, delivered) so far.
    pub fn counts(&self) -> (u64, u64, u64) {
        let step = self.lock();
        (step.0.acked, step.0.refused, step.0.delivered)
    }

    /// A copy of the whole tally.
    pub fn tally(&self) -> Tally {
        self.lock().0.clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Tally, u64)> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong in any task: a benchmark that loses, doubles or swaps messages has failed.
#[derive(Default)]
pub struct Complaints {
    all: Mutex<(u64, Vec<String>)>,
}

impl Complaints {
    /// The first few are kept in full, the rest are counted.
    const KEPT: usize = 5;

    /// Adds one.
    pub fn add(&self, complaint: impl fmt::Display) {
        let mut all = self.lock();
        all.0 += 1;
        if all.1.len() < Self::KEPT {
            all.1.push(complaint.to_string());
        }
    }

    /// Fails if there is one.
    pub fn check(&self) -> Result<()> {
        let all = self.lock();
        if all.0 > 0 {
            bail!("{} complaints, the first: {}", all.0, all.1.join("; "));
        }
        Ok(())
    }

    /// What was said so far, without failing; empty if nothing.
    pub fn summary(&self) -> String {
        let all = self.lock();
        all.1.join("; ")
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<String>)> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that one connection sees one chat's events ascending and without a hole.
#[derive(Clone, Copy, Debug)]
pub struct SeqGuard {
    chat_id: u64,
    last: Option<u64>,
}

impl SeqGuard {
    /// `last` is the position that is known already, if any: otherwise the first event may have any seq.
    pub fn new(chat_id: u64, last: Option<u64>) -> Self {
        Self { chat_id, last }
    }

    /// The last seq seen.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Takes an event; fails if one is missing, doubled or swapped.
    pub fn see(&mut self, seq: u64) -> Result<()> {
        if let Some(last) = self.last
            && seq != last + 1
        {
            bail!("chat {}: seq {seq} came after {last}", self.chat_id);
        }
        self.last = Some(seq);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_catches_a_lost_a_doubled_and_a_swapped_event() {
        let sees = |seqs: &[u64]| -> Result<()> {
            let mut guard = SeqGuard::new(1, None);
            seqs.iter().try_for_each(|seq| guard.see(*seq))
        };
        assert!(sees(&[5, 6, 7]).is_ok());
        assert!(sees(&[5, 7]).is_err());
        assert!(sees(&[5, 5]).is_err());
        assert!(sees(&[5, 7, 6]).is_err());
        assert!(SeqGuard::new(1, Some(4)).see(6).is_err());
    }

    #[test]
    fn a_tally_counts_what_came_in_time_apart() {
        let recorder = Recorder::default();
        recorder.begin(2_000_000);
        recorder.acked(1_000_000, 2_000_000);
        recorder.acked(1_000_000, 9_000_000);
        recorder.delivered(1_000_000, 3_000_000);
        let tally = recorder.tally();
        assert_eq!((tally.acked, tally.acked_in_time, tally.delivered), (2, 1, 1));
        assert!((tally.ack.ms(1.0) - 8.0).abs() < 0.02);
        assert_eq!(recorder.counts(), (2, 0, 1));
    }

    #[test]
    fn complaints_are_counted_and_the_first_kept() {
        let complaints = Complaints::default();
        assert!(complaints.check().is_ok());
        for n in 0..9 {
            complaints.add(format!("c{n}"));
        }
        let said = complaints.check().expect_err("there are some").to_string();
        assert!(said.contains("9 complaints") && said.contains("c4") && !said.contains("c5"), "{said}");
    }
}
