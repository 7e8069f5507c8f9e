//! One connection: what its frames ask, what it is sent, when it ends.

mod acks;
#[cfg(test)]
mod leaving_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod passing_test;
pub(crate) mod poll;
mod requests;
mod sync;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use confab_ids::{ChatId, Seq, UserId};
use uuid::Uuid;

use self::acks::InFlight;
use self::sync::Sync;
use super::manners::Manners;
use super::tracks::{Step, Tracks};
use super::{Out, Question};
use crate::auth::{Claims, LEEWAY_SECONDS};
use crate::frames::client::{Place, Read};
use crate::frames::event::EventFrame;
use crate::frames::server::{Limits, Marks, ServerFrame};
use crate::frames::{Close, Code, Frame, Wire};
use crate::limits::TOO_MANY;
use crate::mailbox::{Answer, Behind, Item, PASSING_MAX, Passing, Subject, keep_newest};

/// Questions of one connection that are not answered yet; at the bound it is not read.
const QUESTIONS_MAX: usize = 8;

/// Of these, reads of the log that it makes itself; the other chats that are behind wait.
const LOG_READS_MAX: usize = 4;

/// Seed mode: what was written is confirmed by a ping so soon, milliseconds.
const CONFIRM_MS: u64 = 2_000;

/// How often forgettable things are forgotten, milliseconds.
const TIDY_MS: u64 = 30_000;

/// Who was told to come again has this long for going by itself when its time has come.
const LEAVE_MS: u64 = 500;

/// The time of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub wall_ms: i64,
    pub mono_ms: u64,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No subprotocol.
    Seed,
    /// Full mode, `confab.v1.json`.
    Json,
    /// Full mode, `confab.v1.proto`.
    Proto,
    /// A long poll: as in full mode, in JSON. What was given in a batch is confirmed by asking for the next one, and its silence is
    /// not the session's to mind.
    Poll,
}

impl Mode {
    pub(crate) fn wire(self) -> Wire {
        match self {
            Self::Seed | Self::Json | Self::Poll => Wire::Json,
            Self::Proto => Wire::Proto,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub in_flight_max: usize,
    pub watch_max: usize,
    pub ping_ms: u64,
    pub silence_ms: u64,
    pub limits: Limits,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Presence does not know this session yet.
    Registering,
    /// Full mode, before `sync`.
    Waiting,
    Syncing,
    Live,
}

#[derive(Debug)]
pub(crate) struct Session {
    mode: Mode,
    user: UserId,
    device: String,
    bounds: Bounds,
    phase: Phase,
    sync: Option<Box<Sync>>,
    tracks: Tracks,
    manners: Manners,
    paused_until_ms: u64,
    expires_ms: i64,
    /// Its client was told to come again, and should have gone by then.
    leave_ms: u64,
    heard_ms: u64,
    ping_ms: u64,
    pings: u64,
    tidied_ms: u64,
    next_call: u64,
    /// By call, few: an idle connection holds no memory for it.
    in_flight: Vec<(u64, InFlight)>,
    mark_references: VecDeque<(u64, String)>,
    questions: usize,
    /// Reads of the log that wait for their turn: one per chat at most.
    reads_waiting: VecDeque<Question>,
    /// Whom it watches, or has asked to.
    watched: HashSet<UserId>,
    /// Watermarks that were told in the last while, of [`PASSING_MAX`] subjects at most: those of others may go back.
    told: HashMap<Subject, (u64, Marks)>,
    /// Seed mode: this connection's own messages, which an ack stands for.
    own: VecDeque<[u8; 16]>,
    /// Seed mode: written and not yet pinged for; pinged for and not yet confirmed. Of a poll: what is in no batch yet.
    written: HashMap<ChatId, Seq>,
    pinged: HashMap<ChatId, Seq>,
    /// Of a poll: where its chats are, once it is in sync, until that is given.
    synced_to: BTreeMap<u64, u64>,
    confirms_itself: bool,
    out: Vec<Out>,
}

impl Session {
    pub(crate) fn new(now: Now, mode: Mode, claims: &Claims, session_id: Uuid, bounds: Bounds) -> Self {
        let mut session = Self {
            mode,
            user: claims.user,
            device: claims.device.clone(),
            bounds,
            phase: Phase::Registering,
            sync: None,
            tracks: Tracks::default(),
            manners: Manners::new(),
            paused_until_ms: 0,
            expires_ms: expiry(claims),
            leave_ms: u64::MAX,
            heard_ms: now.mono_ms,
            ping_ms: now.mono_ms + bounds.ping_ms,
            pings: 0,
            tidied_ms: now.mono_ms,
            next_call: 0,
            in_flight: Vec::new(),
            mark_references: VecDeque::new(),
            questions: 0,
            reads_waiting: VecDeque::new(),
            watched: HashSet::new(),
            told: HashMap::new(),
            own: VecDeque::new(),
            written: HashMap::new(),
            pinged: HashMap::new(),
            synced_to: BTreeMap::new(),
            confirms_itself: matches!(mode, Mode::Json | Mode::Proto),
            out: Vec::new(),
        };
        if mode == Mode::Poll {
            (session.heard_ms, session.ping_ms) = (u64::MAX, u64::MAX);
        }
        let hello = ServerFrame::Hello {
            session_id,
            user_id: claims.user.0,
            device: &claims.device,
            heartbeat_ms: bounds.ping_ms,
            limits: bounds.limits,
            server_time: now.wall_ms,
        };
        session.out.push(Out::Frame(hello.write(mode.wire())));
        session
    }

    /// What is to be done; the memory goes with it.
    pub(crate) fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// Whether the connection is to be read.
    pub(crate) fn reads(&self, now: Now) -> bool {
        now.mono_ms >= self.paused_until_ms
            && self.in_flight.len() < self.bounds.in_flight_max
            && self.questions < QUESTIONS_MAX
    }

    /// When [`Session::tick`] has something to do, milliseconds on the steady clock.
    pub(crate) fn next_tick_ms(&self, now: Now) -> u64 {
        let until_expiry = u64::try_from(self.expires_ms - now.wall_ms).unwrap_or(0);
        let silent_ms = self.heard_ms.saturating_add(self.bounds.silence_ms);
        let mut next = self.ping_ms.min(silent_ms).min(now.mono_ms + until_expiry);
        next = next.min(self.leave_ms);
        if self.paused_until_ms > now.mono_ms {
            next = next.min(self.paused_until_ms);
        }
        next.min(self.tracks.next_due_ms().unwrap_or(u64::MAX))
    }

    pub(crate) fn tick(&mut self, now: Now) {
        if now.wall_ms >= self.expires_ms {
            return self.out.push(Out::Close(Close::TokenExpired));
        }
        if now.mono_ms >= self.leave_ms {
            return self.out.push(Out::Close(Close::GoingAway));
        }
        if !self.reads(now) && self.mode != Mode::Poll {
            // It isn't silent: it isn't read.
            self.heard_ms = now.mono_ms;
        }
        if now.mono_ms >= self.heard_ms.saturating_add(self.bounds.silence_ms) {
            return self.out.push(Out::Close(Close::TooSlow));
        }
        if now.mono_ms >= self.ping_ms {
            self.ping(now);
        }
        for (chat, step) in self.tracks.due(now.mono_ms) {
            self.step(now, chat, step);
        }
        // `synced` says how far each chat has come.
        if self.phase == Phase::Live && now.mono_ms >= self.tidied_ms + TIDY_MS {
            self.tidied_ms = now.mono_ms;
            self.tracks.tidy(now.mono_ms);
            self.told.retain(|_, (at_ms, _)| *at_ms + TIDY_MS > now.mono_ms);
            self.told.shrink_to_fit();
        }
    }

    fn ping(&mut self, now: Now) {
        self.ping_ms = now.mono_ms + self.bounds.ping_ms;
        self.pings += 1;
        self.pinged.extend(self.written.drain());
        self.written.shrink_to_fit();
        self.out.push(Out::Ping(self.pings));
    }

    /// Something has come from the client.
    pub(crate) fn heard(&mut self, now: Now) {
        self.heard_ms = now.mono_ms;
    }

    /// It has taken what it was long in taking. Meanwhile it wasn't read, and its mailbox neither.
    pub(crate) fn flushed(&mut self, now: Now) {
        self.heard_ms = now.mono_ms;
        self.tidied_ms = now.mono_ms;
    }

    /// A pong to ping `number`: in seed mode it confirms all that was written before that ping.
    pub(crate) fn pong(&mut self, now: Now, number: u64) {
        if number != self.pings || self.confirms_itself {
            return;
        }
        for (chat, seq) in std::mem::take(&mut self.pinged) {
            self.mark(chat, Place::Seq(seq), false, None);
        }
        if !self.written.is_empty() {
            self.ping_ms = self.ping_ms.min(now.mono_ms + CONFIRM_MS);
        }
    }

    /// Something from the mailbox.
    pub(crate) fn item(&mut self, now: Now, item: Item) {
        match item {
            Item::Tracked => self.tracked(),
            Item::Event(event) => self.event(now, event),
            Item::Behind(chat, behind) => self.behind(now, chat, &behind),
            Item::Passing(subject, passing) => self.passing(now, subject, passing),
            Item::Reply(reply) => self.reply(now, *reply),
            Item::Answer(answer) => {
                self.questions = self.questions.saturating_sub(1);
                self.answer(now, *answer);
                while self.questions < LOG_READS_MAX
                    && let Some(question) = self.reads_waiting.pop_front()
                {
                    self.ask(question);
                }
            }
            Item::Close(close) => self.out.push(Out::Close(close)),
            // A poll's task has done what there is to do.
            Item::Taken { .. } | Item::Passed(_) => {}
            Item::Reconnect { after_ms } => {
                self.leave_ms = now.mono_ms.saturating_add(after_ms).saturating_add(LEAVE_MS);
                self.say(&ServerFrame::Reconnect { after_ms });
            }
        }
    }

    fn tracked(&mut self) {
        if self.phase != Phase::Registering {
            return;
        }
        self.phase = Phase::Waiting;
        if self.mode == Mode::Seed {
            self.sync = Some(Box::default());
        }
        if self.sync.is_some() {
            self.begin_sync();
        }
    }

    fn event(&mut self, now: Now, event: Arc<EventFrame>) {
        if matches!(self.phase, Phase::Registering | Phase::Waiting) {
            return;
        }
        let chat = event.chat();
        if self.is_listing() && self.tracks.sent(chat).is_none() {
            return self.note_seen(chat, event.seq());
        }
        let step = self.tracks.event(now.mono_ms, self.user, event);
        self.step(now, chat, step);
    }

    fn passing(&mut self, now: Now, subject: Subject, passing: Passing) {
        match (&self.phase, &mut self.sync) {
            (Phase::Live, _) => self.tell(now, subject, passing),
            // By then it is of long ago.
            (Phase::Syncing, _) if matches!(subject, Subject::Typing(..)) => {}
            // What the sync says of marks may have been read before.
            (Phase::Syncing, Some(sync)) => keep_newest(&mut sync.passing, subject, passing),
            _ => {}
        }
    }

    /// Tells what passes, unless it is a receipt of before one that was told lately: they are published and read, and each way
    /// takes its time.
    fn tell(&mut self, now: Now, subject: Subject, Passing { frame, marks }: Passing) {
        if matches!(subject, Subject::Receipt(..)) {
            if self.told.get(&subject).is_some_and(|(_, told)| marks.is_behind(*told)) {
                return;
            }
            if self.told.len() < PASSING_MAX || self.told.contains_key(&subject) {
                self.told.insert(subject, (now.mono_ms, marks));
            }
        }
        self.out.push(Out::Passing(subject, frame));
    }

    fn behind(&mut self, now: Now, chat: ChatId, behind: &Behind) {
        match self.phase {
            Phase::Registering | Phase::Waiting => {}
            Phase::Syncing if self.is_listing() && self.tracks.sent(chat).is_none() => {
                self.note_seen(chat, behind.head);
            }
            Phase::Syncing | Phase::Live => {
                let step = self.tracks.behind(now.mono_ms, chat, behind);
                self.step(now, chat, step);
            }
        }
    }

    fn step(&mut self, now: Now, chat: ChatId, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Send(events) => events.iter().for_each(|event| self.send_event(now, event)),
            Step::Fetch(after) => self.ask_log(Question::List { chat, after }),
            Step::Locate => self.ask_log(Question::SyncOne { chat }),
        }
    }

    fn send_event(&mut self, now: Now, event: &EventFrame) {
        let own = self.own.iter().position(|own| own == event.message_id());
        let own = own.and_then(|at| self.own.remove(at)).is_some();
        let acked = self.ack_in_place(event);
        if !own && !acked {
            self.out.extend(event.frame_for(self.user, self.mode.wire()).map(Out::Frame));
        }
        if event.removes(self.user) {
            self.tracks.left(event.chat());
        }
        if self.mode == Mode::Poll {
            self.written.insert(event.chat(), event.seq());
        } else if !self.confirms_itself {
            // One at a time: else on a long way each pong would be too old when it comes.
            if self.written.is_empty() && self.pinged.is_empty() {
                self.ping_ms = self.ping_ms.min(now.mono_ms + CONFIRM_MS);
            }
            self.written.insert(event.chat(), event.seq());
        }
    }

    fn send_logged(&mut self, now: Now, chat: ChatId, events: &[bytes::Bytes]) {
        for bytes in events {
            let Some(event) = EventFrame::decode(bytes, Seq::ZERO) else { continue };
            if self.tracks.advance(chat, event.seq()) {
                self.send_event(now, &event);
            }
        }
    }

    fn answer(&mut self, now: Now, answer: Answer) {
        match answer {
            Answer::Synced { chats, next, known_device } => {
                if let Some(sync) = &mut self.sync {
                    sync.known_device |= known_device;
                }
                self.synced_page(now, chats, next);
            }
            Answer::SyncedOne { chat, sync } => {
                match sync {
                    Some(sync) => self.synced_chat(now, &sync),
                    None => self.tracks.forget(chat),
                }
                if self.phase == Phase::Live {
                    self.release_acks();
                }
                self.finish_sync(now);
            }
            Answer::SyncFailed => {
                let why = "catching up is not possible at the moment: reconnect";
                self.error(Code::Unavailable, why, None, None, None, Some(1_000));
                self.out.push(Out::Close(Close::GoingAway));
            }
            Answer::Listed { chat, events, more, head } => {
                self.send_logged(now, chat, &events);
                if let Some(after) = self.tracks.fetched(now.mono_ms, chat, more, head) {
                    self.ask_log(Question::List { chat, after });
                }
                self.finish_sync(now);
            }
            Answer::ListFailed { chat } => self.tracks.fetch_failed(now.mono_ms, chat),
            Answer::Frame(frame) => self.out.push(Out::Answer(frame)),
            Answer::MayWatch { asked, allowed, refusal } => self.may_watch(&asked, allowed, refusal),
        }
    }

    /// What may be watched of what was asked for; what was unwatched meanwhile is not.
    fn may_watch(&mut self, asked: &[UserId], mut allowed: Vec<UserId>, refusal: Option<Frame>) {
        let may_not = |user: &UserId| asked.contains(user) && !allowed.contains(user);
        let ended: Vec<UserId> = self.watched.extract_if(may_not).collect();
        if !ended.is_empty() {
            // One that was watched before, too.
            self.out.push(Out::Ask(Question::Unwatch { users: ended }));
        }
        allowed.retain(|user| self.watched.contains(user));
        if !allowed.is_empty() {
            self.out.push(Out::Ask(Question::WatchPeers { users: allowed }));
        }
        self.out.extend(refusal.map(Out::Answer));
    }

    fn say(&mut self, frame: &ServerFrame<'_>) {
        self.out.push(Out::Frame(frame.write(self.mode.wire())));
    }

    fn reply_with(&mut self, frame: &ServerFrame<'_>) {
        self.out.push(Out::Answer(frame.write(self.mode.wire())));
    }

    /// Nothing that it has asked is open.
    pub(crate) fn has_all_answers(&self) -> bool {
        self.questions == 0
    }

    fn error(
        &mut self,
        code: Code,
        message: &str,
        field: Option<&str>,
        client_id: Option<&str>,
        reference: Option<&str>,
        retry_after_ms: Option<u32>,
    ) {
        let error = error_frame(code, message, field, client_id, reference, retry_after_ms);
        self.reply_with(&error);
    }
}

/// An `error` frame.
pub(crate) fn error_frame<'a>(
    code: Code,
    message: &'a str,
    field: Option<&'a str>,
    client_id: Option<&'a str>,
    reference: Option<&'a str>,
    retry_after_ms: Option<u32>,
) -> ServerFrame<'a> {
    ServerFrame::Error { code, message, field, client_id, retryable: code.retryable(), retry_after_ms, reference }
}

/// An `error` that answers a frame.
pub(crate) fn error_to<'a>(
    read: &'a Read,
    code: Code,
    message: &'a str,
    field: Option<&'a str>,
    retry_after_ms: Option<u32>,
) -> ServerFrame<'a> {
    error_frame(code, message, field, read.client_id.as_deref(), read.reference.as_deref(), retry_after_ms)
}

/// A message that is one too many for its sender.
pub(crate) fn too_many(read: &Read, wait: Duration) -> ServerFrame<'_> {
    // Rounded up: after that long there is room.
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
    error_to(read, Code::RateLimited, TOO_MANY, None, Some(wait_ms))
}

fn expiry(claims: &Claims) -> i64 {
    claims.expires_at.saturating_add(i64::try_from(LEEWAY_SECONDS).unwrap_or(0)).saturating_mul(1_000)
}
