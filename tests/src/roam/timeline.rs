//! When a roamer sent, was answered and got what: for figures. The verdict is the checker's, which knows no clock.

use std::time::Instant;

/// What one roamer saw, and when. As long as its history is.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// In the order in which they were sent first.
    pub sends: Vec<Try>,
    pub arrivals: Vec<Arrival>,
    /// Retryable errors, by their codes.
    pub refusals: Vec<(Instant, String)>,
    /// Connections that ended, or fell silent, without the roamer's doing; asked to go elsewhere is not among them.
    pub breaks: Vec<Instant>,
    /// All connections but the first.
    pub connects: Vec<Instant>,
}

/// A message's first try, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    pub chat: u64,
    pub at: Instant,
    /// Of the field's addresses, the one it went to.
    pub edge: usize,
    pub fate: Fate,
    /// Of whichever try: the seq, and when the ack came.
    pub acked: Option<(u64, Instant)>,
}

/// What the first try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody has answered yet.
    Open,
    /// An ack, on the connection that it was sent on.
    Answered,
    /// A retryable error, or its connection broke before.
    Failed,
    /// The roamer itself went away before: neither counts.
    Left,
}

/// A message that reached a roamer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub chat: u64,
    pub seq: u64,
    pub at: Instant,
    /// Of the field's addresses, the one it came from.
    pub edge: usize,
    /// When this connection had caught up; `None`: it had not when this came.
    pub synced: Option<Instant>,
}

impl Timeline {
    /// Sets the fate of first tries that have none yet.
    pub(super) fn settle(&mut self, tries: impl IntoIterator<Item = usize>, fate: Fate) {
        for at in tries {
            if let Some(one) = self.sends.get_mut(at).filter(|one| one.fate == Fate::Open) {
                one.fate = fate;
            }
        }
    }

    /// A message is acked; if nothing was said of its first try before, this answers it.
    pub(super) fn acked(&mut self, at: usize, seq: u64, now: Instant) {
        if let Some(one) = self.sends.get_mut(at) {
            one.acked = one.acked.or(Some((seq, now)));
        }
        self.settle([at], Fate::Answered);
    }
}
