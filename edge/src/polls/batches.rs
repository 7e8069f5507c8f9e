//! What a long poll's client has, pure: frames are given in batches, and who asks with a batch's number has got it, and all before it.
//!
//! A batch's number has in its upper half how often the session has been taken by an edge, so that no two edges give the same.

use std::collections::HashMap;

use confab_proto::presence::v1::TakePollResponse;

use super::Page;
use crate::frames::Frame;

/// By chat, seqs.
pub(super) type Positions = HashMap<u64, u64>;

/// Given, and not confirmed.
#[derive(Debug)]
struct Newest {
    frames: Vec<Frame>,
    /// How far its events go, by chat; and the positions that it brings, of chats without events, too.
    events: Positions,
    given: Positions,
}

#[derive(Debug)]
pub(super) struct Batches {
    /// The last number that was given out here.
    last: u64,
    /// The newest batch's number, and that of the one that its client had when it asked for it.
    number: u64,
    after: u64,
    newest: Option<Newest>,
    /// The last one that the client has; by chat, up to where it has everything with that.
    confirmed: u64,
    positions: Positions,
}

/// What a question says.
#[derive(Debug)]
pub(super) enum Asked {
    /// The client has all that was given: with these events since its last question.
    Has(Positions),
    /// It has not got the newest batch.
    Again(Page),
    /// It is of before what the client has said that it has.
    Old,
    /// It is of no batch from here: the session has been elsewhere meanwhile.
    Elsewhere,
}

/// Below all numbers of an edge that has taken the session for the so-manieth time.
fn below(generation: u64) -> u64 {
    generation << 32
}

impl Batches {
    /// Of a new session, whose client has everything up to these.
    pub(super) fn of(positions: Positions) -> Self {
        Self { last: below(1), number: 0, after: 0, newest: None, confirmed: 0, positions }
    }

    /// Goes on with what another edge has given, for a client that has it up to `cursor`; and the events that it has got with that.
    /// `None`: it says neither of the last two.
    pub(super) fn go_on(kept: &TakePollResponse, cursor: u64) -> Option<(Self, Positions)> {
        if cursor != kept.batch && cursor != kept.after {
            return None;
        }
        let mut positions = kept.before.clone();
        let mut events = Positions::new();
        if cursor == kept.batch {
            // Where a chat was not among them before, its events may not have been: that is left to the next ones.
            events.extend(kept.given.iter().filter(|(chat, _)| kept.before.contains_key(chat)));
            positions.extend(&kept.given);
        }
        // Of a batch that it has not got nobody needs to know any more.
        let (last, after) = (below(kept.generation), kept.after.min(cursor));
        Some((Self { last, number: cursor, after, newest: None, confirmed: cursor, positions }, events))
    }

    pub(super) fn asked(&mut self, cursor: u64) -> Asked {
        match self.newest.take() {
            None if cursor == self.confirmed => Asked::Has(Positions::new()),
            Some(Newest { events, given, .. }) if cursor == self.number => {
                self.confirmed = cursor;
                self.positions.extend(&given);
                Asked::Has(events)
            }
            newest => {
                self.newest = newest;
                match &self.newest {
                    Some(newest) if cursor == self.confirmed => Asked::Again(self.page(newest.frames.clone())),
                    _ if cursor < self.number => Asked::Old,
                    _ => Asked::Elsewhere,
                }
            }
        }
    }

    /// Gives a batch. All before it is confirmed. `places`: where chats are, with or without events.
    pub(super) fn give(
        &mut self,
        frames: Vec<Frame>,
        events: Positions,
        places: impl IntoIterator<Item = (u64, u64)>,
    ) -> Page {
        self.last += 1;
        self.number = self.last;
        self.after = self.confirmed;
        let mut given: Positions =
            places.into_iter().filter(|(chat, seq)| self.positions.get(chat) != Some(seq)).collect();
        given.extend(&events);
        self.newest = Some(Newest { frames: frames.clone(), events, given });
        self.page(frames)
    }

    fn page(&self, frames: Vec<Frame>) -> Page {
        Page { cursor: self.number, frames }
    }

    /// There is nothing new.
    pub(super) fn nothing(&self) -> Page {
        Page { cursor: self.confirmed, frames: Vec::new() }
    }

    /// The newest one's number, whether it was given here or before, and the one it follows.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.number, self.after)
    }

    pub(super) fn given(&self) -> Positions {
        self.newest.as_ref().map(|newest| newest.given.clone()).unwrap_or_default()
    }

    /// Up to where the client has everything by what it has confirmed.
    pub(super) fn positions(&self) -> &Positions {
        &self.positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(of: &[(u64, u64)]) -> Positions {
        of.iter().copied().collect()
    }

    fn frames(texts: &[&str]) -> Vec<Frame> {
        texts.iter().map(|text| Frame::Text((*text).to_owned().into())).collect()
    }

    #[track_caller]
    fn has(asked: Asked) -> Positions {
        match asked {
            Asked::Has(events) => events,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_asks_with_a_number_has_that_batch() {
        let mut batches = Batches::of(positions(&[(1, 3)]));
        assert!(has(batches.asked(0)).is_empty());
        let cursor = batches.give(frames(&["a", "b"]), positions(&[(1, 5)]), [(2, 7)]).cursor;
        assert_eq!(has(batches.asked(cursor)), positions(&[(1, 5)]), "only where there were events");
        assert_eq!(batches.positions(), &positions(&[(1, 5), (2, 7)]));
        assert!(has(batches.asked(cursor)).is_empty());
        assert_eq!((batches.nothing().cursor, batches.nothing().frames.len()), (cursor, 0));
    }

    #[test]
    fn a_batch_brings_only_what_is_new() {
        let mut batches = Batches::of(positions(&[(1, 3), (2, 7)]));
        batches.give(frames(&["a"]), positions(&[(1, 4)]), [(1, 4), (2, 7), (3, 1)]);
        assert_eq!(batches.given(), positions(&[(1, 4), (3, 1)]));
    }

    #[test]
    fn who_asks_with_the_number_before_gets_the_same_again() {
        let mut batches = Batches::of(Positions::new());
        let cursor = batches.give(frames(&["a"]), positions(&[(1, 1)]), []).cursor;
        for _ in 0..2 {
            match batches.asked(0) {
                Asked::Again(page) => assert_eq!((page.cursor, page.frames), (cursor, frames(&["a"]))),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(has(batches.asked(cursor)), positions(&[(1, 1)]));
        assert!(matches!(batches.asked(0), Asked::Old));
        assert!(matches!(batches.asked(cursor + 1), Asked::Elsewhere));
    }

    #[test]
    fn another_edge_goes_on_from_what_the_client_has() {
        let kept = TakePollResponse {
            generation: 2,
            batch: 4,
            after: 2,
            before: positions(&[(1, 3), (2, 1)]),
            given: positions(&[(1, 5), (3, 9)]),
            ..TakePollResponse::default()
        };
        let (mut batches, events) = Batches::go_on(&kept, 4).expect("the newest");
        assert_eq!((events, batches.positions()), (positions(&[(1, 5)]), &positions(&[(1, 5), (2, 1), (3, 9)])));
        assert!(has(batches.asked(4)).is_empty());
        assert_eq!(batches.numbers(), (4, 2));
        let (mut batches, events) = Batches::go_on(&kept, 2).expect("the one before");
        assert!(events.is_empty() && has(batches.asked(2)).is_empty());
        assert_eq!(batches.positions(), &positions(&[(1, 3), (2, 1)]));
        assert_eq!(batches.numbers(), (2, 2), "as if the other one had not been given");
        let cursor = batches.give(frames(&["a"]), positions(&[(1, 4)]), []).cursor;
        assert_eq!(batches.numbers(), (cursor, 2));
        assert!(cursor > below(2), "no number of the edge before");
        assert!(Batches::go_on(&kept, 3).is_none());
    }
}
