//! A circuit breaker: its rules, pure, and the one that calls share. The mesh's clients have one (see `breaker.rs`), and
//! whatever else is called and may be gone.
//!
//! Closed: calls go through. Open: none does. After a pause one goes through, and closes it again or doubles the pause.
//!
//! Failures count once per round: one that was sent before the last counted failure was known says nothing new. Else one
//! instance of several that dies with a dozen calls in hand would close the way to the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The first pause; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// A trial that has no result for this long (a stream's first message may take any time) holds up no other.
const TRIAL_MAX: Duration = Duration::from_secs(5);

/// One circuit of many calls at once. Every call comes by here, twice; nothing waits while it is locked.
#[derive(Debug)]
pub struct SharedCircuit(Mutex<Circuit>);

/// Whether a target is called.
#[derive(Debug)]
struct Circuit {
    /// Failures in a row that open it; 0 never does.
    threshold: u32,
    pause_max: Duration,
    state: State,
    /// Failures counted so far, of all times.
    counted: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    Trying {
        since: Instant,
        pause: Duration,
    },
}

/// What lets a call through; to be given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Ordinary {
        /// The failures that were counted when it was let through.
        counted: u64,
    },
    /// Its outcome decides.
    Trial,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Works,
    Failed,
    /// The caller left, or gave no time.
    Unknown,
}

/// To be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Opened { failures: u32 },
    Closed,
}

impl SharedCircuit {
    /// `threshold`: failures in a row that open it; 0 never does. `pause_max`: how long it stays open at most between two trials.
    #[must_use]
    pub fn new(threshold: u32, pause_max: Duration) -> Self {
        Self(Mutex::new(Circuit::new(threshold, pause_max)))
    }

    /// Whether a call goes through now.
    ///
    /// # Errors
    /// How long until the next call may go through.
    pub fn admit(&self) -> Result<Pass, Duration> {
        self.lock().admit(Instant::now())
    }

    /// A call's end.
    pub fn end(&self, pass: Pass, outcome: Outcome) -> Option<Change> {
        // Those who call the same target must not all try it at the same time.
        let jitter = rand::random_range(0.8..1.2);
        self.lock().end(pass, outcome, Instant::now(), jitter)
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Circuit {
    fn new(threshold: u32, pause_max: Duration) -> Self {
        Self { threshold, pause_max, state: State::Closed { failures: 0 }, counted: 0 }
    }

    /// # Errors
    /// How long until the next call may go through.
    fn admit(&mut self, now: Instant) -> Result<Pass, Duration> {
        let (until, pause) = match self.state {
            State::Closed { .. } => return Ok(Pass::Ordinary { counted: self.counted }),
            State::Open { until, pause } => (until, pause),
            State::Trying { since, pause } => (since + TRIAL_MAX, pause),
        };
        if now < until {
            return Err(until - now);
        }
        self.state = State::Trying { since: now, pause };
        Ok(Pass::Trial)
    }

    /// `jitter` is what a pause is multiplied by.
    fn end(&mut self, pass: Pass, outcome: Outcome, now: Instant, jitter: f64) -> Option<Change> {
        match (self.state, pass, outcome) {
            (State::Closed { .. }, Pass::Ordinary { counted }, Outcome::Failed) if counted < self.counted => None,
            (State::Closed { failures }, _, Outcome::Failed) => {
                self.counted += 1;
                let failures = failures.saturating_add(1);
                if self.threshold > 0 && failures >= self.threshold {
                    self.open(PAUSE_MIN, now, jitter);
                    return Some(Change::Opened { failures });
                }
                self.state = State::Closed { failures };
                None
            }
            (State::Closed { .. }, _, Outcome::Works) => {
                self.state = State::Closed { failures: 0 };
                None
            }
            (State::Trying { .. }, Pass::Trial, Outcome::Works) => {
                self.state = State::Closed { failures: 0 };
                Some(Change::Closed)
            }
            (State::Trying { pause, .. }, Pass::Trial, Outcome::Failed) => {
                self.open(pause * 2, now, jitter);
                None
            }
            // The next call may try in its stead.
            (State::Trying { pause, .. }, Pass::Trial, Outcome::Unknown) => {
                self.state = State::Open { until: now, pause };
                None
            }
            // It was sent before the circuit opened; or it says nothing.
            (State::Open { .. } | State::Trying { .. }, ..) | (State::Closed { .. }, _, Outcome::Unknown) => None,
        }
    }

    fn open(&mut self, pause: Duration, now: Instant, jitter: f64) {
        let pause = pause.min(self.pause_max);
        self.state = State::Open { until: now + pause.mul_f64(jitter).min(self.pause_max), pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(30);

    fn fail(circuit: &mut Circuit, now: Instant) -> Option<Change> {
        let pass = circuit.admit(now).expect("let through");
        circuit.end(pass, Outcome::Failed, now, 1.0)
    }

    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::new(5, MAX);
        for _ in 0..4 {
            assert_eq!(fail(&mut circuit, now), None);
        }
        assert_eq!(fail(&mut circuit, now), Some(Change::Opened { failures: 5 }));
        circuit
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_only_in_a_row() {
        let now = Instant::now();
        assert_eq!(opened(now).admit(now), Err(PAUSE_MIN));

        let mut circuit = Circuit::new(5, MAX);
        for call in 0..100 {
            let outcome = if call % 5 == 4 { Outcome::Works } else { Outcome::Failed };
            let pass = circuit.admit(now).expect("closed");
            assert_eq!(circuit.end(pass, outcome, now, 1.0), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_fail_together_are_one_failure() {
        let now = Instant::now();
        let mut circuit = Circuit::new(2, MAX);
        let together: Vec<Pass> = (0..16).map(|_| circuit.admit(now).expect("closed")).collect();
        for pass in together {
            assert_eq!(circuit.end(pass, Outcome::Failed, now, 1.0), None);
        }
        assert_eq!(fail(&mut circuit, now), Some(Change::Opened { failures: 2 }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_at_a_time_tries_and_each_failure_doubles_the_pause() {
        let mut now = Instant::now();
        let mut circuit = opened(now);
        for half_seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = SECOND / 2 * half_seconds;
            assert_eq!(circuit.admit(now), Err(pause));
            now += pause;
            let trial = circuit.admit(now).expect("it is time");
            assert_eq!(trial, Pass::Trial);
            circuit.admit(now).expect_err("one is under way");
            assert_eq!(circuit.end(trial, Outcome::Failed, now, 1.0), None);
        }
        now += MAX;
        let trial = circuit.admit(now).expect("it is time");
        assert_eq!(circuit.end(trial, Outcome::Works, now, 1.0), Some(Change::Closed));
        assert!(matches!(circuit.admit(now), Ok(Pass::Ordinary { .. })));
        // And it starts from the beginning.
        circuit = opened(now);
        assert_eq!(circuit.admit(now), Err(PAUSE_MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_says_nothing_makes_room_for_another() {
        let mut now = Instant::now();
        let mut circuit = opened(now);
        now += PAUSE_MIN;
        let left = circuit.admit(now).expect("it is time");
        circuit.end(left, Outcome::Unknown, now, 1.0);
        let hangs = circuit.admit(now).expect("another");
        assert_eq!(circuit.admit(now), Err(TRIAL_MAX));
        now += TRIAL_MAX;
        let other = circuit.admit(now).expect("it is not waited for");
        assert_eq!(circuit.end(other, Outcome::Works, now, 1.0), Some(Change::Closed));
        assert_eq!(circuit.end(hangs, Outcome::Failed, now, 1.0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_it_opened_changes_nothing() {
        let now = Instant::now();
        let mut circuit = Circuit::new(1, MAX);
        let early = circuit.admit(now).expect("closed");
        fail(&mut circuit, now);
        assert_eq!(circuit.end(early, Outcome::Works, now, 1.0), None);
        circuit.admit(now).expect_err("open");
    }

    #[tokio::test(start_paused = true)]
    async fn no_threshold_never_opens() {
        let now = Instant::now();
        let mut circuit = Circuit::new(0, MAX);
        for _ in 0..100 {
            assert_eq!(fail(&mut circuit, now), None);
        }
    }
}
