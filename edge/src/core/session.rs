//! One connection: what its frames ask, what it is sent, when it ends.

#[cfg(test)]
mod leaving_test;
#[cfg(test)]
mod model_test;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Accepted, ChatKind, ChatSync, Mark, Refused, Reply, Send, reply};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::manners::{Consequence, Manners};
use super::tracks::{Step, Tracks};
use super::{Out, Question};
use crate::auth::{Claims, LEEWAY_SECONDS, TokenError};
use crate::frames::client::{BadFrame, ClientFrame, Place, Read};
use crate::frames::server::{EventFrame, Limits, ServerFrame, text, uuid};
use crate::frames::{Close, Code};
use crate::mailbox::{Answer, Behind, Item, Subject, keep_newest};

/// Questions of one connection that are not answered yet; at the bound it is not read.
const QUESTIONS_MAX: usize = 8;

/// Of these, reads of the log that it makes itself; the other chats that are behind wait.
const LOG_READS_MAX: usize = 4;

/// Seed mode: what was written is confirmed by a ping so soon, milliseconds.
const CONFIRM_MS: u64 = 2_000;

/// References of marks that may yet be refused.
const MARK_REFERENCES_MAX: usize = 32;

/// How often forgettable things are forgotten, milliseconds.
const TIDY_MS: u64 = 30_000;

/// Direct chats whose other member a seed client is told about.
const PEERS_MAX: usize = 200;

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
    /// `confab.v1.json`.
    Full,
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

/// A send or a mark that has no reply yet.
#[derive(Debug, Default)]
struct InFlight {
    client_id: Option<String>,
    reference: Option<String>,
    trace: Option<String>,
    /// Seed mode, of a send: the event that the ack stands for.
    message_id: Option<[u8; 16]>,
    /// Seed mode: accepted, and held until the event's place is reached.
    accepted: Option<Box<Accepted>>,
}

/// A `sync` that came before it could be followed, or is being followed.
#[derive(Debug, Default)]
struct Sync {
    positions: BTreeMap<u64, u64>,
    reference: Option<String>,
    /// All chats of the answer, for `synced`.
    chats: BTreeMap<u64, u64>,
    /// Chats with events since the heads were asked for.
    seen: HashMap<ChatId, Seq>,
    pages_done: bool,
    /// An earlier page knew the device.
    known_device: bool,
    /// Receipts and presences since it began.
    passing: HashMap<Subject, Utf8Bytes>,
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
    /// Seed mode: this connection's own messages, which an ack stands for.
    own: VecDeque<[u8; 16]>,
    /// Seed mode: written and not yet pinged for; pinged for and not yet confirmed.
    written: HashMap<ChatId, Seq>,
    pinged: HashMap<ChatId, Seq>,
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
            own: VecDeque::new(),
            written: HashMap::new(),
            pinged: HashMap::new(),
            confirms_itself: mode == Mode::Full,
            out: Vec::new(),
        };
        let hello = ServerFrame::Hello {
            session_id,
            user_id: claims.user.0,
            device: &claims.device,
            heartbeat_ms: bounds.ping_ms,
            limits: bounds.limits,
            server_time: now.wall_ms,
        };
        session.out.push(Out::Text(text(&hello)));
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
        let mut next = self.ping_ms.min(self.heard_ms + self.bounds.silence_ms).min(now.mono_ms + until_expiry);
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
        if !self.reads(now) {
            // It isn't silent: it isn't read.
            self.heard_ms = now.mono_ms;
        }
        if now.mono_ms >= self.heard_ms + self.bounds.silence_ms {
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

    /// A text frame.
    pub(crate) fn frame(&mut self, now: Now, read: Read, verify: impl FnOnce(&str) -> Result<Claims, TokenError>) {
        let Read { reference, client_id, trace, frame } = read;
        match frame {
            Ok(ClientFrame::Message { chat, client_id, content }) => {
                let message_id = *Uuid::now_v7().as_bytes();
                let seed = self.mode == Mode::Seed;
                if seed {
                    self.own.push_back(message_id);
                    if self.own.len() > 2 * self.bounds.in_flight_max {
                        self.own.pop_front();
                    }
                }
                let send = Send {
                    chat_id: chat.0,
                    user_id: self.user.0,
                    device: self.device.clone(),
                    message_id: message_id.to_vec().into(),
                    client_id: client_id.clone(),
                    content: Some(content),
                };
                let client_id = (!client_id.is_empty()).then_some(client_id);
                let message_id = seed.then_some(message_id);
                let waiting = InFlight { client_id, reference, trace, message_id, accepted: None };
                self.command(Action::Send(send), waiting);
            }
            Ok(ClientFrame::Delivered { chat, at }) => {
                self.confirms_itself = true;
                self.mark(chat, at, false, reference);
            }
            Ok(ClientFrame::Read { chat, at }) => self.mark(chat, at, true, reference),
            Ok(ClientFrame::Sync { positions }) => self.client_sync(now, positions, reference),
            Ok(ClientFrame::History { chat, before, limit }) => {
                self.ask(Question::History { chat, before, limit, reference });
            }
            Ok(ClientFrame::Watch { users }) => self.watch(now, users, reference),
            Ok(ClientFrame::Unwatch { users }) => {
                self.watched.retain(|user| !users.contains(user));
                self.out.push(Out::Ask(Question::Unwatch { users }));
            }
            Ok(ClientFrame::Ping) => self.say(&ServerFrame::Pong { reference: reference.as_deref() }),
            Ok(ClientFrame::Auth { token }) => self.auth(now, verify(&token), reference.as_deref()),
            Ok(ClientFrame::Presence) => {}
            Err(bad) => self.bad_frame(now, &bad, reference.as_deref(), client_id.as_deref()),
        }
    }

    /// Answers a frame that can't be followed, and minds its sender's manners.
    pub(crate) fn bad_frame(&mut self, now: Now, bad: &BadFrame, reference: Option<&str>, client_id: Option<&str>) {
        self.error(bad.code, &bad.message, bad.field, client_id, reference, None);
        match self.manners.bad_frame(now.mono_ms) {
            Consequence::None => {}
            Consequence::Warn { pause_until_ms } => {
                self.error(
                    Code::RateLimited,
                    "many bad frames: from now on each takes its time",
                    None,
                    None,
                    None,
                    None,
                );
                self.paused_until_ms = pause_until_ms;
            }
            Consequence::Pause { pause_until_ms } => self.paused_until_ms = pause_until_ms,
            Consequence::Close => self.out.push(Out::Close(Close::TooManyBadFrames)),
        }
    }

    fn auth(&mut self, now: Now, claims: Result<Claims, TokenError>, reference: Option<&str>) {
        match claims {
            Ok(claims) if claims.user != self.user || claims.device != self.device => {
                self.error(
                    Code::Unauthenticated,
                    "the token is another user's or device's",
                    Some("token"),
                    None,
                    reference,
                    None,
                );
                self.out.push(Out::Close(Close::Revoked));
            }
            Ok(claims) => {
                self.expires_ms = expiry(&claims);
                self.say(&ServerFrame::Authed { expires_at: claims.expires_at.saturating_mul(1_000), reference });
            }
            // The token at hand still holds.
            Err(error) => {
                let bad = BadFrame::new(Code::Unauthenticated, Some("token"), error.to_string());
                self.bad_frame(now, &bad, reference, None);
            }
        }
    }

    fn client_sync(&mut self, now: Now, positions: BTreeMap<u64, u64>, reference: Option<String>) {
        if self.mode == Mode::Seed || self.sync.is_some() || !matches!(self.phase, Phase::Registering | Phase::Waiting)
        {
            let why = "sync is said once per connection, and not in seed mode";
            let bad = BadFrame::new(Code::Conflict, Some("type"), why);
            return self.bad_frame(now, &bad, reference.as_deref(), None);
        }
        self.sync = Some(Box::new(Sync { positions, reference, ..Sync::default() }));
        if self.phase == Phase::Waiting {
            self.begin_sync();
        }
    }

    fn begin_sync(&mut self) {
        self.phase = Phase::Syncing;
        self.ask_sync(ChatId(0));
    }

    fn ask_sync(&mut self, after: ChatId) {
        let Some(sync) = &self.sync else { return };
        let from_read = self.mode == Mode::Seed || sync.known_device;
        let positions = sync.positions.clone();
        self.ask(Question::Sync { positions, from_read, after });
    }

    fn watch(&mut self, now: Now, users: Vec<UserId>, reference: Option<String>) {
        let fresh = users.iter().filter(|user| !self.watched.contains(user)).count();
        if self.watched.len() + fresh > self.bounds.watch_max {
            let why = format!("at most {} users are watched", self.bounds.watch_max);
            let bad = BadFrame::new(Code::TooLarge, Some("user_ids"), why);
            return self.bad_frame(now, &bad, reference.as_deref(), None);
        }
        self.watched.extend(&users);
        self.ask(Question::Watch { users, reference });
    }

    fn mark(&mut self, chat: ChatId, at: Place, read: bool, reference: Option<String>) {
        let mut mark = Mark { chat_id: chat.0, user_id: self.user.0, device: self.device.clone(), ..Mark::default() };
        match at {
            Place::Seq(seq) if read => mark.read = seq.0,
            Place::Seq(seq) => mark.delivered = seq.0,
            Place::Message(id) => {
                mark.message_id = id.0.to_vec().into();
                mark.read = u64::from(read);
            }
        }
        self.next_call += 1;
        let call = self.next_call;
        // A mark is answered only where it is refused, so its `ref` is kept for a while and not until the answer.
        if let Some(reference) = reference {
            self.mark_references.push_back((call, reference));
            if self.mark_references.len() > MARK_REFERENCES_MAX {
                self.mark_references.pop_front();
            }
        }
        self.out.push(Out::Command { call, action: Action::Mark(mark) });
    }

    fn command(&mut self, action: Action, waiting: InFlight) {
        self.next_call += 1;
        self.in_flight.push((self.next_call, waiting));
        self.out.push(Out::Command { call: self.next_call, action });
    }

    fn ask(&mut self, question: Question) {
        self.questions += 1;
        self.out.push(Out::Ask(question));
    }

    /// Asks for a part of a log, when it is its turn.
    fn ask_log(&mut self, question: Question) {
        if self.questions < LOG_READS_MAX { self.ask(question) } else { self.reads_waiting.push_back(question) }
    }

    /// Something from the mailbox.
    pub(crate) fn item(&mut self, now: Now, item: Item) {
        match item {
            Item::Tracked => self.tracked(),
            Item::Event(event) => self.event(now, event),
            Item::Behind(chat, behind) => self.behind(now, chat, &behind),
            Item::Passing(subject, text) => self.passing(subject, text),
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

    fn passing(&mut self, subject: Subject, text: Utf8Bytes) {
        match (&self.phase, &mut self.sync) {
            (Phase::Live, _) => self.out.push(Out::Text(text)),
            // What the sync says of marks may have been read before.
            (Phase::Syncing, Some(sync)) => keep_newest(&mut sync.passing, subject, text),
            _ => {}
        }
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

    /// The pages of a sync are coming: a chat without a track may yet be in one.
    fn is_listing(&self) -> bool {
        self.phase == Phase::Syncing && self.sync.as_ref().is_some_and(|sync| !sync.pages_done)
    }

    /// Bounded by the user's chats.
    fn note_seen(&mut self, chat: ChatId, seq: Seq) {
        if let Some(sync) = &mut self.sync {
            let seen = sync.seen.entry(chat).or_default();
            *seen = (*seen).max(seq);
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
            self.out.extend(event.text_for(self.user).map(Out::Text));
        }
        if !self.confirms_itself {
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
            Answer::Synced { chats, more, known_device } => {
                if let Some(sync) = &mut self.sync {
                    sync.known_device |= known_device;
                }
                self.synced_page(now, chats, more);
            }
            Answer::SyncedOne { chat, sync } => {
                match sync {
                    Some(sync) => self.synced_chat(now, &sync),
                    None => self.tracks.forget(chat),
                }
                if self.phase == Phase::Live {
                    self.release_acks();
                }
                self.finish_sync();
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
                self.finish_sync();
            }
            Answer::ListFailed { chat } => self.tracks.fetch_failed(now.mono_ms, chat),
            Answer::Frame(text) => self.out.push(Out::Text(text)),
            Answer::MayWatch { asked, allowed, refusal } => self.may_watch(&asked, allowed, refusal),
        }
    }

    fn synced_page(&mut self, now: Now, chats: Vec<ChatSync>, more: bool) {
        let last = chats.last().map_or(0, |chat| chat.chat_id);
        let direct = |chat: &&ChatSync| chat.kind() == ChatKind::Direct && chat.peer > 0;
        if self.mode == Mode::Seed {
            let room = PEERS_MAX.saturating_sub(self.watched.len());
            let peers: Vec<UserId> = chats.iter().filter(direct).take(room).map(|chat| UserId(chat.peer)).collect();
            self.watched.extend(&peers);
            if !peers.is_empty() {
                self.out.push(Out::Ask(Question::WatchPeers { users: peers }));
            }
        }
        for chat in &chats {
            self.synced_chat(now, chat);
        }
        if more {
            return self.ask_sync(ChatId(last));
        }
        // Chats that came into being while the pages were read.
        let seen = self.sync.as_mut().map(|sync| {
            sync.pages_done = true;
            std::mem::take(&mut sync.seen)
        });
        for (chat, head) in seen.unwrap_or_default() {
            let step = self.tracks.behind(now.mono_ms, chat, &Behind::up_to(head));
            self.step(now, chat, step);
        }
        self.finish_sync();
    }

    fn synced_chat(&mut self, now: Now, chat: &ChatSync) {
        let id = ChatId(chat.chat_id);
        let from = Seq(chat.position.max(chat.gap_to));
        if chat.gap_to > 0 {
            self.say(&ServerFrame::Gap { chat_id: chat.chat_id, from: chat.position + 1, to: chat.gap_to });
        }
        // An event may have come since the head was read.
        let seen = self.sync.as_mut().and_then(|sync| sync.seen.remove(&id)).unwrap_or_default();
        self.tracks.start(now.mono_ms, id, from, Seq(chat.head).max(seen));
        self.send_logged(now, id, &chat.events);
        if chat.peer_delivered > 0 {
            self.say(&ServerFrame::Receipt {
                chat_id: chat.chat_id,
                user_id: chat.peer,
                delivered: chat.peer_delivered,
                read: chat.peer_read,
            });
        }
        if let Some(sync) = &mut self.sync {
            sync.chats.insert(chat.chat_id, chat.head);
        }
        if let Some(after) = self.tracks.fetched(now.mono_ms, id, false, Seq(chat.head)) {
            self.ask_log(Question::List { chat: id, after });
        }
    }

    /// Says `synced` once all that was missed has been sent.
    fn finish_sync(&mut self) {
        let done = self.sync.as_ref().is_some_and(|sync| sync.pages_done) && self.phase == Phase::Syncing;
        if !done || self.tracks.is_fetching() {
            return;
        }
        self.phase = Phase::Live;
        let Some(mut sync) = self.sync.take() else { return };
        if self.mode == Mode::Full {
            for (chat, seq) in &mut sync.chats {
                *seq = self.tracks.sent(ChatId(*chat)).map_or(*seq, |sent| sent.0);
            }
            self.say(&ServerFrame::Synced { chats: &sync.chats, reference: sync.reference.as_deref() });
        }
        self.release_acks();
        self.out.extend(sync.passing.into_values().map(Out::Text));
        self.out.push(Out::Ask(Question::WatchPeers { users: Vec::new() }));
    }

    /// What may be watched of what was asked for; what was unwatched meanwhile is not.
    fn may_watch(&mut self, asked: &[UserId], mut allowed: Vec<UserId>, refusal: Option<Utf8Bytes>) {
        self.watched.retain(|user| !asked.contains(user) || allowed.contains(user));
        allowed.retain(|user| self.watched.contains(user));
        if !allowed.is_empty() {
            self.out.push(Out::Ask(Question::WatchPeers { users: allowed }));
        }
        self.out.extend(refusal.map(Out::Text));
    }

    fn reply(&mut self, now: Now, reply: Reply) {
        if let Some(reply::Outcome::Accepted(accepted)) = &reply.outcome
            && self.holds_back(now, reply.call, accepted)
        {
            return;
        }
        let waiting = self.answered(reply.call).or_else(|| self.refused_mark(reply.call));
        let is_new = matches!(&reply.outcome, Some(reply::Outcome::Accepted(accepted)) if !accepted.duplicate);
        if let Some(id) = waiting.as_ref().and_then(|waiting| waiting.message_id)
            && !is_new
        {
            // No event will come of it.
            self.own.retain(|own| *own != id);
        }
        match (reply.outcome, waiting) {
            (Some(reply::Outcome::Accepted(accepted)), Some(waiting)) => self.ack(&accepted, &waiting),
            (Some(reply::Outcome::Refused(refused)), waiting) => self.refused(&refused, waiting.as_ref()),
            _ => {}
        }
    }

    fn answered(&mut self, call: u64) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|(waiting, _)| *waiting == call)?;
        let (_, waiting) = self.in_flight.remove(at);
        if self.in_flight.is_empty() {
            self.in_flight = Vec::new();
        }
        Some(waiting)
    }

    fn refused_mark(&mut self, call: u64) -> Option<InFlight> {
        let at = self.mark_references.iter().position(|(mark, _)| *mark == call)?;
        let (_, reference) = self.mark_references.remove(at)?;
        Some(InFlight { reference: Some(reference), ..InFlight::default() })
    }

    /// Seed mode: an ack stands for the event, so it waits until the event's place is reached.
    fn holds_back(&mut self, now: Now, call: u64, accepted: &Accepted) -> bool {
        let (chat, seq) = (ChatId(accepted.chat_id), Seq(accepted.seq));
        let own = |waiting: &InFlight| waiting.message_id.is_some_and(|id| id == accepted.message_id[..]);
        let Some(at) = self.in_flight.iter().position(|(of, waiting)| *of == call && own(waiting)) else {
            return false;
        };
        let to_come = match self.tracks.sent(chat) {
            Some(_) => self.tracks.expect(now.mono_ms, chat, seq),
            None => self.is_listing() || matches!(self.phase, Phase::Registering | Phase::Waiting),
        };
        if to_come {
            self.in_flight[at].1.accepted = Some(Box::new(accepted.clone()));
            if self.is_listing() && self.tracks.sent(chat).is_none() {
                self.note_seen(chat, seq);
            }
        }
        to_come
    }

    /// Seed mode: the ack of the connection's own event, where the event would come. Whether there is one to give.
    fn ack_in_place(&mut self, event: &EventFrame) -> bool {
        let of = |waiting: &InFlight| waiting.message_id.is_some_and(|id| id == event.message_id());
        let Some(at) = self.in_flight.iter().position(|(_, waiting)| of(waiting)) else { return false };
        let (_, waiting) = self.in_flight.remove(at);
        self.ack(&event.accepted(), &waiting);
        true
    }

    /// Gives the acks that were held back for events which will not come (any more): another connection of the device has
    /// confirmed them, or no track is there to bring them.
    fn release_acks(&mut self) {
        let passed = |tracks: &Tracks, accepted: &Accepted| {
            tracks.sent(ChatId(accepted.chat_id)).is_none_or(|sent| sent >= Seq(accepted.seq))
        };
        while let Some(at) = self
            .in_flight
            .iter()
            .position(|(_, waiting)| waiting.accepted.as_ref().is_some_and(|accepted| passed(&self.tracks, accepted)))
        {
            let (_, waiting) = self.in_flight.remove(at);
            self.own.retain(|own| waiting.message_id != Some(*own));
            if let Some(accepted) = &waiting.accepted {
                self.ack(accepted, &waiting);
            }
        }
    }

    fn ack(&mut self, accepted: &Accepted, waiting: &InFlight) {
        self.say(&ServerFrame::Ack {
            client_id: waiting.client_id.as_deref(),
            message_id: uuid(&accepted.message_id),
            chat_id: accepted.chat_id,
            seq: accepted.seq,
            created_at: accepted.created_at_ms,
            duplicate: accepted.duplicate,
            trace_id: waiting.trace.as_deref(),
            reference: waiting.reference.as_deref(),
        });
    }

    fn refused(&mut self, refused: &Refused, waiting: Option<&InFlight>) {
        let code = Code::named(&refused.code);
        let field = (!refused.field.is_empty()).then_some(refused.field.as_str());
        let client_id = waiting.and_then(|waiting| waiting.client_id.as_deref());
        let reference = waiting.and_then(|waiting| waiting.reference.as_deref());
        let retry_after_ms = (refused.retry_after_ms > 0).then_some(refused.retry_after_ms);
        self.error(code, &refused.message, field, client_id, reference, retry_after_ms);
    }

    fn say(&mut self, frame: &ServerFrame<'_>) {
        self.out.push(Out::Text(text(frame)));
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
        self.out.push(Out::Text(error_text(code, message, field, client_id, reference, retry_after_ms)));
    }
}

/// An `error` frame.
pub(crate) fn error_text(
    code: Code,
    message: &str,
    field: Option<&str>,
    client_id: Option<&str>,
    reference: Option<&str>,
    retry_after_ms: Option<u32>,
) -> Utf8Bytes {
    text(&ServerFrame::Error {
        code,
        message,
        field,
        client_id,
        retryable: code.retryable(),
        retry_after_ms,
        reference,
    })
}

fn expiry(claims: &Claims) -> i64 {
    claims.expires_at.saturating_add(i64::try_from(LEEWAY_SECONDS).unwrap_or(0)).saturating_mul(1_000)
}
