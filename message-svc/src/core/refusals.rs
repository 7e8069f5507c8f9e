//! Which sends are refused because one before them was: a session's sends in a chat are accepted in its order, or not at
//! all. Each carries a generation; one refused for a passing reason takes all of its generation, and of those before, with
//! it, and the edge begins the next one with the first that has no ack.

use confab_ids::ChatId;

use super::maps::HashMap;
use super::ownership::rules::{self, Rule};
use super::{Command, Origin};

/// Sessions and chats remembered per stream. The stream of one with more is to be cut: its edge sends all of it again.
const PER_STREAM_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// By stream, then by session and chat: the highest generation refused.
    streams: HashMap<u64, HashMap<(u64, ChatId), u32>>,
}

impl Refusals {
    /// Whether a command may be taken; one of a newer generation forgets those before.
    pub(crate) fn admit(&mut self, chat: ChatId, origin: Origin, command: &Command) -> bool {
        let (Origin::Stream { stream, session, generation, .. }, Command::Send(_)) = (origin, command) else {
            return true;
        };
        if self.streams.is_empty() || !rules::holds(Rule::RefuseGenerations) {
            return true;
        }
        let Some(sessions) = self.streams.get_mut(&stream) else { return true };
        match sessions.get(&(session, chat)) {
            Some(refused) if generation <= *refused => return false,
            Some(_) => drop(sessions.remove(&(session, chat))),
            None => {}
        }
        true
    }

    /// A command is refused for a reason that passes.
    pub(crate) fn refused(&mut self, chat: ChatId, origin: Origin, command: &Command) {
        if matches!(command, Command::Send(_)) {
            self.refused_send(chat, origin);
        }
    }

    /// The same, of a send that was taken before.
    pub(crate) fn refused_send(&mut self, chat: ChatId, origin: Origin) {
        let Origin::Stream { stream, session, generation, .. } = origin else { return };
        let highest = self.streams.entry(stream).or_default().entry((session, chat)).or_default();
        *highest = generation.max(*highest);
    }

    /// Streams with more refusals than are remembered; they are forgotten.
    pub(crate) fn overfull(&mut self) -> Vec<u64> {
        let over = self.streams.iter().filter(|(_, sessions)| sessions.len() > PER_STREAM_MAX);
        let over: Vec<u64> = over.map(|(stream, _)| *stream).collect();
        over.iter().for_each(|stream| self.closed(*stream));
        over
    }

    /// Nothing comes from this stream any more.
    pub(crate) fn closed(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }
}
