//! What a long poll's client has, pure: frames are given in batches, and who asks with a batch's number has got it, and all before it.

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
    given: Positions,
}

#[derive(Debug, Default)]
pub(super) struct Batches {
    /// The newest one's number, and that of the one that its client had when it asked for it.
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
    /// The client has all that was given: with this since its last question.
    Has(Positions),
    /// It has not got the newest batch.
    Again(Page),
    /// It is out of order.
    Unknown,
}

impl Batches {
    /// Of a client that has everything up to these.
    pub(super) fn of(positions: Positions) -> Self {
        Self { positions, ..Self::default() }
    }

    /// Goes on with what another edge has given, for a client that has it up to `cursor`; and what that has brought. `None`: it says
    /// neither of the last two.
    pub(super) fn go_on(kept: &TakePollResponse, cursor: u64) -> Option<(Self, Positions)> {
        if cursor != kept.batch && cursor != kept.after {
            return None;
        }
        let given = if cursor == kept.batch { kept.given.clone() } else { Positions::new() };
        let mut positions = kept.before.clone();
        positions.extend(&given);
        Some((Self { number: kept.batch, after: kept.after, newest: None, confirmed: cursor, positions }, given))
    }

    pub(super) fn asked(&mut self, cursor: u64) -> Asked {
        match self.newest.take() {
            None if cursor == self.confirmed => Asked::Has(Positions::new()),
            Some(Newest { given, .. }) if cursor == self.number => {
                self.confirmed = cursor;
                self.positions.extend(&given);
                Asked::Has(given)
            }
            newest => {
                self.newest = newest;
                match &self.newest {
                    Some(newest) if cursor == self.confirmed => Asked::Again(self.page(newest.frames.clone())),
                    _ => Asked::Unknown,
                }
            }
        }
    }

    /// Gives a batch. All before it is confirmed.
    pub(super) fn give(&mut self, frames: Vec<Frame>, given: Positions) -> Page {
        self.number += 1;
        self.after = self.confirmed;
        self.newest = Some(Newest { frames: frames.clone(), given });
        self.page(frames)
    }

    fn page(&self, frames: Vec<Frame>) -> Page {
        Page { cursor: self.number, frames }
    }

    /// There is nothing new.
    pub(super) fn nothing(&self) -> Page {
        Page { cursor: self.confirmed, frames: Vec::new() }
    }

    /// The newest one's number, and the one it follows.
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
            Asked::Has(given) => given,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_asks_with_a_number_has_that_batch() {
        let mut batches = Batches::of(positions(&[(1, 3)]));
        assert!(has(batches.asked(0)).is_empty());
        assert_eq!(batches.give(frames(&["a", "b"]), positions(&[(1, 5)])).cursor, 1);
        assert_eq!(has(batches.asked(1)), positions(&[(1, 5)]));
        assert_eq!(batches.positions(), &positions(&[(1, 5)]));
        assert!(has(batches.asked(1)).is_empty());
        assert_eq!((batches.nothing().cursor, batches.nothing().frames.len()), (1, 0));
    }

    #[test]
    fn who_asks_with_the_number_before_gets_the_same_again() {
        let mut batches = Batches::of(Positions::new());
        batches.give(frames(&["a"]), positions(&[(1, 1)]));
        for _ in 0..2 {
            match batches.asked(0) {
                Asked::Again(page) => assert_eq!((page.cursor, page.frames), (1, frames(&["a"]))),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(has(batches.asked(1)), positions(&[(1, 1)]));
        assert!(matches!(batches.asked(0), Asked::Unknown));
        assert!(matches!(batches.asked(7), Asked::Unknown));
    }

    #[test]
    fn another_edge_goes_on_from_what_the_client_has() {
        let kept = TakePollResponse {
            batch: 4,
            after: 2,
            before: positions(&[(1, 3), (2, 1)]),
            given: positions(&[(1, 5)]),
            ..TakePollResponse::default()
        };
        let (mut batches, given) = Batches::go_on(&kept, 4).expect("the newest");
        assert_eq!((given, batches.positions()), (positions(&[(1, 5)]), &positions(&[(1, 5), (2, 1)])));
        assert!(has(batches.asked(4)).is_empty());
        let (mut batches, given) = Batches::go_on(&kept, 2).expect("the one before");
        assert!(given.is_empty() && has(batches.asked(2)).is_empty());
        assert_eq!(batches.positions(), &positions(&[(1, 3), (2, 1)]));
        assert_eq!(batches.give(frames(&["a"]), positions(&[(1, 4)])).cursor, 5);
        assert_eq!(batches.numbers(), (5, 2));
        assert!(Batches::go_on(&kept, 3).is_none());
    }
}
