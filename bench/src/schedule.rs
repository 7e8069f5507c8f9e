//! When each message is to be sent: fixed before the run, whatever the server does (an open loop).

use crate::clock::SECOND;

/// `total` messages at an even rate, dealt out in turn to `lanes` senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The first message's time, in ns of [`crate::clock::now_ns`].
    pub start_ns: u64,
    /// Messages per second, all lanes together; at least 1.
    pub rate: u32,
    /// Senders; at least 1.
    pub lanes: u32,
    /// Messages, all lanes together.
    pub total: u64,
}

impl Schedule {
    /// As many messages as fit in `seconds`.
    pub fn lasting(start_ns: u64, rate: u32, lanes: u32, seconds: u32) -> Self {
        let total = u64::from(rate) * u64::from(seconds);
        Self { start_ns, rate: rate.max(1), lanes: lanes.max(1), total }
    }

    /// The intended time of message `index`, in ns.
    pub fn due_ns(&self, index: u64) -> u64 {
        let offset = u128::from(index) * u128::from(SECOND) / u128::from(self.rate);
        self.start_ns + u64::try_from(offset).unwrap_or(u64::MAX / 2)
    }

    /// When the last interval ends, in ns: the offered rate is `total` over `end - start`.
    pub fn end_ns(&self) -> u64 {
        self.due_ns(self.total)
    }

    /// The part of one sender, `lane < lanes`.
    pub fn lane(&self, lane: u32) -> Lane {
        Lane { schedule: *self, next: u64::from(lane) }
    }
}

/// One sender's part of a [`Schedule`]: every `lanes`-th message.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    schedule: Schedule,
    next: u64,
}

/// A message that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The intended time, in ns.
    pub at_ns: u64,
    /// Its place in the whole schedule, from 0.
    pub index: u64,
}

impl Lane {
    /// The next message, also if its time has not come.
    pub fn peek(&self) -> Option<Due> {
        let index = self.next;
        (index < self.schedule.total).then(|| Due { at_ns: self.schedule.due_ns(index), index })
    }

    /// The next message if its time has come; it is then taken.
    pub fn take(&mut self, now_ns: u64) -> Option<Due> {
        let due = self.peek().filter(|due| due.at_ns <= now_ns)?;
        self.next += u64::from(self.schedule.lanes);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(schedule: Schedule) -> Vec<Due> {
        let mut all = Vec::new();
        for lane in 0..schedule.lanes {
            let mut lane = schedule.lane(lane);
            while let Some(due) = lane.take(u64::MAX) {
                all.push(due);
            }
        }
        all.sort_by_key(|due| due.index);
        all
    }

    #[test]
    fn lanes_together_send_each_message_once_at_an_even_rate() {
        let schedule = Schedule::lasting(5 * SECOND, 1000, 7, 2);
        let all = all(schedule);
        assert_eq!(all.len(), 2000);
        for (index, due) in (0_u64..).zip(&all) {
            assert_eq!(*due, Due { index, at_ns: 5 * SECOND + index * 1_000_000 });
        }
        assert_eq!(schedule.end_ns(), 7 * SECOND);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        let schedule = Schedule::lasting(0, 3, 1, 100);
        assert_eq!(schedule.due_ns(299), 99_666_666_666);
        assert_eq!(schedule.end_ns(), 100 * SECOND);
    }

    #[test]
    fn nothing_is_sent_early_and_nothing_late_is_skipped() {
        let mut lane = Schedule::lasting(100, 1000, 2, 1).lane(1);
        assert_eq!(lane.take(99), None);
        assert_eq!(lane.peek().map(|due| due.at_ns), Some(1_000_100));
        let late: Vec<u64> = std::iter::from_fn(|| lane.take(5_000_100)).map(|due| due.index).collect();
        assert_eq!(late, [1, 3, 5]);
    }
}
