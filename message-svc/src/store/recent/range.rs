//! Which of the newest events a range needs, and what of it they answer.

use bytes::Bytes;
use confab_ids::Seq;

use super::{AsOf, Asked, KEPT};
use crate::core::ownership::rules::{self, Rule};
use crate::store::{Page, Range};

/// An event is larger, bytes: so many are not asked for in vain where a range is bounded by bytes.
const EVENT_BYTES_MIN: usize = 32;

/// The events that a range may need, in its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Inclusive; the whole range's, whatever its limits.
    low: Seq,
    high: Seq,
    /// Inclusive, and all among the newest [`KEPT`].
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// Of these at most so many, from where the range begins.
    pub(super) count: usize,
}

impl Wanted {
    /// `None`: it can't be answered by the newest events, or there is nothing in it.
    pub(super) fn of(asked: &Asked) -> Option<Self> {
        let Asked { range, as_of: AsOf { epoch, head } } = asked;
        let (low, high) = (range.after.next(), range.before.prev().min(*head));
        let oldest = Seq((head.0 + 1).saturating_sub(KEPT).max(1));
        // The event where it begins is needed in any case.
        let begins = if range.newest { high } else { low };
        if *epoch == 0 || low > high || begins < oldest || range.limit == 0 {
            return None;
        }
        let kept = usize::try_from(KEPT).unwrap_or(usize::MAX);
        let count = range.limit.min(range.bytes / EVENT_BYTES_MIN + 1).min(kept);
        Some(Self { low, high, first: low.max(oldest), last: high, count })
    }

    /// The page, if these rows are all of it: one after another without a hole from where the range begins, until it ends or
    /// is full.
    pub(super) fn answer(&self, range: &Range, rows: Vec<(Seq, Bytes)>) -> Option<Page> {
        let mut page = Page::default();
        let mut next = if range.newest { self.high } else { self.low };
        let mut bytes = 0;
        let mut rows = rows.into_iter();
        loop {
            page.more = self.low <= next && next <= self.high;
            if !page.more || page.events.len() >= range.limit || bytes >= range.bytes {
                break;
            }
            let Some((seq, event)) = rows.next() else {
                if rules::holds(Rule::RecentWithoutHole) {
                    return None;
                }
                break;
            };
            if seq != next && rules::holds(Rule::RecentWithoutHole) {
                return None;
            }
            bytes += event.len();
            page.events.push(event);
            // Below the first event there is seq 0, which is in no range.
            next = if range.newest { seq.prev() } else { seq.next() };
        }
        if range.newest {
            page.events.reverse();
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use confab_ids::ChatId;
    use proptest::prelude::*;

    use super::*;

    fn asked(after: u64, before: u64, limit: usize, bytes: usize, newest: bool, head: u64) -> Asked {
        let range = Range { chat: ChatId(1), after: Seq(after), before: Seq(before), limit, bytes, newest };
        Asked { range, as_of: AsOf { epoch: 1, head: Seq(head) } }
    }

    /// Ten bytes each.
    fn event(seq: u64) -> Bytes {
        format!("{seq:010}").into()
    }

    /// What Redis answers, of those that it has.
    fn rows(wanted: &Wanted, newest: bool, has: impl Fn(u64) -> bool) -> Vec<(Seq, Bytes)> {
        let all = (wanted.first.0..=wanted.last.0).filter(|seq| has(*seq)).map(|seq| (Seq(seq), event(seq)));
        let mut all: Vec<_> = all.collect();
        if newest {
            all.reverse();
        }
        all.truncate(wanted.count);
        all
    }

    fn answer(asked: &Asked, has: impl Fn(u64) -> bool) -> Option<Page> {
        let wanted = Wanted::of(asked)?;
        wanted.answer(&asked.range, rows(&wanted, asked.range.newest, has))
    }

    /// What the store answers.
    fn whole(asked: &Asked) -> Page {
        let Range { after, before, limit, bytes, newest, .. } = asked.range;
        let mut seqs: Vec<u64> = (after.0 + 1..before.0.min(asked.as_of.head.0 + 1)).collect();
        if newest {
            seqs.reverse();
        }
        let room = seqs.iter().enumerate().take_while(|(at, _)| *at < limit && at * 10 < bytes).count();
        let mut events: Vec<Bytes> = seqs[..room].iter().map(|seq| event(*seq)).collect();
        if newest {
            events.reverse();
        }
        Page { events, more: room < seqs.len() }
    }

    fn any_asked() -> impl Strategy<Value = Asked> {
        let bounds = (0..80_u64, 0..90_u64, prop_oneof![1..5_usize, 40..60_usize]);
        (bounds, prop_oneof![1..100_usize, Just(1 << 20)], any::<bool>(), 0..80_u64)
            .prop_map(|((after, before, limit), bytes, newest, head)| asked(after, before, limit, bytes, newest, head))
    }

    proptest! {
        #[test]
        fn it_answers_as_the_store_or_not_at_all(asked in any_asked(), holes in proptest::collection::vec(0..80_u64, 0..4)) {
            if let Some(page) = answer(&asked, |seq| !holes.contains(&seq)) {
                prop_assert_eq!(page, whole(&asked));
            }
        }

        #[test]
        fn with_all_of_the_newest_it_answers_what_lies_in_them(asked in any_asked()) {
            let page = whole(&asked);
            let oldest = asked.as_of.head.0.saturating_sub(KEPT);
            let lies = page.events.first().is_some_and(|first| *first > event(oldest));
            // Where a range is bounded by bytes, it may ask for too few of such small ones.
            if asked.range.bytes > 1_000 {
                prop_assert_eq!(answer(&asked, |_| true), lies.then_some(page));
            }
        }
    }

    #[test]
    fn without_the_rule_a_hole_is_missed() {
        let asked = asked(10, 21, 100, 1 << 20, true, 20);
        assert_eq!(answer(&asked, |seq| seq != 15), None);
        rules::cut(Some(Rule::RecentWithoutHole));
        let page = answer(&asked, |seq| seq != 15).expect("an answer");
        rules::cut(None);
        assert_eq!(page.events.len(), 9);
    }

    #[test]
    fn without_an_epoch_or_events_nothing_is_asked_for() {
        let of = |epoch, asked: Asked| Wanted::of(&Asked { as_of: AsOf { epoch, ..asked.as_of }, ..asked });
        assert!(of(1, asked(0, 11, 10, 1_000, false, 10)).is_some());
        assert_eq!(of(0, asked(0, 11, 10, 1_000, false, 10)), None);
        assert_eq!(of(1, asked(10, 11, 10, 1_000, false, 10)), None);
        assert_eq!(of(1, asked(0, 1, 10, 1_000, true, 0)), None);
        // The oldest that is kept, and one before.
        assert!(of(1, asked(50, 101, 60, 1 << 20, false, 100)).is_some());
        assert_eq!(of(1, asked(49, 101, 60, 1 << 20, false, 100)), None);
    }
}
