//! Write timestamps. A plain write can't be refused by the store, but of two writes to a row the one with the lower
//! timestamp loses: so each incarnation writes in a range of its own, above those of all that owned its shards before.

/// The timestamps of one incarnation, microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// The last one given out, or the floor below which none is.
    last: i64,
    /// The highest that may be given out: stored with the lease, so that a successor can begin above it.
    hi: i64,
}

impl Stamps {
    /// The next timestamp; `None`: the range is used up until the lease is renewed.
    pub(crate) fn next(&mut self, wall_us: i64) -> Option<i64> {
        let stamp = self.peek(wall_us)?;
        self.last = stamp;
        Some(stamp)
    }

    /// What [`Stamps::next`] would give out.
    pub(crate) fn peek(&self, wall_us: i64) -> Option<i64> {
        let stamp = (self.last + 1).max(wall_us.min(self.hi));
        (stamp <= self.hi).then_some(stamp)
    }

    /// The upper end to store with a renewal.
    pub(crate) fn proposal(&self, wall_us: i64, ttl_us: i64) -> i64 {
        self.hi.max(wall_us.max(self.last) + ttl_us)
    }

    /// A renewal with this upper end is stored for certain.
    pub(crate) fn confirmed(&mut self, hi: i64) {
        self.hi = self.hi.max(hi);
    }

    /// A shard was taken: everything from now on is at or above its floor.
    pub(crate) fn raise(&mut self, floor: i64) {
        self.last = self.last.max(floor - 1);
    }

    /// The last one given out.
    pub(crate) fn last(&self) -> i64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_rise_whatever_the_clock_does_and_end_at_the_confirmed_bound() {
        let mut stamps = Stamps::default();
        assert_eq!(stamps.next(100), None);
        stamps.confirmed(stamps.proposal(100, 10));
        assert_eq!([stamps.next(100), stamps.next(100), stamps.next(50)], [Some(100), Some(101), Some(102)]);
        assert_eq!([stamps.next(200), stamps.next(201)], [Some(110), None]);
        stamps.confirmed(stamps.proposal(90, 10));
        assert_eq!(stamps.next(90), Some(111));
    }

    #[test]
    fn a_floor_ahead_of_the_clock_holds_and_may_need_a_renewal_first() {
        let mut stamps = Stamps::default();
        stamps.confirmed(stamps.proposal(100, 10));
        stamps.raise(500);
        assert_eq!(stamps.next(100), None);
        stamps.confirmed(stamps.proposal(100, 10));
        assert_eq!(stamps.next(100), Some(500));
    }
}
