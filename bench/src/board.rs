//! A board on which each message is ticked off by each of those who get it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use crate::clock::micros_between;
use crate::frame::Stamp;
use crate::recorder::Latencies;

/// Who has what. The lock is held for one tick at a time; the counts are bounded by the step's messages.
pub struct Board {
    readers: u32,
    state: Mutex<BoardState>,
}

#[derive(Default)]
struct BoardState {
    from_ns: u64,
    ticks: Vec<u32>,
    complete: u32,
    each: Latencies,
    last: Latencies,
    sample: Option<String>,
}

impl Board {
    /// Each message has this many readers, at least 1.
    pub fn new(readers: u32) -> Self {
        Self { readers: readers.max(1), state: Mutex::default() }
    }

    /// Starts a step of `messages`; ticks of what was due before `from_ns` are not counted.
    pub fn begin(&self, messages: u32, from_ns: u64) {
        let mut state = self.lock();
        let sample = state.sample.take();
        *state = BoardState { from_ns, ticks: vec![0; messages as usize], sample, ..BoardState::default() };
    }

    /// A reader has a message.
    ///
    /// # Errors
    /// If it is none of this step, or came to more readers than there are.
    pub fn tick(&self, stamp: Stamp, now: u64, text: &str) -> Result<()> {
        let mut state = self.lock();
        if stamp.at_ns < state.from_ns {
            return Ok(());
        }
        let micros = micros_between(stamp.at_ns, now);
        let index = usize::try_from(stamp.index)?;
        let ticks = state.ticks.get_mut(index).context("a message that was not sent now")?;
        *ticks += 1;
        let ticks = *ticks;
        state.each.add(micros);
        if ticks == self.readers {
            state.complete += 1;
            state.last.add(micros);
        } else if ticks > self.readers {
            bail!("message {index} came {ticks} times to {} readers", self.readers);
        }
        if state.sample.is_none() {
            state.sample = Some(text.to_owned());
        }
        Ok(())
    }

    /// [`Self::tick`], for a connection that reads.
    pub fn ticking(self: &Arc<Self>) -> impl FnMut(Stamp, u64, &str) -> Result<()> + Send + use<> {
        let board = Arc::clone(self);
        move |stamp, now, text| board.tick(stamp, now, text)
    }

    /// Messages that all their readers have.
    pub fn complete(&self) -> u32 {
        self.lock().complete
    }

    /// From the intended time to each reader's socket, and to the last one's.
    pub fn latencies(&self) -> (Latencies, Latencies) {
        let state = self.lock();
        (state.each.clone(), state.last.clone())
    }

    /// One delivery frame as it came from the server.
    pub fn sample(&self) -> Option<String> {
        self.lock().sample.clone()
    }

    fn lock(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_at_its_last_reader_and_a_double_is_caught() {
        let board = Board::new(2);
        board.begin(2, 0);
        let stamp = Stamp { at_ns: 1_000_000, index: 1 };
        board.tick(stamp, 2_000_000, "sample").expect("the first");
        assert_eq!(board.complete(), 0);
        board.tick(stamp, 5_000_000, "other").expect("the second");
        assert_eq!(board.complete(), 1);
        let (each, last) = board.latencies();
        assert_eq!((each.count(), last.count()), (2, 1));
        assert!((last.ms(0.5) - 4.0).abs() < 0.01);
        assert!(board.tick(stamp, 6_000_000, "double").is_err());
        assert!(board.tick(Stamp { at_ns: 0, index: 2 }, 1, "stranger").is_err());
    }

    #[test]
    fn what_is_left_of_the_step_before_is_not_counted() {
        let board = Board::new(1);
        board.begin(1, 1_000);
        board.tick(Stamp { at_ns: 999, index: 7 }, 2_000, "late").expect("no error");
        assert_eq!(board.complete(), 0);
        board.tick(Stamp { at_ns: 1_000, index: 0 }, 2_000, "now").expect("in this step");
        assert_eq!(board.complete(), 1);
    }
}
