//! An instance of message-svc, as far as an edge can tell: `core/refusals.rs` there has the rules of generations.

use std::collections::{BTreeMap, VecDeque};

use confab_ids::ChatId;
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Accepted, Command, Refused, Reply, reply};

use super::{Key, Store, Stream, is_bad};

/// Where an answer goes.
#[derive(Clone, Copy)]
struct Origin {
    stream: Stream,
    key: Key,
    generation: u32,
}

#[derive(Default)]
struct Open {
    number: Stream,
    inbox: VecDeque<Command>,
    outbox: VecDeque<Reply>,
    /// By session and chat: the highest generation refused.
    refused: BTreeMap<(u64, ChatId), u32>,
}

#[derive(Default)]
pub(super) struct Instance {
    pub frozen_until_ms: u64,
    open: Option<Open>,
    /// On their way to the store, in order.
    pending: BTreeMap<ChatId, VecDeque<(Key, Vec<Origin>)>>,
    /// Accepted, by key: what is in the log, as far as this owner knows.
    accepted: BTreeMap<ChatId, Vec<Key>>,
    marks: BTreeMap<(u64, ChatId), u64>,
}

impl Instance {
    pub(super) fn has_stream(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn is_stream(&self, stream: Stream) -> bool {
        self.open.as_ref().is_some_and(|open| open.number == stream)
    }

    pub(super) fn inbox(&mut self) -> &mut VecDeque<Command> {
        &mut self.open.as_mut().expect("a stream").inbox
    }

    pub(super) fn open(&mut self, number: Stream) {
        self.open = Some(Open { number, ..Open::default() });
    }

    pub(super) fn close(&mut self) -> Option<Stream> {
        self.open.take().map(|open| open.number)
    }

    pub(super) fn mark(&self, session: u64, chat: ChatId) -> u64 {
        self.marks.get(&(session, chat)).copied().unwrap_or(0)
    }

    pub(super) fn next_reply(&mut self) -> Option<(Stream, Reply)> {
        let open = self.open.as_mut()?;
        Some((open.number, open.outbox.pop_front()?))
    }

    pub(super) fn next_chat(&self) -> Option<ChatId> {
        self.open.as_ref()?.inbox.front().map(chat_of)
    }

    /// Takes the next command. `passing`: it is refused for a reason that passes.
    pub(super) fn serve(&mut self, owns: bool, passing: bool, by_generation: bool) {
        let Some(open) = &mut self.open else { return };
        let Some(command) = open.inbox.pop_front() else { return };
        let chat = chat_of(&command);
        let key = (command.session, command.call);
        let origin = Origin { stream: open.number, key, generation: command.generation };
        let why = match (owns, passing) {
            (false, _) => Some("NOT_OWNER"),
            (true, true) => Some("UNAVAILABLE"),
            (true, false) => None,
        };
        match command.action.expect("an action") {
            Action::Send(_) => self.send(chat, origin, why, by_generation),
            Action::Mark(_) if why.is_some() => self.say(origin, refusal(why.unwrap_or_default())),
            Action::Typing(_) => {}
            Action::Mark(mark) => {
                let known = self.marks.entry((key.0, chat)).or_default();
                *known = mark.delivered.max(*known);
            }
        }
    }

    fn send(&mut self, chat: ChatId, origin: Origin, why: Option<&str>, by_generation: bool) {
        let lane = (origin.key.0, chat);
        let refused = self.open.as_ref().and_then(|open| open.refused.get(&lane).copied());
        let too_late = refused.is_some_and(|refused| origin.generation <= refused) && by_generation;
        if why.is_some() || too_late {
            return self.turn_away(chat, origin, why.unwrap_or("NOT_OWNER"));
        }
        if let Some(open) = &mut self.open {
            open.refused.remove(&lane);
        }
        if is_bad(origin.key.1) {
            return self.say(origin, refusal("NOT_MEMBER"));
        }
        if self.accepted.get(&chat).is_some_and(|log| log.contains(&origin.key)) {
            return self.say(origin, accepted(chat));
        }
        let pending = self.pending.entry(chat).or_default();
        match pending.iter_mut().find(|(key, _)| *key == origin.key) {
            Some((_, origins)) => origins.push(origin),
            None => pending.push_back((origin.key, vec![origin])),
        }
    }

    fn turn_away(&mut self, chat: ChatId, origin: Origin, why: &str) {
        if let Some(open) = self.open.as_mut().filter(|open| open.number == origin.stream) {
            let highest = open.refused.entry((origin.key.0, chat)).or_default();
            *highest = origin.generation.max(*highest);
        }
        self.say(origin, refusal(why));
    }

    fn say(&mut self, origin: Origin, outcome: reply::Outcome) {
        if let Some(open) = self.open.as_mut().filter(|open| open.number == origin.stream) {
            let (session, call) = origin.key;
            open.outbox.push_back(Reply { session, call, outcome: Some(outcome) });
        }
    }

    /// Each chat's first message is stored, if it wasn't before, and answered; marks are stored.
    pub(super) fn commit(&mut self, store: &mut Store) {
        for chat in self.pending.keys().copied().collect::<Vec<_>>() {
            let Some((key, origins)) = self.pending.get_mut(&chat).and_then(VecDeque::pop_front) else { continue };
            append(store, chat, key);
            self.accepted.entry(chat).or_default().push(key);
            origins.into_iter().for_each(|origin| self.say(origin, accepted(chat)));
        }
        if store.log.values().map(Vec::len).sum::<usize>() % 3 == 0 {
            self.marks.iter().for_each(|(of, seq)| {
                let known = store.marks.entry(*of).or_default();
                *known = (*seq).max(*known);
            });
        }
    }

    /// The chat is another's, or lost with its memory. The first `kept` of what was under way are in the log.
    pub(super) fn drop_chat(&mut self, chat: ChatId, kept: usize, store: &mut Store) {
        for (at, (key, origins)) in self.pending.remove(&chat).unwrap_or_default().into_iter().enumerate() {
            if at < kept {
                append(store, chat, key);
            }
            origins.into_iter().for_each(|origin| self.turn_away(chat, origin, "NOT_OWNER"));
        }
        self.accepted.remove(&chat);
        self.marks.retain(|(_, of), _| *of != chat);
    }
}

/// What the log has is known by its key; here, who owns the chat finds that out when it stores it.
fn append(store: &mut Store, chat: ChatId, key: Key) {
    let log = store.log.entry(chat).or_default();
    if !log.contains(&key) {
        log.push(key);
    }
}

fn chat_of(command: &Command) -> ChatId {
    match command.action.as_ref().expect("an action") {
        Action::Send(send) => ChatId(send.chat_id),
        Action::Mark(mark) => ChatId(mark.chat_id),
        Action::Typing(typing) => ChatId(typing.chat_id),
    }
}

fn refusal(code: &str) -> reply::Outcome {
    reply::Outcome::Refused(Refused { code: code.to_owned(), ..Refused::default() })
}

fn accepted(chat: ChatId) -> reply::Outcome {
    reply::Outcome::Accepted(Accepted { chat_id: chat.0, ..Accepted::default() })
}
