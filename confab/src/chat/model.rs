//! The conversation as this client knows it: frames, input and the time go in, lines and frames come out. No sockets, no terminal,
//! no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::frame::{ClientFrame, Event, Incoming, Limits, Receipt, Refusal, ServerFrame, What};
use super::line::{HELP, Line, clock, harmless};
use super::mine::{Message, Mine};
use super::people::People;

/// Messages shown at the start, and by each `/history`.
const PAGE: u32 = 20;
/// After an error that is worth another try but doesn't say when.
const RETRY: Duration = Duration::from_secs(1);

const OPENING: &str = "opening";
const OLDER: &str = "older";

/// What the model wants done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Show(Line),
    Send(ClientFrame),
    Quit,
    /// The chat can't go on; why.
    Fail(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) me: u64,
    pub(crate) chat: u64,
    pub(crate) zone: TimeZone,
    /// What tells this run's idempotency keys from those of others; at most 40 characters.
    pub(crate) run: String,
    /// Whether a person sees what is shown: then it counts as read, otherwise as delivered.
    pub(crate) seen: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    settings: Settings,
    phase: Phase,
    /// The last event that was shown; all before it were, too.
    position: u64,
    /// The first event that was shown.
    oldest: u64,
    /// What the server has been told that we have.
    confirmed: u64,
    people: People,
    watch_max: usize,
    mine: Mine,
    /// When to ask again what the server was too busy for.
    retry_at: Option<Timestamp>,
    /// Chats whose news were mentioned.
    elsewhere: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline,
    /// Asked for the chat's end.
    Opening,
    Live,
}

impl Model {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            people: People::new(settings.me),
            mine: Mine::new(settings.run.clone()),
            settings,
            phase: Phase::Offline,
            position: 0,
            oldest: 0,
            confirmed: 0,
            watch_max: 0,
            retry_at: None,
            elsewhere: BTreeSet::new(),
        }
    }

    /// A connection is up. `members` where they could be asked for.
    pub(crate) fn connected(&mut self, members: Option<Vec<u64>>) -> Vec<Effect> {
        if let Some(members) = members {
            self.people.set(members);
        }
        if self.position > 0 {
            return self.go_live();
        }
        self.phase = Phase::Opening;
        vec![self.open()]
    }

    pub(crate) fn disconnected(&mut self, why: &str, again_in: Duration) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.phase, Phase::Offline);
        self.people.forget_presence();
        // What was confirmed last may not have been sent.
        self.confirmed = 0;
        if before == Phase::Offline {
            return Vec::new();
        }
        vec![note(format!("{why}; connecting again in {} s", again_in.as_secs_f32().ceil()))]
    }

    /// A frame came in.
    pub(crate) fn frame(&mut self, incoming: Incoming, now: Timestamp) -> Vec<Effect> {
        match incoming {
            Incoming::Event(event) => self.live_event(event, now),
            Incoming::Frame(frame) => self.answer(frame, now),
        }
    }

    /// The person, or the pipe, wrote a line.
    pub(crate) fn line(&mut self, line: &str, now: Timestamp) -> Vec<Effect> {
        match line.trim_end() {
            "" => Vec::new(),
            "/quit" | "/q" => vec![Effect::Quit],
            "/help" => HELP.lines().map(|line| note(line.to_owned())).collect(),
            "/who" => self.people.list(|time| self.clock(time, now)).into_iter().map(note).collect(),
            "/history" => self.ask_older(),
            command if command.starts_with('/') && !command.starts_with("//") => {
                let name = command.split_whitespace().next().unwrap_or_default();
                vec![Effect::Show(Line::Problem(format!("{name} is not a command; /help shows them")))]
            }
            text => self.write(text.strip_prefix("//").map_or(text.to_owned(), |text| format!("/{text}")), now),
        }
    }

    /// Messages to send again because the server asked for it.
    pub(crate) fn retries(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.retry_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.retry_at = None;
        match self.phase {
            Phase::Offline => Vec::new(),
            Phase::Opening => vec![self.open()],
            Phase::Live => self.unacked(),
        }
    }

    /// What to tell the server about what was shown since the last call.
    pub(crate) fn confirm(&mut self) -> Option<ClientFrame> {
        if self.phase != Phase::Live || self.position <= self.confirmed {
            return None;
        }
        self.confirmed = self.position;
        let (chat_id, seq) = (self.settings.chat, self.position);
        Some(if self.settings.seen {
            ClientFrame::Read { chat_id, seq }
        } else {
            ClientFrame::Delivered { chat_id, seq }
        })
    }

    /// Messages written and not yet on the server's disk.
    pub(crate) fn pending(&self) -> usize {
        self.mine.unacked().count()
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// The line above the prompt.
    pub(crate) fn status(&self) -> String {
        let Settings { me, chat, .. } = self.settings;
        let there = if self.phase == Phase::Offline { "not connected".to_owned() } else { self.people.summary() };
        format!("chat {chat} · you are user {me} · {there}")
    }

    fn open(&self) -> Effect {
        Effect::Send(ClientFrame::History {
            chat_id: self.settings.chat,
            before: None,
            limit: PAGE,
            reference: OPENING,
        })
    }

    fn go_live(&mut self) -> Vec<Effect> {
        self.phase = Phase::Live;
        let sync = ClientFrame::Sync { chats: BTreeMap::from([(self.settings.chat, self.position)]) };
        let mut effects = vec![Effect::Send(sync)];
        effects.extend(self.watch(self.people.others().collect()));
        effects.extend(self.unacked());
        effects
    }

    fn watch(&self, mut user_ids: Vec<u64>) -> Option<Effect> {
        user_ids.truncate(self.watch_max);
        (!user_ids.is_empty()).then_some(Effect::Send(ClientFrame::Watch { user_ids }))
    }

    fn unacked(&self) -> Vec<Effect> {
        self.mine.unacked().map(|message| send(self.settings.chat, message)).collect()
    }

    fn write(&mut self, content: String, now: Timestamp) -> Vec<Effect> {
        let (live, chat, at) = (self.phase == Phase::Live, self.settings.chat, self.clock(now, now));
        let message = self.mine.write(content, at);
        // Otherwise it goes once the connection is up.
        let sent = live.then(|| send(chat, message));
        [Effect::Show(message.line())].into_iter().chain(sent).collect()
    }

    fn live_event(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        if event.chat_id != self.settings.chat {
            let news = matches!(event.what, What::Message { .. }) && self.elsewhere.insert(event.chat_id);
            let (me, chat) = (self.settings.me, event.chat_id);
            return news
                .then(|| note(format!("there are messages in chat {chat}: confab chat --user {me} --chat {chat}")))
                .into_iter()
                .collect();
        }
        if event.seq <= self.position {
            return Vec::new();
        }
        self.position = event.seq;
        self.show(event, now)
    }

    fn show(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let at = self.clock(event.created_at, now);
        let told = |user: u64, what: String| vec![note(format!("{at} user {user} {what}"))];
        match event.what {
            What::Message { sender_id, deleted: true, .. } => told(sender_id, "said what was deleted".to_owned()),
            What::Message { sender_id, content, media_url, client_id, .. } => {
                let text = content + &media_url.map(|url| format!(" [{url}]")).unwrap_or_default();
                if sender_id != self.settings.me {
                    return vec![Effect::Show(Line::Theirs { at, user: sender_id, text: harmless(&text) })];
                }
                if let Some(client_id) = client_id.filter(|id| self.mine.is_of_this_run(id)) {
                    return self.acked(&client_id, event.seq, event.created_at, now);
                }
                let tick = self.people.tick(event.seq);
                vec![Effect::Show(self.mine.recall(text, at, event.seq, tick))]
            }
            What::Edited { content: None, .. } => Vec::new(),
            What::Edited { user_id, target, content: Some(content) } => {
                told(user_id, format!("changed message {target} to: {}", harmless(&content)))
            }
            What::Deleted { user_id, target } => told(user_id, format!("deleted message {target}")),
            What::Reacted { user_id, target, emoji, removed: false } => {
                told(user_id, format!("reacted to message {target}: {}", harmless(&emoji)))
            }
            What::Reacted { .. } | What::Unknown => Vec::new(),
            What::Chat { event, by, user_ids, title, role } => match event.as_str() {
                "role" if role == "admin" => told(by, format!("made {} an admin", names(&user_ids))),
                "role" => told(by, format!("made {} a member like others", names(&user_ids))),
                "renamed" => told(by, format!("named the chat {}", harmless(&title))),
                "deleted" => told(by, "deleted the chat".to_owned()),
                _ => self.membership(&event, by, &user_ids, &at),
            },
        }
    }

    fn membership(&mut self, event: &str, by: u64, user_ids: &[u64], at: &str) -> Vec<Effect> {
        match event {
            "created" | "added" => {
                let new = self.people.add(user_ids);
                let shown = (event == "added").then(|| note(format!("{at} user {by} added {}", names(user_ids))));
                shown.into_iter().chain(self.watch(new).filter(|_| self.phase == Phase::Live)).collect()
            }
            "removed" => {
                self.people.remove(user_ids);
                let what = if *user_ids == [by] { "left".to_owned() } else { format!("removed {}", names(user_ids)) };
                vec![note(format!("{at} user {by} {what}"))]
            }
            _ => Vec::new(),
        }
    }

    fn answer(&mut self, frame: ServerFrame, now: Timestamp) -> Vec<Effect> {
        match frame {
            ServerFrame::Hello { limits: Limits { watch_max } } => {
                self.watch_max = watch_max;
                Vec::new()
            }
            ServerFrame::Ack { client_id: Some(client_id), seq, created_at, .. } => {
                self.acked(&client_id, seq, created_at, now)
            }
            ServerFrame::Receipt(receipt) => self.receipt(&receipt),
            ServerFrame::Presence { user_id, status, last_seen } => {
                let online = status == "online";
                let news = self.people.is_now(user_id, online, last_seen);
                news.then_some(Effect::Show(Line::Presence { user: user_id, online })).into_iter().collect()
            }
            ServerFrame::History { chat_id, events, more } if chat_id == self.settings.chat => {
                self.history(events, more, now)
            }
            ServerFrame::Gap { chat_id, from, to } if chat_id == self.settings.chat => {
                self.position = self.position.max(to);
                // So that `/history` begins with what was left out.
                self.oldest = to + 1;
                vec![note(format!("{} older ones are left out: /history", to + 1 - from))]
            }
            ServerFrame::Error(refusal) => self.refused(refusal, now),
            _ => Vec::new(),
        }
    }

    fn acked(&mut self, client_id: &str, seq: u64, created_at: Timestamp, now: Timestamp) -> Vec<Effect> {
        let (tick, at) = (self.people.tick(seq), self.clock(created_at, now));
        self.mine.acked(client_id, at, seq, tick).map(Effect::Show).into_iter().collect()
    }

    fn receipt(&mut self, receipt: &Receipt) -> Vec<Effect> {
        let (Receipt::Member { chat_id, .. } | Receipt::Many { chat_id, .. }) = *receipt;
        if chat_id != self.settings.chat {
            return Vec::new();
        }
        self.people.receipt(receipt);
        let people = &self.people;
        self.mine.advance(|seq| people.tick(seq)).into_iter().map(Effect::Show).collect()
    }

    fn history(&mut self, events: Vec<Event>, more: bool, now: Timestamp) -> Vec<Effect> {
        let opening = self.phase == Phase::Opening;
        let first = events.first().map(|event| event.seq);
        let mut effects = Vec::new();
        if opening {
            self.position = events.last().map_or(0, |event| event.seq);
        } else {
            effects.push(note("— earlier —".to_owned()));
        }
        if more && opening {
            effects.push(note("(/history shows older messages)".to_owned()));
        }
        for event in events {
            effects.extend(self.show(event, now));
        }
        self.oldest = first.unwrap_or(self.oldest);
        if opening {
            effects.extend(self.go_live());
        } else {
            effects.push(note(
                if more {
                    "— now; /history shows still older ones —"
                } else {
                    "— now; that was the beginning —"
                }
                .to_owned(),
            ));
        }
        effects
    }

    fn ask_older(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Live {
            return vec![Effect::Show(Line::Problem("not connected".to_owned()))];
        }
        if self.oldest <= 1 {
            return vec![note("there is nothing older".to_owned())];
        }
        let before = Some(self.oldest);
        vec![Effect::Send(ClientFrame::History { chat_id: self.settings.chat, before, limit: PAGE, reference: OLDER })]
    }

    fn refused(&mut self, refusal: Refusal, now: Timestamp) -> Vec<Effect> {
        let Refusal { code, message, client_id, retryable, retry_after_ms, reference } = refusal;
        let opening = self.phase == Phase::Opening && reference.as_deref() == Some(OPENING);
        let mine = client_id.filter(|client_id| self.mine.is_unacked(client_id));
        if retryable && (opening || mine.is_some()) {
            let wait = retry_after_ms.map_or(RETRY, Duration::from_millis);
            self.retry_at = now.checked_add(wait).ok();
            return Vec::new();
        }
        if opening {
            return vec![Effect::Fail(self.cannot_open(&code, &message))];
        }
        let line = mine.and_then(|client_id| self.mine.refused(&client_id));
        let problem = Line::Problem(format!("{} ({code})", harmless(&message)));
        line.into_iter().chain([problem]).map(Effect::Show).collect()
    }

    pub(crate) fn cannot_open(&self, code: &str, message: &str) -> String {
        let Settings { me, chat, .. } = self.settings;
        match code {
            "NOT_MEMBER" => format!(
                "user {me} is not in chat {chat}, or there is no such chat.\nIn a fresh data folder, users 1 and 2 have chat 1"
            ),
            _ => format!("can't open chat {chat}: {message} ({code})"),
        }
    }

    fn clock(&self, time: Timestamp, now: Timestamp) -> String {
        clock(time, now, &self.settings.zone)
    }
}

fn send(chat_id: u64, message: &Message) -> Effect {
    let (client_id, content) = (message.client_id.clone(), message.content.clone());
    Effect::Send(ClientFrame::Message { chat_id, client_id, content })
}

fn names(users: &[u64]) -> String {
    users.iter().map(|user| format!("user {user}")).collect::<Vec<_>>().join(", ")
}

fn note(text: String) -> Effect {
    Effect::Show(Line::Note(text))
}

#[cfg(test)]
mod tests;
