//! The newest events of a chat in its owner's memory: who connects again mostly misses only those, and need not read the store.

use std::collections::VecDeque;

use bytes::Bytes;
use confab_ids::Seq;

use crate::store::Range;

/// Events of one chat.
pub(crate) const EVENTS_MAX: usize = 50;
/// Their bytes, with what each costs beside them; a larger event alone is not kept.
const BYTES_MAX: usize = 32 * 1_024;
/// What an event costs beside its bytes.
const OVERHEAD: usize = 64;
/// Of all chats of an owner. Beyond it those of the chats that were used least recently are forgotten.
const ALL_BYTES_MAX: usize = if cfg!(test) { 2 * 1_024 } else { 64 * 1_024 * 1_024 };

/// Without a hole up to the chat's head. Where it is empty, or too short, the store is read.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    events: VecDeque<Bytes>,
    bytes: usize,
}

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    /// The seq before the first one.
    pub after: Seq,
    /// Encoded, ascending, without a hole up to the head.
    pub events: Vec<Bytes>,
}

impl Tail {
    /// The event of the next head.
    pub(crate) fn push(&mut self, event: Bytes) {
        self.bytes += event.len() + OVERHEAD;
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let oldest = self.events.pop_front().unwrap_or_default();
            self.bytes -= oldest.len() + OVERHEAD;
        }
    }

    /// The event at a seq, if it is here.
    pub(crate) fn get(&self, head: Seq, seq: Seq) -> Option<&Bytes> {
        self.events.get(self.place(head, seq)?)
    }

    fn place(&self, head: Seq, seq: Seq) -> Option<usize> {
        let behind = usize::try_from(head.0.checked_sub(seq.0)?).ok()?;
        self.events.len().checked_sub(behind)?.checked_sub(1)
    }

    /// In the place of the event at a seq, if it is here.
    fn replace(&mut self, head: Seq, seq: Seq, event: Bytes) {
        let Some(at) = self.place(head, seq) else { return };
        self.bytes = self.bytes + event.len() - self.events[at].len();
        self.events[at] = event;
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    /// What comes after a seq, if all of it is here.
    pub(crate) fn after(&self, head: Seq, after: Seq) -> Option<Newest> {
        let wanted = usize::try_from(head.0.checked_sub(after.0)?).ok()?;
        let skipped = self.events.len().checked_sub(wanted)?;
        Some(Newest { after, events: self.events.iter().skip(skipped).cloned().collect() })
    }
}

/// What all tails of an owner take.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    /// Of all, or more: what is forgotten with its chat counts until [`Tails::trim`] counts anew.
    bytes: usize,
}

impl Tails {
    fn has_room(&self) -> bool {
        self.bytes < ALL_BYTES_MAX
    }

    /// The event of a chat's next head. Where there is no room, the chat's tail ends: what lacks an event is of no use.
    pub(crate) fn keep(&mut self, tail: &mut Tail, event: &Bytes) {
        if !self.has_room() {
            *tail = Tail::default();
            return;
        }
        let before = tail.bytes();
        tail.push(event.clone());
        self.bytes = (self.bytes + tail.bytes()).saturating_sub(before);
    }

    /// Events that are others now. `head`: of the tail.
    pub(crate) fn change(&mut self, tail: &mut Tail, head: Seq, changed: &[(Seq, Bytes)]) {
        let before = tail.bytes();
        changed.iter().for_each(|(seq, event)| tail.replace(head, *seq, event.clone()));
        self.bytes = (self.bytes + tail.bytes()).saturating_sub(before);
    }

    /// The tail of a chat that comes into memory.
    pub(crate) fn admit(&mut self, tail: &mut Tail) {
        if !self.has_room() {
            *tail = Tail::default();
        }
        self.bytes += tail.bytes();
    }

    /// Counts the tails of all chats, each with the time of its use, and forgets those that were used least recently while they
    /// are too many: down to half, so that it isn't done often.
    pub(crate) fn trim<'a>(&mut self, tails: impl Iterator<Item = (u64, &'a mut Tail)>) {
        let mut tails: Vec<_> = tails.filter(|(_, tail)| tail.bytes() > 0).collect();
        self.bytes = tails.iter().map(|(_, tail)| tail.bytes()).sum();
        if self.has_room() {
            return;
        }
        tails.sort_unstable_by_key(|(used_ms, _)| *used_ms);
        for (_, tail) in tails {
            if self.bytes <= ALL_BYTES_MAX / 2 {
                break;
            }
            self.bytes -= tail.bytes();
            *tail = Tail::default();
        }
    }
}

impl Newest {
    /// The oldest events of a range that ends at the head, within its bounds; `None`: it begins before them.
    pub(crate) fn first_of(self, range: &Range) -> Option<Vec<Bytes>> {
        let skipped = usize::try_from(range.after.0.checked_sub(self.after.0)?).ok()?;
        let mut bytes = 0;
        let fits = |event: &Bytes| {
            let fits = bytes < range.bytes;
            bytes += event.len();
            fits
        };
        Some(self.events.into_iter().skip(skipped).take(range.limit).take_while(fits).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(seqs: std::ops::RangeInclusive<u64>) -> Tail {
        let mut tail = Tail::default();
        seqs.for_each(|seq| tail.push(seq.to_string().into()));
        tail
    }

    #[test]
    fn it_has_all_after_a_seq_or_says_nothing() {
        let tail = tail(8..=10);
        let after = |seq| tail.after(Seq(10), Seq(seq)).map(|newest| newest.events);
        assert_eq!(after(8), Some(vec!["9".into(), "10".into()]));
        assert_eq!(after(7).map(|events| events.len()), Some(3));
        assert_eq!(after(6), None);
        assert_eq!(after(10), Some(vec![]));
        assert_eq!(after(11), None);
    }

    #[test]
    fn an_event_can_be_another_one() {
        let mut tail = tail(8..=10);
        assert_eq!(tail.get(Seq(10), Seq(8)), Some(&"8".into()));
        assert_eq!((tail.get(Seq(10), Seq(7)), tail.get(Seq(10), Seq(11))), (None, None));
        let mut all = Tails::default();
        all.admit(&mut tail);
        all.change(&mut tail, Seq(10), &[(Seq(9), "nine".into()), (Seq(7), "seven".into())]);
        let events = tail.after(Seq(10), Seq(7)).map(|newest| newest.events);
        assert_eq!(events, Some(vec!["8".into(), "nine".into(), "10".into()]));
        assert_eq!((tail.bytes(), all.bytes), (7 + 3 * OVERHEAD, 7 + 3 * OVERHEAD));
    }

    #[test]
    fn it_is_bounded_by_events_and_bytes() {
        let long = tail(1..=EVENTS_MAX as u64 + 7);
        assert_eq!(long.after(Seq(57), Seq(7)).map(|newest| newest.events.len()), Some(EVENTS_MAX));
        assert_eq!(long.after(Seq(57), Seq(6)), None);
        let mut large = tail(1..=3);
        large.push(vec![0; BYTES_MAX - 2 * OVERHEAD - 1].into());
        assert_eq!(large.after(Seq(4), Seq(2)).map(|newest| newest.events.len()), Some(2));
        assert_eq!(large.after(Seq(4), Seq(1)), None);
        large.push(vec![0; BYTES_MAX + 1].into());
        assert_eq!((large.bytes(), large.after(Seq(5), Seq(4))), (0, None));
    }
}
