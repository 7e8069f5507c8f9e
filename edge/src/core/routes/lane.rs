//! What one session has under way in one chat: sends without an answer, in their order, and its highest watermarks.

use std::collections::VecDeque;

use bytes::Bytes;
use confab_ids::ChatId;
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Command, Mark, Send};

use super::Effects;
use super::owners::{NO_STREAM, Stream};

/// A send that is older is given up, milliseconds: an owner that dies has its lease for 6 s, its heirs wait for another
/// 6.4 s before they believe it, and then recover the chats that are asked for.
pub(super) const SEND_AGE_MAX_MS: u64 = 20_000;

/// How long a session's watermarks in a chat are kept after its last command there, milliseconds: an owner writes them
/// every 5 s, and what it hadn't written is found to be lost within [`SEND_AGE_MAX_MS`].
pub(super) const KEPT_MS: u64 = 60_000;

/// How long what was refused waits, milliseconds: at first, and at most.
const BACKOFF_MS: (u64, u64) = (50, 1_000);

/// In a command's `call`: it is a mark's, or typing's. Sessions count from 1, and don't come so far.
pub(super) const MARK: u64 = 1 << 63;

/// The generations of all lanes, from one counter: whoever is forgotten, and comes again, begins above all that an owner may
/// have refused of it. It rises only when the lane that is at its top needs a higher one: about as often as one lane is
/// refused, so 32 bits last for years.
#[derive(Debug, Default)]
pub(super) struct Generations(u32);

impl Generations {
    pub(super) fn newest(&self) -> u32 {
        self.0
    }

    fn above(&mut self, generation: u32) -> u32 {
        self.0 = self.0.max(generation.saturating_add(1));
        self.0
    }
}

/// Whose lane it is, and where to.
pub(super) struct Way<'a> {
    pub now_ms: u64,
    pub session: u64,
    pub user: u64,
    pub device: &'a str,
    pub stream: Stream,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub call: u64,
    pub send: Send,
    at_ms: u64,
    /// Where it was sent last, and how often there.
    stream: Stream,
    attempts: u32,
}

/// The highest of a device's marks in a chat. All zero, it tells an owner nothing but that the chat is in use.
#[derive(Debug)]
struct Kept {
    /// Of the newest.
    call: u64,
    delivered: u64,
    read: u64,
    /// The events named in the place of a seq; empty: none.
    delivered_id: Bytes,
    read_id: Bytes,
    sent: bool,
}

/// What a refusal led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is an old one, or not of this lane.
    Ignored,
    /// Its sends begin again.
    Restarted,
    Final(Box<Pending>),
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.call == other.call
    }
}

impl Eq for Pending {}

#[derive(Debug)]
pub(super) struct Lane {
    pub chat: ChatId,
    /// When it is looked at next, as [`super::Router`] has noted it.
    pub due_ms: u64,
    generation: u32,
    sends: VecDeque<Pending>,
    /// So many of `sends` have gone out in this generation, to the owner's stream.
    sent: usize,
    kept: Option<Box<Kept>>,
    /// Nothing goes out before.
    again_ms: u64,
    backoff_ms: u64,
    used_ms: u64,
}

impl Lane {
    pub(super) fn new(chat: ChatId, generations: &Generations) -> Self {
        Self {
            chat,
            due_ms: u64::MAX,
            generation: generations.newest(),
            sends: VecDeque::new(),
            sent: 0,
            kept: None,
            again_ms: 0,
            backoff_ms: BACKOFF_MS.0,
            used_ms: 0,
        }
    }

    pub(super) fn used_ms(&self) -> u64 {
        self.used_ms
    }

    /// No send waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.sends.is_empty()
    }

    /// It has nothing that a new owner would be told.
    pub(super) fn is_bare(&self) -> bool {
        self.sends.is_empty() && self.kept.is_none()
    }

    pub(super) fn push(&mut self, way: &Way<'_>, call: u64, send: Send, fx: &mut Effects) {
        self.used_ms = way.now_ms;
        self.sends.push_back(Pending { call, send, at_ms: way.now_ms, stream: NO_STREAM, attempts: 0 });
        self.go(way, fx);
    }

    pub(super) fn mark(&mut self, way: &Way<'_>, call: u64, mark: Mark, fx: &mut Effects) {
        self.used_ms = way.now_ms;
        let in_turn = self.may_go(way) && self.is_all_sent();
        self.kept.get_or_insert_with(|| Box::new(Kept::nothing(call))).raise(call, &mark, in_turn);
        if in_turn {
            fx.to(way.stream).push(command(way.session, call, 0, Action::Mark(mark)));
        } else {
            self.go(way, fx);
        }
    }

    /// Tells the owner that the chat is in use.
    pub(super) fn touch(&mut self, call: u64) {
        self.kept.get_or_insert_with(|| Box::new(Kept::nothing(call))).sent = false;
    }

    fn may_go(&self, way: &Way<'_>) -> bool {
        way.stream != NO_STREAM && way.now_ms >= self.again_ms
    }

    fn is_all_sent(&self) -> bool {
        self.sent == self.sends.len() && self.kept.as_ref().is_none_or(|kept| kept.sent)
    }

    /// Sends what has not gone out, if it may: the sends, and behind them the marks.
    pub(super) fn go(&mut self, way: &Way<'_>, fx: &mut Effects) {
        if !self.may_go(way) || self.is_all_sent() {
            return;
        }
        let out = fx.to(way.stream);
        for pending in self.sends.range_mut(self.sent..) {
            pending.goes_to(way.stream);
            out.push(command(way.session, pending.call, self.generation, Action::Send(pending.send.clone())));
        }
        self.sent = self.sends.len();
        if let Some(kept) = self.kept.as_mut().filter(|kept| !kept.sent) {
            kept.sent = true;
            let marks = kept.marks(self.chat, way);
            out.extend(marks.map(|mark| command(way.session, kept.call, 0, Action::Mark(mark))));
        }
    }

    /// Its owner is another one, or may be: all of it has to be told again.
    pub(super) fn begin_again(&mut self, generations: &mut Generations) {
        self.restart(generations);
        if let Some(kept) = &mut self.kept {
            kept.sent = false;
        }
    }

    fn restart(&mut self, generations: &mut Generations) {
        if self.sent > 0 {
            self.sent = 0;
            self.generation = generations.above(self.generation);
        }
    }

    /// It goes on at once.
    pub(super) fn wait_no_more(&mut self) {
        self.again_ms = 0;
    }

    /// It goes on a little later, each time more.
    pub(super) fn back_off(&mut self, now_ms: u64) {
        if self.again_ms <= now_ms {
            self.again_ms = now_ms + self.backoff_ms;
            self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS.1);
        }
    }

    /// The send of this call, which was accepted, whichever attempt it was.
    pub(super) fn accepted(&mut self, call: u64) -> Option<Pending> {
        let pending = self.remove(self.place_of(call)?);
        self.backoff_ms = BACKOFF_MS.0;
        pending
    }

    fn place_of(&self, call: u64) -> Option<usize> {
        self.sends.iter().position(|pending| pending.call == call)
    }

    fn remove(&mut self, at: usize) -> Option<Pending> {
        let pending = self.sends.remove(at);
        if at < self.sent {
            self.sent -= 1;
        }
        if self.sends.is_empty() {
            // An idle lane holds no memory for it.
            self.sends = VecDeque::new();
        }
        pending
    }

    /// A send's refusal came on a stream. It counts if it is the last attempt's: an older one's says nothing of that. Those on
    /// one stream are answered each, so that the last answer is awaited.
    pub(super) fn refused(
        &mut self,
        now_ms: u64,
        stream: Stream,
        call: u64,
        passes: bool,
        generations: &mut Generations,
    ) -> Refusal {
        let Some(at) = self.place_of(call) else { return Refusal::Ignored };
        if !self.sends.get_mut(at).is_some_and(|pending| pending.is_last_answer(stream)) {
            return Refusal::Ignored;
        }
        if !passes {
            return self.remove(at).map_or(Refusal::Ignored, |pending| Refusal::Final(Box::new(pending)));
        }
        if at >= self.sent {
            // It waits to be sent again already.
            return Refusal::Ignored;
        }
        self.restart(generations);
        self.back_off(now_ms);
        Refusal::Restarted
    }

    /// A mark's refusal; `true`: it is sent again.
    pub(super) fn mark_refused(&mut self, now_ms: u64, call: u64, passes: bool) -> bool {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.call == call) else { return false };
        if !passes {
            self.kept = None;
            return false;
        }
        if kept.sent {
            kept.sent = false;
            self.back_off(now_ms);
        }
        true
    }

    pub(super) fn is_of_mark(&self, call: u64) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.call == call)
    }

    /// Its first send has waited for too long.
    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        self.sends.front().is_some_and(|first| first.at_ms + SEND_AGE_MAX_MS <= now_ms)
    }

    /// Whether it can be forgotten.
    pub(super) fn is_stale(&self, now_ms: u64) -> bool {
        self.is_idle() && self.used_ms + KEPT_MS <= now_ms
    }

    /// Its sends are nobody's any more. If they were on their way to a new owner, that one is told of the chat without them.
    pub(super) fn take_sends(&mut self, touch: u64, generations: &mut Generations) -> VecDeque<Pending> {
        if self.sent < self.sends.len() {
            self.touch(touch);
        }
        self.sent = 0;
        self.generation = generations.above(self.generation);
        std::mem::take(&mut self.sends)
    }

    /// When it has something to do, after `now_ms`.
    pub(super) fn next_ms(&self, now_ms: u64) -> u64 {
        let over_ms = match self.sends.front() {
            Some(first) => first.at_ms + SEND_AGE_MAX_MS,
            None => self.used_ms + KEPT_MS,
        };
        if self.again_ms > now_ms && !self.is_all_sent() { over_ms.min(self.again_ms) } else { over_ms }
    }
}

impl Pending {
    fn goes_to(&mut self, stream: Stream) {
        self.attempts = if self.stream == stream { self.attempts + 1 } else { 1 };
        self.stream = stream;
    }

    fn is_last_answer(&mut self, stream: Stream) -> bool {
        if self.stream != stream {
            return false;
        }
        self.attempts = self.attempts.saturating_sub(1);
        self.attempts == 0
    }
}

impl Kept {
    fn nothing(call: u64) -> Self {
        Self { call, delivered: 0, read: 0, delivered_id: Bytes::new(), read_id: Bytes::new(), sent: true }
    }

    fn raise(&mut self, call: u64, mark: &Mark, sent: bool) {
        self.call = call;
        self.sent &= sent;
        match (mark.message_id.is_empty(), mark.read > 0) {
            (true, _) => {
                self.delivered = self.delivered.max(mark.delivered);
                self.read = self.read.max(mark.read);
            }
            (false, true) => self.read_id = mark.message_id.clone(),
            (false, false) => self.delivered_id = mark.message_id.clone(),
        }
    }

    fn marks(&self, chat: ChatId, way: &Way<'_>) -> impl Iterator<Item = Mark> {
        let mark = |delivered, read, message_id: &Bytes| Mark {
            chat_id: chat.0,
            user_id: way.user,
            device: way.device.to_owned(),
            delivered,
            read,
            message_id: message_id.clone(),
        };
        let named = !(self.delivered_id.is_empty() && self.read_id.is_empty());
        let by_seq = self.delivered > 0 || self.read > 0 || !named;
        let all = [
            by_seq.then(|| mark(self.delivered, self.read, &Bytes::new())),
            (!self.delivered_id.is_empty()).then(|| mark(0, 0, &self.delivered_id)),
            (!self.read_id.is_empty()).then(|| mark(0, 1, &self.read_id)),
        ];
        all.into_iter().flatten()
    }
}

pub(super) fn command(session: u64, call: u64, generation: u32, action: Action) -> Command {
    Command { session, call, generation, action: Some(action) }
}
