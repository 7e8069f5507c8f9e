//! What a long poll's session does beside the others: it says what a batch brings, and goes on where another edge's has ended.

use std::collections::{BTreeMap, HashMap, HashSet};

use confab_ids::{ChatId, Seq, UserId};

use super::sync::Sync;
use super::{Phase, Session, error_to, expiry};
use crate::auth::Claims;
use crate::core::Question;
use crate::frames::Code;
use crate::frames::client::{Place, Read};

/// Where a poll's client is.
#[derive(Debug, Default)]
pub(crate) struct Begin {
    /// By chat, up to where it has everything.
    pub positions: BTreeMap<u64, u64>,
    /// It was told that it is in sync: a chat that is not among the positions came into being later.
    pub synced: bool,
}

impl Session {
    /// One that goes on, and has said it before.
    pub(crate) fn without_hello(mut self) -> Self {
        self.out.clear();
        self
    }

    /// Has the client told what it misses.
    pub(crate) fn begin(&mut self, begin: Begin) {
        let Begin { positions, synced } = begin;
        self.sync = Some(Box::new(Sync { positions, known_device: synced, silent: synced, ..Sync::default() }));
        if self.phase == Phase::Waiting {
            self.begin_sync();
        }
    }

    /// Watches these, if it still may, or now.
    pub(crate) fn watches(&mut self, users: Vec<UserId>) {
        self.watched.extend(&users);
        if !users.is_empty() {
            self.ask(Question::Watch { fresh: users.clone(), users, asked: false, reference: None });
        }
    }

    /// A frame is not followed: too much is under way.
    pub(crate) fn busy(&mut self, read: &Read) {
        let why = "as many questions as may be are under way";
        self.reply_with(&error_to(read, Code::RateLimited, why, None, Some(1_000)));
    }

    /// How far the events go that were written since the last call, by chat; and where the chats are, if it has come to be in sync.
    pub(crate) fn take_written(&mut self) -> (HashMap<u64, u64>, BTreeMap<u64, u64>) {
        let written = std::mem::take(&mut self.written);
        (written.into_iter().map(|(chat, seq)| (chat.0, seq.0)).collect(), std::mem::take(&mut self.synced_to))
    }

    /// The client has got these events, and all before them.
    pub(crate) fn confirm(&mut self, events: &HashMap<u64, u64>) {
        for (chat, seq) in events {
            self.mark(ChatId(*chat), Place::Seq(Seq(*seq)), false, None);
        }
    }

    /// A request has come with this token, which is the same user's and device's.
    pub(crate) fn renewed(&mut self, claims: &Claims) {
        self.expires_ms = self.expires_ms.max(expiry(claims));
    }

    pub(crate) fn watched(&self) -> &HashSet<UserId> {
        &self.watched
    }

    /// All that the client had missed has been written.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.phase == Phase::Live
    }
}
