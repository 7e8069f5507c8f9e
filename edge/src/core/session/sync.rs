//! Catching up: the chats page by page, the events that were missed, `synced`.

use std::collections::{BTreeMap, HashMap};

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, ChatSync};

use super::{Mode, Now, Phase, Session};
use crate::core::{Out, Question};
use crate::frames::server::{Marks, ServerFrame};
use crate::mailbox::{Behind, Passing, Subject};

/// Direct chats whose other member a seed client is told about.
const PEERS_MAX: usize = 200;

/// A `sync` that came before it could be followed, or is being followed.
#[derive(Debug, Default)]
pub(super) struct Sync {
    pub(super) positions: BTreeMap<u64, u64>,
    pub(super) reference: Option<String>,
    /// All chats of the answer, for `synced`.
    pub(super) chats: BTreeMap<u64, u64>,
    /// Chats with events since the heads were asked for.
    pub(super) seen: HashMap<ChatId, Seq>,
    pub(super) pages_done: bool,
    /// An earlier page knew the device.
    pub(super) known_device: bool,
    /// Receipts and presences since it began.
    pub(super) passing: HashMap<Subject, Passing>,
    /// A poll goes on at another edge: its client knows nothing of this.
    pub(super) silent: bool,
}

impl Session {
    pub(super) fn begin_sync(&mut self) {
        self.phase = Phase::Syncing;
        self.ask_sync(ChatId(0));
    }

    fn ask_sync(&mut self, after: ChatId) {
        let Some(sync) = &self.sync else { return };
        let from_read = self.mode == Mode::Seed || sync.known_device;
        let positions = sync.positions.clone();
        self.ask(Question::Sync { positions, from_read, after });
    }

    /// The pages of a sync are coming: a chat without a track may yet be in one.
    pub(super) fn is_listing(&self) -> bool {
        self.phase == Phase::Syncing && self.sync.as_ref().is_some_and(|sync| !sync.pages_done)
    }

    /// Bounded by the user's chats.
    pub(super) fn note_seen(&mut self, chat: ChatId, seq: Seq) {
        if let Some(sync) = &mut self.sync {
            let seen = sync.seen.entry(chat).or_default();
            *seen = (*seen).max(seq);
        }
    }

    pub(super) fn synced_page(&mut self, now: Now, chats: Vec<ChatSync>, next: Option<ChatId>) {
        let direct = |chat: &&ChatSync| chat.kind() == ChatKind::Direct && chat.peer > 0 && !chat.blocked;
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
        if let Some(after) = next {
            return self.ask_sync(after);
        }
        let Some(sync) = &mut self.sync else { return };
        sync.pages_done = true;
        // Chats that are named and not listed: their user has left, and the client has all of it. Its end may yet be published.
        for (chat, position) in &sync.positions {
            self.tracks.start_left(now.mono_ms, ChatId(*chat), Seq(*position));
        }
        // Chats that came into being while the pages were read.
        let seen = std::mem::take(&mut sync.seen);
        for (chat, head) in seen {
            let step = self.tracks.behind(now.mono_ms, chat, &Behind::up_to(head));
            self.step(now, chat, step);
        }
        self.finish_sync(now);
    }

    pub(super) fn synced_chat(&mut self, now: Now, chat: &ChatSync) {
        let id = ChatId(chat.chat_id);
        let from = Seq(chat.position.max(chat.gap_to));
        if chat.gap_to > 0 {
            self.say(&ServerFrame::Gap { chat_id: chat.chat_id, from: chat.position + 1, to: chat.gap_to });
        }
        // An event may have come since the head was read.
        let seen = self.sync.as_mut().and_then(|sync| sync.seen.remove(&id)).unwrap_or_default();
        self.tracks.start(now.mono_ms, id, from, Seq(chat.head).max(seen));
        if chat.left && seen > Seq(chat.head) {
            self.tracks.came_back(id, seen);
        }
        self.send_logged(now, id, &chat.events);
        if chat.peer_delivered > 0 {
            let (chat_id, user_id, delivered, read) = (chat.chat_id, chat.peer, chat.peer_delivered, chat.peer_read);
            let receipt = ServerFrame::Receipt { chat_id, user_id, delivered, read };
            let passing = Passing { frame: receipt.write(self.mode.wire()), marks: Marks { delivered, read } };
            self.tell(now, Subject::Receipt(id, UserId(user_id)), passing);
        }
        if let Some(sync) = &mut self.sync {
            sync.chats.insert(chat.chat_id, chat.head);
        }
        // Of a chat that they have left, whatever is known of its log, there is no more for them.
        let (more, head) = match chat.left {
            true => (self.tracks.sent(id) < Some(Seq(chat.head)), Seq::ZERO),
            false => (false, Seq(chat.head)),
        };
        if let Some(after) = self.tracks.fetched(now.mono_ms, id, more, head) {
            self.ask_log(Question::List { chat: id, after });
        }
    }

    /// Says `synced` once all that was missed has been sent.
    pub(super) fn finish_sync(&mut self, now: Now) {
        let done = self.sync.as_ref().is_some_and(|sync| sync.pages_done) && self.phase == Phase::Syncing;
        if !done || self.tracks.is_fetching() {
            return;
        }
        self.phase = Phase::Live;
        let Some(mut sync) = self.sync.take() else { return };
        if self.mode != Mode::Seed {
            for (chat, seq) in &mut sync.chats {
                *seq = self.tracks.sent(ChatId(*chat)).map_or(*seq, |sent| sent.0);
            }
        }
        if self.mode == Mode::Poll {
            self.synced_to.clone_from(&sync.chats);
        }
        if self.mode != Mode::Seed && !sync.silent {
            self.say(&ServerFrame::Synced { chats: &sync.chats, reference: sync.reference.as_deref() });
        }
        self.release_acks();
        sync.passing.into_iter().for_each(|(subject, passing)| self.tell(now, subject, passing));
        self.out.push(Out::Ask(Question::WatchPeers { users: Vec::new() }));
    }
}
