//! The order of each chat on one connection: what was sent, what is held back behind a hole, what is being fetched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use confab_ids::{ChatId, Seq, UserId};

use crate::frames::event::EventFrame;
use crate::mailbox::Behind;

/// How long a hole is waited for before it is fetched, milliseconds.
const HOLD_MS: u64 = 500;

/// Events held back per chat; at the bound the hole is fetched at once.
const HOLD_MAX: usize = 16;

/// A chat without traffic is forgotten after this, milliseconds: by then all of it has settled.
const IDLE_MS: u64 = 60_000;

/// How long a fetch that failed waits, milliseconds.
const RETRY_MS: u64 = 1_000;

#[derive(Debug)]
enum Phase {
    Following,
    /// Behind a hole, until the time.
    Holding(Box<Held>),
    /// The connection's place is being asked for: `sent` means nothing yet, and events only raise `known`.
    Locating,
    /// The log is being read; events only raise `known`.
    Fetching,
    /// What was asked for could not be read: again at the time.
    Waiting {
        until_ms: u64,
        located: bool,
    },
}

/// Boxed in its phase, for it is rare and every chat of every connection has a phase.
#[derive(Debug)]
struct Held {
    until_ms: u64,
    events: BTreeMap<Seq, Arc<EventFrame>>,
}

#[derive(Debug)]
struct Track {
    sent: Seq,
    known: Seq,
    used_ms: u64,
    phase: Phase,
    /// What was sent last has told the user that they have left: they may come back with any later event.
    left: bool,
    /// They have come back with this one, which came while the log was read: as one whose reader had left, it may be.
    back: Seq,
}

impl Track {
    fn new(sent: Seq, known: Seq, used_ms: u64, phase: Phase) -> Self {
        Self { sent, known, used_ms, phase, left: false, back: Seq::ZERO }
    }
}

/// What to do about an event.
#[derive(Debug)]
pub(crate) enum Step {
    Nothing,
    /// Send these, in order.
    Send(Vec<Arc<EventFrame>>),
    /// Read the log after this seq.
    Fetch(Seq),
    /// The connection's place in this chat isn't known: ask for it.
    Locate,
}

/// All chats of one connection that have traffic. Grows with them, and shrinks by [`Tracks::tidy`].
#[derive(Debug, Default)]
pub(crate) struct Tracks(HashMap<ChatId, Track>);

impl Tracks {
    /// The connection has all of a chat up to `sent`; `known` is its head. Says from where to fetch, if it is behind.
    pub(crate) fn start(&mut self, now_ms: u64, chat: ChatId, sent: Seq, known: Seq) -> Option<Seq> {
        let (before, back) = self.0.remove(&chat).map_or((Seq::ZERO, Seq::ZERO), |track| (track.known, track.back));
        let known = known.max(before);
        let phase = if known > sent { Phase::Fetching } else { Phase::Following };
        self.0.insert(chat, Track { back, ..Track::new(sent, known, now_ms, phase) });
        (known > sent).then_some(sent)
    }

    pub(crate) fn sent(&self, chat: ChatId) -> Option<Seq> {
        self.0.get(&chat).map(|track| track.sent)
    }

    pub(crate) fn is_fetching(&self) -> bool {
        self.0.values().any(Track::is_busy)
    }

    /// An event has come.
    pub(crate) fn event(&mut self, now_ms: u64, user: UserId, event: Arc<EventFrame>) -> Step {
        let (chat, seq) = (event.chat(), event.seq());
        let Some(track) = self.0.get_mut(&chat) else {
            if event.settled < seq.prev() && !event.introduces(user) {
                return self.locate(now_ms, chat, seq);
            }
            self.0.insert(chat, Track::new(seq, seq, now_ms, Phase::Following));
            return Step::Send(vec![event]);
        };
        track.used_ms = now_ms;
        track.known = track.known.max(seq);
        match &mut track.phase {
            Phase::Locating | Phase::Fetching | Phase::Waiting { .. } => {
                if event.introduces(user) {
                    track.back = track.back.max(seq);
                }
                Step::Nothing
            }
            _ if seq <= track.sent => Step::Nothing,
            Phase::Following if seq == track.sent.next() || track.left && event.introduces(user) => {
                track.sent = seq;
                track.left = false;
                Step::Send(vec![event])
            }
            Phase::Following => {
                let events = BTreeMap::from([(seq, event)]);
                track.phase = Phase::Holding(Box::new(Held { until_ms: now_ms + HOLD_MS, events }));
                Step::Nothing
            }
            Phase::Holding(held) => {
                held.events.insert(seq, event);
                track.release()
            }
        }
    }

    /// The event at `seq` will come; if it is long in coming it is fetched. Says whether it is still to come.
    pub(crate) fn expect(&mut self, now_ms: u64, chat: ChatId, seq: Seq) -> bool {
        let Some(track) = self.0.get_mut(&chat).filter(|track| track.sent < seq) else { return false };
        track.known = track.known.max(seq);
        if matches!(track.phase, Phase::Following) {
            track.phase = Phase::Holding(Box::new(Held { until_ms: now_ms + HOLD_MS, events: BTreeMap::new() }));
        }
        true
    }

    fn locate(&mut self, now_ms: u64, chat: ChatId, known: Seq) -> Step {
        self.0.insert(chat, Track::new(Seq::ZERO, known, now_ms, Phase::Locating));
        Step::Locate
    }

    /// The user may have come back with an event up to this one, after what is being read.
    pub(crate) fn came_back(&mut self, chat: ChatId, seq: Seq) {
        if let Some(track) = self.0.get_mut(&chat) {
            track.back = track.back.max(seq);
        }
    }

    /// The client has this chat up to `sent`, and its user has left it: what is still on its way is of before.
    pub(crate) fn start_left(&mut self, now_ms: u64, chat: ChatId, sent: Seq) {
        let track = || Track { left: true, ..Track::new(sent, sent, now_ms, Phase::Following) };
        self.0.entry(chat).or_insert_with(track);
    }

    /// The user has left with what was sent last.
    pub(crate) fn left(&mut self, chat: ChatId) {
        if let Some(track) = self.0.get_mut(&chat) {
            track.left = true;
        }
    }

    /// The chat is not this connection's.
    pub(crate) fn forget(&mut self, chat: ChatId) {
        self.0.remove(&chat);
    }

    /// Events of a chat up to `head` were not kept for this connection.
    pub(crate) fn behind(&mut self, now_ms: u64, chat: ChatId, behind: &Behind) -> Step {
        let Some(track) = self.0.get_mut(&chat) else {
            let sent = behind.first.prev();
            if behind.settled < sent {
                return self.locate(now_ms, chat, behind.head);
            }
            self.0.insert(chat, Track::new(sent, behind.head, now_ms, Phase::Fetching));
            return Step::Fetch(sent);
        };
        track.used_ms = now_ms;
        track.known = track.known.max(behind.head);
        if track.is_busy() || track.known <= track.sent {
            return Step::Nothing;
        }
        track.phase = Phase::Fetching;
        Step::Fetch(track.sent)
    }

    /// An event from the log, ascending: whether it is to be sent.
    pub(crate) fn advance(&mut self, chat: ChatId, seq: Seq) -> bool {
        let Some(track) = self.0.get_mut(&chat) else { return false };
        let fresh = seq > track.sent;
        track.sent = track.sent.max(seq);
        track.left &= !fresh;
        fresh
    }

    /// A page of the log is done: from where to go on, if there is more.
    pub(crate) fn fetched(&mut self, now_ms: u64, chat: ChatId, more: bool, head: Seq) -> Option<Seq> {
        let track = self.0.get_mut(&chat)?;
        // The events that it has caught up with may yet come: it is not idle.
        track.used_ms = now_ms;
        // What is known has been published, so it is in the log, if not in the page that was read before. A head of 0: the
        // log is not this user's to read, or not any further.
        if more || (track.known > track.sent && head > Seq::ZERO) {
            return Some(track.sent);
        }
        // Once more: what was read may be of before.
        if std::mem::take(&mut track.back) > track.sent {
            track.phase = Phase::Fetching;
            return Some(track.sent);
        }
        track.known = track.sent;
        track.phase = Phase::Following;
        None
    }

    pub(crate) fn fetch_failed(&mut self, now_ms: u64, chat: ChatId) {
        if let Some(track) = self.0.get_mut(&chat) {
            let located = !matches!(track.phase, Phase::Locating);
            track.phase = Phase::Waiting { until_ms: now_ms + RETRY_MS, located };
        }
    }

    /// What is due by now: holes to fetch, and what could not be read before.
    pub(crate) fn due(&mut self, now_ms: u64) -> Vec<(ChatId, Step)> {
        let mut steps = Vec::new();
        for (chat, track) in &mut self.0 {
            if track.due_ms().is_none_or(|due| due > now_ms) {
                continue;
            }
            let (phase, step) = match track.phase {
                Phase::Waiting { located: false, .. } => (Phase::Locating, Step::Locate),
                _ => (Phase::Fetching, Step::Fetch(track.sent)),
            };
            track.phase = phase;
            steps.push((*chat, step));
        }
        steps
    }

    /// When something is due next.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.0.values().filter_map(Track::due_ms).min()
    }

    /// Forgets chats without traffic.
    pub(crate) fn tidy(&mut self, now_ms: u64) {
        self.0.retain(|_, track| !matches!(track.phase, Phase::Following) || track.used_ms + IDLE_MS > now_ms);
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }
}

impl Track {
    fn due_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Holding(ref held) => Some(held.until_ms),
            Phase::Waiting { until_ms, .. } => Some(until_ms),
            Phase::Following | Phase::Locating | Phase::Fetching => None,
        }
    }

    /// Something is being read for it, or will be again.
    fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Locating | Phase::Fetching | Phase::Waiting { .. })
    }

    /// Takes from what is held all that follows on what was sent.
    fn release(&mut self) -> Step {
        let Phase::Holding(held) = &mut self.phase else { return Step::Nothing };
        let held = &mut held.events;
        let mut ready = Vec::new();
        while let Some(event) = held.remove(&self.sent.next()) {
            self.sent = event.seq();
            ready.push(event);
        }
        held.retain(|seq, _| *seq > self.sent);
        if held.is_empty() && self.known <= self.sent {
            self.phase = Phase::Following;
        } else if held.len() > HOLD_MAX && ready.is_empty() {
            self.phase = Phase::Fetching;
            return Step::Fetch(self.sent);
        }
        if ready.is_empty() { Step::Nothing } else { Step::Send(ready) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::message::v1::{Event, Membership, MembershipKind, event};
    use prost::Message as _;

    const ME: UserId = UserId(1);
    const CHAT: ChatId = ChatId(7);

    fn event(seq: u64, settled: u64) -> Arc<EventFrame> {
        event_of(seq, settled, None)
    }

    fn event_of(seq: u64, settled: u64, body: Option<event::Body>) -> Arc<EventFrame> {
        let event = Event { chat_id: CHAT.0, seq, body, ..Event::default() };
        Arc::new(EventFrame::decode(&event.encode_to_vec(), Seq(settled)).expect("an event"))
    }

    fn added(user: UserId, seq: u64) -> Arc<EventFrame> {
        let kind = MembershipKind::Added.into();
        let membership = Membership { kind, user_ids: vec![user.0], ..Membership::default() };
        event_of(seq, 3, Some(event::Body::Membership(membership)))
    }

    fn sent(step: Step) -> Vec<u64> {
        match step {
            Step::Send(events) => events.iter().map(|event| event.seq().0).collect(),
            other => panic!("not sent: {other:?}"),
        }
    }

    #[test]
    fn in_order_at_once_a_double_never_and_a_hole_waits() {
        let mut tracks = Tracks::default();
        assert_eq!(tracks.start(0, CHAT, Seq(3), Seq(3)), None);
        assert_eq!(sent(tracks.event(0, ME, event(4, 3))), [4]);
        assert!(matches!(tracks.event(0, ME, event(4, 3)), Step::Nothing));
        assert!(matches!(tracks.event(1, ME, event(6, 3)), Step::Nothing));
        assert!(matches!(tracks.event(2, ME, event(8, 3)), Step::Nothing));
        assert_eq!(sent(tracks.event(3, ME, event(5, 3))), [5, 6]);
        assert_eq!(sent(tracks.event(3, ME, event(7, 3))), [7, 8]);
        assert_eq!(tracks.next_due_ms(), None);
    }

    #[test]
    fn a_hole_that_stays_is_fetched_with_all_that_came_meanwhile() {
        let mut tracks = Tracks::default();
        tracks.start(0, CHAT, Seq(3), Seq(3));
        assert!(matches!(tracks.event(10, ME, event(5, 3)), Step::Nothing));
        assert!(tracks.due(HOLD_MS + 9).is_empty());
        assert!(matches!(tracks.due(HOLD_MS + 10)[..], [(CHAT, Step::Fetch(Seq(3)))]));
        assert!(matches!(tracks.event(600, ME, event(6, 3)), Step::Nothing));
        assert!(tracks.advance(CHAT, Seq(4)) && tracks.advance(CHAT, Seq(5)));
        // The page was read before 6 was there; 6 came as an event meanwhile.
        assert_eq!(tracks.fetched(700, CHAT, false, Seq(5)), Some(Seq(5)));
        assert!(tracks.advance(CHAT, Seq(6)));
        assert_eq!(tracks.fetched(700, CHAT, false, Seq(6)), None);
        assert_eq!(sent(tracks.event(700, ME, event(7, 6))), [7]);
    }

    #[test]
    fn an_unknown_chat_goes_on_only_where_all_before_has_settled() {
        let mut tracks = Tracks::default();
        assert_eq!(sent(tracks.event(0, ME, event(9, 8))), [9]);
        let mut tracks = Tracks::default();
        assert!(matches!(tracks.event(0, ME, event(9, 7)), Step::Locate));
        assert!(matches!(tracks.event(0, ME, event(10, 7)), Step::Nothing));
        assert_eq!(tracks.start(1, CHAT, Seq(5), Seq(9)), Some(Seq(5)));
    }

    #[test]
    fn who_comes_back_goes_on_from_there() {
        let mut tracks = Tracks::default();
        tracks.start(0, CHAT, Seq(3), Seq(3));
        assert!(matches!(tracks.event(0, ME, added(ME, 9)), Step::Nothing), "what was before it may yet come");
        let mut tracks = Tracks::default();
        tracks.start(0, CHAT, Seq(3), Seq(3));
        tracks.left(CHAT);
        assert!(matches!(tracks.event(0, ME, added(UserId(2), 8)), Step::Nothing));
        let mut tracks = Tracks::default();
        tracks.start(0, CHAT, Seq(3), Seq(3));
        tracks.left(CHAT);
        assert_eq!(sent(tracks.event(0, ME, added(ME, 9))), [9]);
        assert_eq!(sent(tracks.event(0, ME, event(10, 9))), [10]);
        assert!(matches!(tracks.event(0, ME, added(ME, 12)), Step::Nothing));
    }

    #[test]
    fn what_is_on_its_way_of_a_chat_that_was_left_is_not_told_again() {
        let mut tracks = Tracks::default();
        tracks.start_left(0, CHAT, Seq(9));
        assert!(matches!(tracks.event(0, ME, event(9, 8)), Step::Nothing));
        assert!(matches!(tracks.behind(0, CHAT, &Behind::up_to(Seq(9))), Step::Nothing));
        assert_eq!(sent(tracks.event(0, ME, added(ME, 12))), [12]);
        // What is followed already is not begun again.
        tracks.start_left(0, CHAT, Seq(9));
        assert_eq!(tracks.sent(CHAT), Some(Seq(12)));
    }

    #[test]
    fn who_comes_back_while_the_log_is_read_as_before_has_it_read_once_more() {
        let mut tracks = Tracks::default();
        assert_eq!(tracks.start(0, CHAT, Seq(3), Seq(4)), Some(Seq(3)));
        assert!(matches!(tracks.event(0, ME, added(ME, 9)), Step::Nothing));
        assert!(tracks.advance(CHAT, Seq(4)));
        assert_eq!(tracks.fetched(0, CHAT, false, Seq::ZERO), Some(Seq(4)), "they had left");
        assert!(tracks.advance(CHAT, Seq(9)));
        assert_eq!(tracks.fetched(0, CHAT, false, Seq(9)), None);
        // And not for ever.
        tracks.start(0, CHAT, Seq(9), Seq(10));
        tracks.came_back(CHAT, Seq(12));
        assert_eq!(tracks.fetched(0, CHAT, false, Seq::ZERO), Some(Seq(9)));
        assert_eq!(tracks.fetched(0, CHAT, false, Seq::ZERO), None);
    }

    #[test]
    fn idle_chats_are_forgotten_but_not_those_under_way() {
        let mut tracks = Tracks::default();
        tracks.start(0, CHAT, Seq(3), Seq(3));
        tracks.start(0, ChatId(8), Seq(3), Seq(4));
        tracks.tidy(IDLE_MS);
        assert_eq!((tracks.sent(CHAT), tracks.sent(ChatId(8))), (None, Some(Seq(3))));
    }
}
