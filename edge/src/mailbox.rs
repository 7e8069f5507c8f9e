//! What waits for one connection: answers, whose number is bounded by what it asked, and events, beyond whose bound only
//! the chats' heads are kept, so that the connection reads the rest from the log when it can.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{ChatSync, Reply};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::frames::event::EventFrame;
use crate::frames::server::{Marks, SharedFrame};
use crate::frames::{Close, Frame, Wire};

/// Chats whose heads are kept for a connection that is behind. In more it is too slow, and closed.
const BEHIND_MAX: usize = 1_024;

/// Receipts and presences that wait, of each subject the newest; beyond it those of further subjects are dropped.
pub(crate) const PASSING_MAX: usize = 1_024;

/// What a receipt, a presence or typing is about: the next one says all that this one said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Presence(UserId),
    Receipt(ChatId, UserId),
    /// Of one's own last message in a large chat.
    Counts(ChatId),
    Typing(ChatId, UserId),
}

/// A frame of a [`Subject`], and of a receipt its watermarks.
#[derive(Clone, Debug)]
pub(crate) struct Passing {
    pub frame: Frame,
    pub marks: Marks,
}

/// One thing for a connection.
#[derive(Debug)]
pub(crate) enum Item {
    /// Presence has this session: what is published from now on reaches it.
    Tracked,
    Event(Arc<EventFrame>),
    /// Events of this chat were not kept.
    Behind(ChatId, Behind),
    /// A receipt, a presence or typing.
    Passing(Subject, Passing),
    /// What became of a send or a mark.
    Reply(Box<Reply>),
    Answer(Box<Answer>),
    Close(Close),
    Reconnect {
        after_ms: u64,
    },
    /// Of a long poll: another edge has it, by its being taken for the so-manieth time; 0: it is over.
    Taken {
        generation: u64,
    },
    /// Of a long poll: answers that the edge which had it before has left.
    Passed(Vec<Frame>),
}

/// Events that were not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The first of them, and up to where all had reached their edges when it was published.
    pub first: Seq,
    pub settled: Seq,
    pub head: Seq,
}

impl Behind {
    /// Only the head is known.
    pub(crate) fn up_to(head: Seq) -> Self {
        Self { first: head, settled: Seq::ZERO, head }
    }
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Answer {
    Synced {
        chats: Vec<ChatSync>,
        /// There are more, after this one.
        next: Option<ChatId>,
        known_device: bool,
    },
    /// `None`: the chat is not this user's.
    SyncedOne {
        chat: ChatId,
        sync: Option<ChatSync>,
    },
    SyncFailed,
    Listed {
        chat: ChatId,
        events: Vec<bytes::Bytes>,
        more: bool,
        /// Of the log; 0: whatever is known of it, there is no more for this user.
        head: Seq,
    },
    ListFailed {
        chat: ChatId,
    },
    /// A frame that answers the client, ready.
    Frame(Frame),
    /// Who of them may be watched, and what to say of the others.
    MayWatch {
        asked: Vec<UserId>,
        allowed: Vec<UserId>,
        refusal: Option<Frame>,
    },
}

#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<Item>,
    events: usize,
    bytes: usize,
    passing: HashMap<Subject, Passing>,
    behind: HashMap<ChatId, Behind>,
}

/// The mailbox of one connection. The lock is held for a push or a drain; the notifier wakes the connection's task.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub session: u64,
    pub user: UserId,
    pub device: Box<str>,
    /// How its client speaks.
    pub wire: Wire,
    /// What its client calls the session.
    pub name: Uuid,
    pub opened_at_ms: i64,
    inbox: Mutex<Inbox>,
    wake: Notify,
    events_max: usize,
    bytes_max: usize,
    closing: OnceLock<Close>,
    /// Its client was told when to come again.
    away: AtomicBool,
}

impl Mailbox {
    pub(crate) fn new(
        session: u64,
        user: UserId,
        device: &str,
        (name, opened_at_ms): (Uuid, i64),
        wire: Wire,
        bounds: (usize, usize),
    ) -> Self {
        let (events_max, bytes_max) = bounds;
        Self {
            session,
            user,
            device: device.into(),
            wire,
            name,
            opened_at_ms,
            inbox: Mutex::default(),
            wake: Notify::new(),
            events_max,
            bytes_max,
            closing: OnceLock::new(),
            away: AtomicBool::new(false),
        }
    }

    /// Of a test: in JSON, of no name.
    #[cfg(test)]
    pub(crate) fn plain(session: u64, user: UserId, bounds: (usize, usize)) -> Self {
        Self::new(session, user, "d", (Uuid::nil(), 0), Wire::Json, bounds)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: Item) {
        self.inbox().items.push_back(item);
        self.wake.notify_one();
    }

    /// Ends the connection, also while its client takes nothing. Said once.
    pub(crate) fn close(&self, close: Close) {
        if self.closing.set(close).is_ok() {
            self.push(Item::Close(close));
        }
    }

    /// Tells its client to come again after a while; it is served until then, and closed soon after. Said once.
    pub(crate) fn send_away(&self, after_ms: u64) {
        if self.closing().is_none() && !self.away.swap(true, Ordering::Relaxed) {
            self.push(Item::Reconnect { after_ms });
        }
    }

    /// Whether its client was told to come again, or the connection is to end anyway.
    pub(crate) fn is_leaving(&self) -> bool {
        self.away.load(Ordering::Relaxed) || self.closing().is_some()
    }

    /// Why it is to end, if it is.
    pub(crate) fn closing(&self) -> Option<Close> {
        self.closing.get().copied()
    }

    pub(crate) fn push_event(&self, event: &Arc<EventFrame>) {
        let mut inbox = self.inbox();
        let full = inbox.events >= self.events_max || inbox.bytes >= self.bytes_max;
        if full || !inbox.behind.is_empty() {
            let fresh = Behind { first: event.seq(), settled: event.settled, head: event.seq() };
            let behind = inbox.behind.entry(event.chat()).or_insert(fresh);
            behind.head = behind.head.max(event.seq());
            if event.seq() < behind.first {
                (behind.first, behind.settled) = (event.seq(), event.settled);
            }
            if inbox.behind.len() > BEHIND_MAX {
                return self.close_behind(inbox);
            }
        } else {
            inbox.events += 1;
            inbox.bytes += event.weight();
            inbox.items.push_back(Item::Event(event.clone()));
        }
        drop(inbox);
        self.wake.notify_one();
    }

    /// Events of a chat up to `head`, nobody knows which, did not reach this edge.
    pub(crate) fn push_behind(&self, chat: ChatId, head: Seq) {
        let mut inbox = self.inbox();
        let behind = inbox.behind.entry(chat).or_insert(Behind::up_to(head));
        behind.head = behind.head.max(head);
        // What is said to have settled before the first may be what is missing.
        behind.settled = Seq::ZERO;
        if inbox.behind.len() > BEHIND_MAX {
            return self.close_behind(inbox);
        }
        drop(inbox);
        self.wake.notify_one();
    }

    fn close_behind(&self, mut inbox: MutexGuard<'_, Inbox>) {
        inbox.behind.clear();
        drop(inbox);
        self.close(Close::TooSlow);
    }

    pub(crate) fn push_passing(&self, subject: Subject, frame: &SharedFrame) {
        let passing = Passing { frame: frame.of(self.wire), marks: frame.marks() };
        keep_newest(&mut self.inbox().passing, subject, passing);
        self.wake.notify_one();
    }

    /// Waits until something is there. Cancel safe; may return for nothing.
    pub(crate) async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Everything that is there, in order; what passes behind it. The memory goes with it: an idle connection
    /// holds none.
    pub(crate) fn take(&self) -> VecDeque<Item> {
        let inbox = std::mem::take(&mut *self.inbox());
        let mut items = inbox.items;
        items.extend(inbox.behind.into_iter().map(|(chat, behind)| Item::Behind(chat, behind)));
        items.extend(inbox.passing.into_iter().map(|(subject, passing)| Item::Passing(subject, passing)));
        items
    }
}

/// Of each subject the newest, within the bound.
pub(crate) fn keep_newest(all: &mut HashMap<Subject, Passing>, subject: Subject, passing: Passing) {
    let is_new = match all.get(&subject) {
        Some(known) => !passing.marks.is_behind(known.marks),
        None => all.len() < PASSING_MAX,
    };
    if is_new {
        all.insert(subject, passing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::server::ServerFrame;
    use confab_proto::message::v1::Event;
    use prost::Message as _;

    fn mailbox(events_max: usize) -> Mailbox {
        Mailbox::plain(1, UserId(1), (events_max, 1 << 20))
    }

    fn event(chat: u64, seq: u64) -> Arc<EventFrame> {
        let event = Event { chat_id: chat, seq, ..Event::default() };
        Arc::new(EventFrame::decode(&event.encode_to_vec(), Seq::ZERO).expect("an event"))
    }

    #[test]
    fn who_is_sent_away_is_told_once_and_not_closed() {
        let mailbox = mailbox(2);
        assert!(!mailbox.is_leaving());
        mailbox.send_away(10);
        mailbox.send_away(20);
        assert!(mailbox.is_leaving() && mailbox.closing().is_none());
        let items = mailbox.take();
        assert!(matches!(items.front(), Some(Item::Reconnect { after_ms: 10 })) && items.len() == 1, "{items:?}");
    }

    #[test]
    fn beyond_the_bound_only_heads_are_kept_until_it_is_read() {
        let mailbox = mailbox(2);
        for seq in 1..=5 {
            mailbox.push_event(&event(7, seq));
        }
        mailbox.push_event(&event(8, 9));
        let items = mailbox.take();
        let events = items.iter().filter(|item| matches!(item, Item::Event(_))).count();
        assert_eq!(events, 2);
        let behind = |chat, first, head| {
            let behind = Behind { first: Seq(first), settled: Seq::ZERO, head: Seq(head) };
            items.iter().any(|item| matches!(item, Item::Behind(of, is) if *of == ChatId(chat) && *is == behind))
        };
        assert!(behind(7, 3, 5) && behind(8, 9, 9));
        mailbox.push_event(&event(7, 6));
        assert!(matches!(mailbox.take().front(), Some(Item::Event(_))));
    }

    #[test]
    fn a_marker_takes_back_what_was_said_to_have_settled() {
        let mailbox = mailbox(0);
        mailbox.push_behind(ChatId(8), Seq(4));
        let event = Event { chat_id: 7, seq: 5, ..Event::default() };
        let event = EventFrame::decode(&event.encode_to_vec(), Seq(4)).expect("an event");
        mailbox.push_event(&Arc::new(event));
        mailbox.push_behind(ChatId(7), Seq(3));
        let behind: HashMap<_, _> = mailbox
            .take()
            .into_iter()
            .filter_map(|item| match item {
                Item::Behind(chat, behind) => Some((chat, behind)),
                _ => None,
            })
            .collect();
        assert_eq!(behind[&ChatId(7)], Behind { first: Seq(5), settled: Seq::ZERO, head: Seq(5) });
        assert_eq!(behind[&ChatId(8)], Behind { first: Seq(4), settled: Seq::ZERO, head: Seq(4) });
    }

    #[test]
    fn of_what_passes_the_newest_of_each_subject_is_kept() {
        let mailbox = mailbox(2);
        let frame = |status| SharedFrame::new(ServerFrame::Presence { user_id: 1, status, last_seen: None });
        let push = |user, status| mailbox.push_passing(Subject::Presence(UserId(user)), &frame(status));
        for user in 1..=PASSING_MAX as u64 {
            push(user, "old");
        }
        push(1, "new");
        push(u64::MAX, "one too many");
        let items = mailbox.take();
        let of = |user| {
            items.iter().find_map(|item| match item {
                Item::Passing(Subject::Presence(UserId(of)), told) if *of == user => Some(told.frame.clone()),
                _ => None,
            })
        };
        let told = |status| Some(frame(status).of(Wire::Json));
        assert_eq!((of(1), of(2), of(u64::MAX)), (told("new"), told("old"), None));
    }

    #[test]
    fn of_receipts_the_highest_is_kept() {
        let mailbox = mailbox(2);
        let (chat_id, user_id) = (7, 2);
        for (delivered, read) in [(5, 3), (4, 3), (5, 2)] {
            let frame = SharedFrame::new(ServerFrame::Receipt { chat_id, user_id, delivered, read });
            mailbox.push_passing(Subject::Receipt(ChatId(chat_id), UserId(user_id)), &frame);
        }
        let marks = mailbox.take().into_iter().find_map(|item| match item {
            Item::Passing(_, Passing { marks, .. }) => Some(marks),
            _ => None,
        });
        assert_eq!(marks, Some(Marks { delivered: 5, read: 3 }));
    }

    #[test]
    fn behind_in_too_many_chats_is_too_slow() {
        let mailbox = mailbox(0);
        for chat in 1..=BEHIND_MAX as u64 + 1 {
            mailbox.push_event(&event(chat, 1));
        }
        assert!(mailbox.take().iter().any(|item| matches!(item, Item::Close(Close::TooSlow))));
    }
}
