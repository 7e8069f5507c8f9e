//! What is kept of long polls, so that any edge can go on with one: how far its client has everything, and what the newest batch adds to
//! that. An edge that has it says so with each batch; one that its client comes to takes it.

use std::collections::{BTreeSet, HashMap};

use confab_ids::UserId;
use confab_proto::presence::v1::{KeepPollRequest, TakePollResponse};

/// How long a poll is kept without a word of it, milliseconds.
pub(crate) const POLL_LIFE_MS: u64 = 90_000;

/// Chats of all polls together, and as many polls; beyond it the one that has been silent for longest is forgotten. Its client opens
/// another.
const POSITIONS_MAX: usize = if cfg!(test) { 20 } else { 4_000_000 };

/// What is passed on for one poll, and not fetched yet, bytes; beyond it the newest is dropped.
const PASSED_BYTES_MAX: usize = if cfg!(test) { 8 } else { 256 * 1_024 };

/// So many bytes of that weigh as much as a chat.
const BYTES_PER_CHAT: usize = 16;

/// A poll's name.
pub(crate) type PollId = [u8; 16];

#[derive(Debug)]
struct Kept {
    /// The edge that has it, and how often it has been taken.
    edge: String,
    generation: u64,
    user: UserId,
    device: String,
    batch: u64,
    after: u64,
    before: HashMap<u64, u64>,
    given: HashMap<u64, u64>,
    watched: Vec<u64>,
    synced_batch: u64,
    /// Of an edge that had it, for its client.
    passed: Vec<String>,
    heard_ms: u64,
}

impl Kept {
    fn new(request: KeepPollRequest, before: HashMap<u64, u64>) -> Self {
        let KeepPollRequest { edge_id, user_id, device, batch, after, given, watch, synced_batch, generation, .. } =
            request;
        let watched = watch.unwrap_or_default().user_ids;
        Self {
            edge: edge_id,
            generation,
            user: UserId(user_id),
            device,
            batch,
            after,
            before,
            given,
            watched,
            synced_batch,
            passed: Vec::new(),
            heard_ms: 0,
        }
    }

    fn size(&self) -> usize {
        1 + self.before.len() + self.given.len() + self.watched.len() + self.passed_bytes().div_ceil(BYTES_PER_CHAT)
    }

    fn passed_bytes(&self) -> usize {
        self.passed.iter().map(String::len).sum()
    }

    /// Takes a batch that goes on this; `false`: it doesn't.
    fn go_on(&mut self, request: KeepPollRequest) -> bool {
        if request.batch > self.batch && request.after == self.batch {
            self.before.extend(self.given.drain());
            self.given = request.given;
            (self.batch, self.after) = (request.batch, request.after);
        } else if request.batch != self.batch {
            return false;
        }
        self.synced_batch = request.synced_batch;
        if let Some(watch) = request.watch {
            self.watched = watch.user_ids;
        }
        true
    }
}

/// What came of keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Kept,
    /// Another edge has it.
    Moved,
    /// There is nothing that it goes on.
    Unknown,
}

/// Why a poll can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Unknown,
    AnotherUsers,
}

/// All polls of one instance.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    kept: HashMap<PollId, Kept>,
    by_age: BTreeSet<(u64, PollId)>,
    size: usize,
}

impl Polls {
    pub(crate) fn keep(&mut self, now_ms: u64, id: PollId, mut request: KeepPollRequest) -> Keeping {
        let known = self.forget(&id);
        let before = request.before.take();
        let generation = known.as_ref().map_or(0, |kept| kept.generation);
        let (kept, keeping) = match (known, before) {
            (Some(kept), _) if request.generation < generation => (Some(kept), Keeping::Moved),
            (known, Some(before)) => {
                let passed = known.map(|kept| kept.passed).unwrap_or_default();
                (Some(Kept { passed, ..Kept::new(request, before.chats) }), Keeping::Kept)
            }
            // It was taken elsewhere meanwhile: what is here is of before.
            (known, None) if request.generation > generation => (known, Keeping::Unknown),
            (Some(mut kept), None) => match kept.go_on(request) {
                true => (Some(kept), Keeping::Kept),
                false => (Some(kept), Keeping::Unknown),
            },
            (None, None) => (None, Keeping::Unknown),
        };
        if let Some(mut kept) = kept {
            if keeping == Keeping::Kept {
                kept.heard_ms = now_ms;
            }
            self.put(id, kept);
        }
        keeping
    }

    /// The poll is this edge's from now on. The one that had it, if that is another one.
    pub(crate) fn take(
        &mut self,
        now_ms: u64,
        id: PollId,
        edge: String,
        user: UserId,
        device: &str,
    ) -> Result<(TakePollResponse, Option<String>), NotTaken> {
        self.find(&id, user, device)?;
        let mut kept = self.forget(&id).ok_or(NotTaken::Unknown)?;
        kept.heard_ms = now_ms;
        kept.generation += 1;
        let before = std::mem::replace(&mut kept.edge, edge);
        let before = (before != kept.edge).then_some(before);
        let taken = TakePollResponse {
            generation: kept.generation,
            device: kept.device.clone(),
            batch: kept.batch,
            after: kept.after,
            before: kept.before.clone(),
            given: kept.given.clone(),
            watched: kept.watched.clone(),
            synced_batch: kept.synced_batch,
        };
        self.put(id, kept);
        Ok((taken, before))
    }

    /// Whether there is such a poll of a user's device.
    pub(crate) fn find(&self, id: &PollId, user: UserId, device: &str) -> Result<(), NotTaken> {
        let kept = self.kept.get(id).ok_or(NotTaken::Unknown)?;
        if kept.user == user && kept.device == device { Ok(()) } else { Err(NotTaken::AnotherUsers) }
    }

    /// The edge that has a user's poll.
    pub(crate) fn edge(&self, id: &PollId, user: UserId) -> Option<String> {
        self.kept.get(id).filter(|kept| kept.user == user).map(|kept| kept.edge.clone())
    }

    /// Keeps what is passed on for a poll's client until the edge that has it asks. That edge.
    pub(crate) fn pass(&mut self, id: &PollId, user: UserId, frames: Vec<String>) -> Option<String> {
        self.edge(id, user)?;
        let mut kept = self.forget(id)?;
        let mut bytes = kept.passed_bytes();
        kept.passed.extend(frames.into_iter().take_while(|frame| {
            bytes += frame.len();
            bytes <= PASSED_BYTES_MAX
        }));
        let edge = kept.edge.clone();
        self.put(*id, kept);
        Some(edge)
    }

    /// What was passed on for a poll's client, once.
    pub(crate) fn passed(&mut self, id: &PollId) -> Vec<String> {
        if self.kept.get(id).is_none_or(|kept| kept.passed.is_empty()) {
            return Vec::new();
        }
        let Some(mut kept) = self.forget(id) else { return Vec::new() };
        let passed = std::mem::take(&mut kept.passed);
        self.put(*id, kept);
        passed
    }

    /// It is over: the edge that had it.
    pub(crate) fn end(&mut self, id: &PollId, user: UserId) -> Option<String> {
        self.edge(id, user)?;
        self.forget(id).map(|kept| kept.edge)
    }

    /// Ends a user's polls that are meant.
    pub(crate) fn end_all(&mut self, user: UserId, is_meant: impl Fn(&PollId, &str) -> bool) {
        let of_user = self.kept.iter().filter(|(_, kept)| kept.user == user);
        let meant = of_user.filter(|(id, kept)| is_meant(id, &kept.device));
        let ids: Vec<PollId> = meant.map(|(id, _)| *id).collect();
        ids.iter().for_each(|id| drop(self.forget(id)));
    }

    /// Forgets those whose time is over.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.forget_while(|_, heard_ms| heard_ms + POLL_LIFE_MS <= now_ms);
    }

    fn forget_while(&mut self, is_over: impl Fn(&Self, u64) -> bool) {
        while let Some((heard_ms, id)) = self.by_age.first().copied()
            && is_over(self, heard_ms)
        {
            self.forget(&id);
        }
    }

    fn put(&mut self, id: PollId, kept: Kept) {
        self.size += kept.size();
        self.by_age.insert((kept.heard_ms, id));
        self.kept.insert(id, kept);
        self.forget_while(|polls, _| polls.size > POSITIONS_MAX);
    }

    fn forget(&mut self, id: &PollId) -> Option<Kept> {
        let kept = self.kept.remove(id)?;
        self.size -= kept.size();
        self.by_age.remove(&(kept.heard_ms, *id));
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::presence::v1::{PollPositions, PollUsers};

    const ANN: UserId = UserId(1);
    const ID: PollId = [7; 16];

    fn positions(of: &[(u64, u64)]) -> HashMap<u64, u64> {
        of.iter().copied().collect()
    }

    /// Of edges by how often it has been taken: `a` has a new one.
    fn generation(edge: &str) -> u64 {
        u64::from(edge.as_bytes()[0] - b'a') + 1
    }

    fn batch(edge: &str, after: u64, batch: u64, given: &[(u64, u64)]) -> KeepPollRequest {
        KeepPollRequest {
            edge_id: edge.into(),
            generation: generation(edge),
            user_id: ANN.0,
            device: "phone".into(),
            batch,
            after,
            given: positions(given),
            ..KeepPollRequest::default()
        }
    }

    fn whole(edge: &str, after: u64, of: u64, before: &[(u64, u64)], given: &[(u64, u64)]) -> KeepPollRequest {
        let before = Some(PollPositions { chats: positions(before) });
        KeepPollRequest { before, ..batch(edge, after, of, given) }
    }

    #[test]
    fn another_edge_goes_on_where_the_client_is() {
        let mut polls = Polls::default();
        assert_eq!(polls.keep(0, ID, batch("a", 0, 1, &[])), Keeping::Unknown);
        assert_eq!(polls.keep(0, ID, whole("a", 0, 1, &[(1, 5), (2, 9)], &[(1, 6)])), Keeping::Kept);
        let watch = Some(PollUsers { user_ids: vec![3] });
        let second = KeepPollRequest { watch, synced_batch: 2, ..batch("a", 1, 2, &[(1, 8), (3, 1)]) };
        assert_eq!(polls.keep(1, ID, second), Keeping::Kept);
        let (taken, before) = polls.take(2, ID, "b".into(), ANN, "phone").expect("it is kept");
        assert_eq!(before.as_deref(), Some("a"));
        assert_eq!(taken.before, positions(&[(1, 6), (2, 9)]));
        assert_eq!(taken.given, positions(&[(1, 8), (3, 1)]));
        assert_eq!((taken.batch, taken.after, taken.synced_batch), (2, 1, 2));
        assert_eq!((&taken.watched[..], &taken.device[..]), (&[3][..], "phone"));
    }

    #[test]
    fn the_edge_that_had_it_hears_that_it_has_moved() {
        let mut polls = Polls::default();
        polls.keep(0, ID, whole("a", 0, 1, &[], &[(1, 6)]));
        let (taken, _) = polls.take(0, ID, "b".into(), ANN, "phone").expect("it is kept");
        assert_eq!(taken.generation, generation("b"));
        assert_eq!(polls.keep(1, ID, batch("a", 1, 2, &[(1, 7)])), Keeping::Moved);
        assert_eq!(polls.keep(1, ID, whole("a", 0, 1, &[], &[(1, 6)])), Keeping::Moved);
        assert_eq!(polls.keep(1, ID, batch("b", 1, 2, &[(1, 7)])), Keeping::Kept);
        // One that has taken it elsewhere, from what was kept there: first it says what is new.
        assert_eq!(polls.keep(1, ID, batch("c", 2, 3, &[])), Keeping::Unknown);
        assert_eq!(polls.keep(1, ID, whole("c", 2, 3, &[(1, 7)], &[])), Keeping::Kept);
        assert_eq!(polls.keep(1, ID, batch("b", 2, 3, &[(1, 8)])), Keeping::Moved);
    }

    #[test]
    fn what_is_passed_on_waits_for_whoever_has_the_poll_and_comes_once() {
        let mut polls = Polls::default();
        polls.keep(0, ID, whole("a", 0, 1, &[], &[(1, 6)]));
        polls.take(0, ID, "b".into(), ANN, "phone").expect("it is kept");
        let frames = |of: &[&str]| of.iter().map(|frame| (*frame).to_owned()).collect::<Vec<String>>();
        assert_eq!(polls.pass(&ID, UserId(2), frames(&["no"])), None);
        assert_eq!(polls.pass(&ID, ANN, frames(&["one", "two"])).as_deref(), Some("b"));
        assert_eq!(polls.pass(&ID, ANN, frames(&["three"])).as_deref(), Some("b"), "beyond the bound");
        polls.take(0, ID, "c".into(), ANN, "phone").expect("it is kept");
        assert_eq!(polls.keep(0, ID, whole("c", 0, 1, &[], &[(1, 6)])), Keeping::Kept);
        assert_eq!(polls.passed(&ID), frames(&["one", "two"]));
        assert!(polls.passed(&ID).is_empty());
        polls.end(&ID, ANN);
        assert_eq!(polls.size, 0);
    }

    #[test]
    fn a_word_of_it_keeps_it_and_silence_ends_it() {
        let mut polls = Polls::default();
        polls.keep(0, ID, whole("a", 0, 1, &[], &[(1, 6)]));
        assert_eq!(polls.keep(POLL_LIFE_MS - 1, ID, batch("a", 0, 1, &[])), Keeping::Kept);
        polls.tick(POLL_LIFE_MS);
        assert_eq!(
            polls.take(POLL_LIFE_MS, ID, "b".into(), ANN, "phone").expect("it is kept").0.given,
            positions(&[(1, 6)])
        );
        polls.tick(2 * POLL_LIFE_MS);
        assert_eq!(polls.take(2 * POLL_LIFE_MS, ID, "b".into(), ANN, "phone"), Err(NotTaken::Unknown));
        assert_eq!(polls.size, 0);
    }

    #[test]
    fn nobody_elses_and_no_batch_without_the_one_before() {
        let mut polls = Polls::default();
        polls.keep(0, ID, whole("a", 0, 1, &[], &[]));
        polls.keep(0, ID, batch("a", 1, 2, &[]));
        polls.keep(0, ID, batch("a", 2, 3, &[]));
        assert_eq!(polls.take(0, ID, "b".into(), UserId(2), "phone"), Err(NotTaken::AnotherUsers));
        assert_eq!(polls.take(0, ID, "b".into(), ANN, "tablet"), Err(NotTaken::AnotherUsers));
        assert_eq!(polls.keep(0, ID, batch("a", 4, 5, &[])), Keeping::Unknown);
        assert_eq!(polls.find(&ID, ANN, "phone"), Ok(()));
        assert_eq!(polls.find(&ID, UserId(2), "phone"), Err(NotTaken::AnotherUsers));
        assert_eq!(polls.end(&ID, UserId(2)), None);
        assert!(polls.take(0, ID, "b".into(), ANN, "phone").is_ok());
        assert_eq!(polls.end(&ID, ANN).as_deref(), Some("b"));
        assert_eq!(polls.take(0, ID, "b".into(), ANN, "phone"), Err(NotTaken::Unknown));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_silent_go_first() {
        let mut polls = Polls::default();
        for at in 0..5 {
            polls.keep(at.into(), [at; 16], whole("a", 0, 1, &[(1, 1), (2, 1), (3, 1), (4, 1)], &[]));
        }
        assert_eq!(polls.size, POSITIONS_MAX);
        assert_eq!(polls.take(9, [0; 16], "b".into(), ANN, "phone"), Err(NotTaken::Unknown));
        assert!(polls.take(9, [1; 16], "b".into(), ANN, "phone").is_ok());
    }
}
