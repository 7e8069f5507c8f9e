//! One's own messages: which are not yet on the server's disk, and how far the others have got.

use std::collections::VecDeque;

use super::line::{Line, Tick, harmless};

/// Messages whose tick can still change; older ones keep theirs.
const TICKING_MAX: usize = 500;

#[derive(Debug)]
pub(crate) struct Mine {
    /// In the order in which they were written.
    messages: VecDeque<Message>,
    next_id: u64,
    /// What tells this run's idempotency keys from those of others.
    run: String,
}

#[derive(Debug)]
pub(crate) struct Message {
    id: u64,
    pub(crate) client_id: String,
    pub(crate) content: String,
    at: String,
    /// Known once it is on the server's disk.
    seq: Option<u64>,
    tick: Tick,
}

impl Mine {
    /// `run`: at most 40 characters.
    pub(crate) fn new(run: String) -> Self {
        Self { messages: VecDeque::new(), next_id: 0, run }
    }

    /// A message that is to be sent.
    pub(crate) fn write(&mut self, content: String, at: String) -> &Message {
        self.push(content, at, None, Tick::Sending)
    }

    /// A message that an earlier run or another device sent.
    pub(crate) fn recall(&mut self, content: String, at: String, seq: u64, tick: Tick) -> Line {
        self.push(content, at, Some(seq), tick).line()
    }

    /// A message is on the server's disk; nothing if that was known, or it is not of this run.
    pub(crate) fn acked(&mut self, client_id: &str, at: String, seq: u64, tick: Tick) -> Option<Line> {
        let message = self.sending(client_id)?;
        (message.at, message.seq, message.tick) = (at, Some(seq), tick);
        Some(message.line())
    }

    pub(crate) fn refused(&mut self, client_id: &str) -> Option<Line> {
        let message = self.sending(client_id)?;
        message.tick = Tick::Refused;
        let line = message.line();
        self.messages.retain(|message| message.tick != Tick::Refused);
        Some(line)
    }

    /// The others have got further: the lines that change.
    pub(crate) fn advance(&mut self, reached: impl Fn(u64) -> Tick) -> Vec<Line> {
        let mut lines = Vec::new();
        for message in &mut self.messages {
            let Some(tick) = message.seq.map(&reached).filter(|tick| *tick > message.tick) else { continue };
            message.tick = tick;
            lines.push(message.line());
        }
        self.messages.retain(|message| message.tick < Tick::Read);
        lines
    }

    pub(crate) fn is_of_this_run(&self, client_id: &str) -> bool {
        client_id.strip_prefix(&self.run).is_some_and(|rest| rest.starts_with('-'))
    }

    /// What is not on the server's disk, as far as is known.
    pub(crate) fn unacked(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| message.tick == Tick::Sending)
    }

    pub(crate) fn is_unacked(&self, client_id: &str) -> bool {
        self.unacked().any(|message| message.client_id == client_id)
    }

    fn sending(&mut self, client_id: &str) -> Option<&mut Message> {
        self.messages.iter_mut().find(|message| message.client_id == client_id && message.tick == Tick::Sending)
    }

    fn push(&mut self, content: String, at: String, seq: Option<u64>, tick: Tick) -> &Message {
        while self.messages.len() >= TICKING_MAX
            && self.messages.front().is_some_and(|message| message.tick != Tick::Sending)
        {
            self.messages.pop_front();
        }
        self.next_id += 1;
        let (id, client_id) = (self.next_id, format!("{}-{}", self.run, self.next_id));
        self.messages.push_back(Message { id, client_id, content, at, seq, tick });
        &self.messages[self.messages.len() - 1]
    }
}

impl Message {
    pub(crate) fn line(&self) -> Line {
        Line::Mine { id: self.id, at: self.at.clone(), text: harmless(&self.content), tick: self.tick }
    }
}
