//! Reading on behalf of a member: pages of a log, what a device misses, lists of chats.

use std::collections::HashMap;

use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{self as pb, ChatKind, ChatSync, Event};
use prost::Message;
use tonic::Status;

use crate::core::ChatView;
use crate::core::body::as_left;
use crate::core::chat::place_of;
use crate::core::tail::Newest;
use crate::error::ChatError;
use crate::hop::{Owners, Viewer};
use crate::owner::OwnerHandle;
use crate::store::recent::{AsOf, Asked, Recent};
use crate::store::{ChatOfUser, Page, Range, Store, StoreError};

/// A page of a log ends at this many bytes of events.
const PAGE_BYTES: usize = 256 * 1_024;

/// The events that come with one page of a `Sync`, bytes; the rest is asked for when there is room for it.
const SYNC_BYTES: usize = 64 * 1_024;

/// Events that one who watches a chat gets at once.
pub(crate) const WATCH_EVENTS: usize = 200;
const WATCH_BYTES: usize = 64 * 1_024;

/// Chats per page of a `Sync`.
const SYNC_CHATS: usize = 200;

/// More missed events than this leave a gap.
pub(crate) const SYNC_EVENTS: u64 = 1_000;

/// How far back a message is looked for by its id: most are among the last few.
const SEARCHED: [usize; 2] = [50, 1_000];

#[derive(Clone)]
pub(crate) struct Reader<S> {
    pub store: S,
    /// In front of the store, for the newest events.
    pub recent: Recent,
    /// Of this instance's chats.
    pub owner: OwnerHandle,
    /// Of all chats.
    pub owners: Owners,
}

/// What a page is asked for by. Bounds are exclusive.
pub(crate) struct PageRequest {
    pub chat: ChatId,
    pub user: UserId,
    pub after: Option<Seq>,
    pub before: Option<Seq>,
    pub limit: usize,
    /// 0: [`PAGE_BYTES`].
    pub bytes_max: usize,
}

impl<S: Store> Reader<S> {
    /// A chat as one of its members sees it, or one who was.
    pub(crate) async fn view(&self, chat: ChatId, user: UserId, device: &str) -> Result<ChatView, ChatError> {
        self.owners.views(&[chat], &Viewer::of(user, device)).await.pop().unwrap_or(Err(ChatError::Unavailable))
    }

    /// The same, unless they have left.
    pub(crate) async fn member_view(&self, chat: ChatId, user: UserId) -> Result<ChatView, ChatError> {
        let view = self.view(chat, user, "").await?;
        if view.has_left() { Err(ChatError::NotMember) } else { Ok(view) }
    }

    pub(crate) async fn list_messages(&self, request: PageRequest) -> Result<pb::ListMessagesResponse, Status> {
        let view = self.view(request.chat, request.user, "").await?;
        let first = view.joined_seq;
        let range = Range {
            chat: request.chat,
            after: request.after.unwrap_or_default().max(first.prev()),
            before: request.before.unwrap_or(view.head.next()).min(view.head.next()),
            limit: request.limit,
            bytes: if request.bytes_max == 0 { PAGE_BYTES } else { request.bytes_max.min(PAGE_BYTES) },
            newest: request.after.is_none(),
        };
        let page = match range.after.next() < range.before {
            true => self.page(Asked { range, as_of: AsOf::of(&view) }).await?,
            false => Page::default(),
        };
        Ok(pb::ListMessagesResponse {
            events: as_seen(page.events, view.left_seq),
            more: page.more,
            head: view.head.0,
            first: first.0,
            left: view.has_left(),
        })
    }

    /// The oldest events of a log after a seq, and at most so many.
    pub(crate) async fn after(&self, view: &ChatView, after: Seq, limit: usize) -> Result<Vec<bytes::Bytes>, Status> {
        let (chat, before) = (view.chat, view.head.next());
        let range = Range { chat, after, before, limit, bytes: WATCH_BYTES, newest: false };
        Ok(as_seen(self.page(Asked { range, as_of: AsOf::of(view) }).await?.events, view.left_seq))
    }

    async fn page(&self, asked: Asked) -> Result<Page, Status> {
        Ok(self.events(vec![asked]).await?.pop().unwrap_or_default())
    }

    async fn events(&self, asked: Vec<Asked>) -> Result<Vec<Page>, StoreError> {
        self.recent.events(&self.store, asked).await
    }

    /// What a device misses, one page of chats.
    pub(crate) async fn sync(&self, request: pb::SyncRequest, user: UserId) -> Result<pb::SyncResponse, Status> {
        let chats = match request.only_chat_id {
            0 => self.store.chats_of(user, ChatId(request.after_chat_id), SYNC_CHATS).await?,
            only => vec![ChatOfUser { chat: ChatId(only), kind: ChatKind::Unspecified }],
        };
        let more = chats.len() == SYNC_CHATS;
        let ids: Vec<ChatId> = chats.iter().map(|chat| chat.chat).collect();
        let viewer = Viewer { user, device: &request.device, newest: Some(&request.positions) };
        let views = self.owners.views(&ids, &viewer).await;
        let known_device = views.iter().flatten().any(|view| view.confirmed.is_some());
        let from_read = request.from_read || known_device || !request.positions.is_empty();
        let mut synced = Vec::with_capacity(views.len());
        let mut logs = Vec::with_capacity(views.len());
        for view in views {
            match view {
                Ok(view) => {
                    let start = start_of(&view, &request.positions, from_read);
                    if start.left && start.position >= start.head {
                        // They have left, and the device knows.
                        continue;
                    }
                    synced.push(start);
                    logs.push((AsOf::of(&view), view.newest));
                }
                // The lists of a user's chats may be ahead of the chats, and behind them: an event brings what lacks.
                Err(ChatError::NotMember) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.fill(&mut synced, logs).await?;
        for chat in synced.iter_mut().filter(|chat| chat.left) {
            chat.events = as_seen(std::mem::take(&mut chat.events), Seq(chat.head));
        }
        let last_chat_id = ids.last().map_or(0, |chat| chat.0);
        Ok(pb::SyncResponse { chats: synced, more, known_device, last_chat_id })
    }

    /// Adds the first events that each chat misses: what its owner has told of them, or else what is read.
    async fn fill(&self, chats: &mut [ChatSync], mut logs: Vec<(AsOf, Option<Newest>)>) -> Result<(), Status> {
        let behind: Vec<usize> = (0..chats.len()).filter(|at| chats[*at].head > chats[*at].position).collect();
        let range = |chat: &ChatSync| Range {
            chat: ChatId(chat.chat_id),
            after: Seq(chat.position.max(chat.gap_to)),
            before: Seq(chat.head + 1),
            limit: usize::try_from(SYNC_EVENTS).unwrap_or(usize::MAX),
            bytes: SYNC_BYTES / behind.len(),
            newest: false,
        };
        let mut asked = Vec::new();
        let mut missing = Vec::new();
        for at in &behind {
            let range = range(&chats[*at]);
            match logs[*at].1.take().and_then(|newest| newest.first_of(&range)) {
                Some(events) => chats[*at].events = events,
                None => {
                    missing.push(*at);
                    asked.push(Asked { range, as_of: logs[*at].0 });
                }
            }
        }
        if !asked.is_empty() {
            for (at, page) in missing.into_iter().zip(self.events(asked).await?) {
                chats[at].events = page.events;
            }
        }
        Ok(())
    }

    /// The seq of a message among the chat's last ones.
    pub(crate) async fn find(&self, view: &ChatView, message: MessageId) -> Option<Seq> {
        let (chat, mut before) = (view.chat, view.head.next());
        for limit in SEARCHED {
            let range = Range { chat, after: Seq::ZERO, before, limit, bytes: 4 << 20, newest: true };
            let page = self.page(Asked { range, as_of: AsOf::of(view) }).await.ok()?;
            for bytes in page.events.iter().rev() {
                let event = Event::decode(&bytes[..]).ok()?;
                if event.message_id == message.0[..] {
                    return Some(Seq(event.seq));
                }
                before = Seq(event.seq);
            }
            if !page.more {
                break;
            }
        }
        None
    }

    /// A chat with the asking user's unread count and, where asked for, its newest event.
    pub(crate) async fn chats(&self, views: Vec<ChatView>, last_event: bool) -> Result<Vec<pb::Chat>, Status> {
        let single = |view: &ChatView, seq: Seq| {
            let (after, before) = (seq.prev(), seq.next());
            Asked {
                range: Range { chat: view.chat, after, before, limit: 1, bytes: 1, newest: false },
                as_of: AsOf::of(view),
            }
        };
        let base = |view: &ChatView| view.read.max(view.own).max(view.joined_seq);
        let asked = views.iter().flat_map(|view| [single(view, base(view)), single(view, view.head)]);
        let mut pages = self.events(asked.collect()).await?.into_iter();
        let mut next = || pages.next().and_then(|page| page.events.into_iter().next()).unwrap_or_default();
        let chats = views.into_iter().map(|view| {
            let read = Event::decode(&next()[..]).unwrap_or_default().count;
            let last = next();
            pb::Chat {
                unread: view.count.saturating_sub(read),
                last_event: if last_event { last } else { Default::default() },
                ..chat(view)
            }
        });
        Ok(chats.collect())
    }
}

/// Events for a member who has left with the one at `left`; 0: who hasn't.
fn as_seen(events: Vec<bytes::Bytes>, left: Seq) -> Vec<bytes::Bytes> {
    if left == Seq::ZERO {
        return events;
    }
    events.iter().map(|event| as_left(event, left)).collect()
}

/// Where a device's catching up with one chat starts, without the events yet.
fn start_of(view: &ChatView, positions: &HashMap<u64, u64>, from_read: bool) -> ChatSync {
    let known = positions.get(&view.chat.0).copied().map(Seq).or(view.confirmed);
    let unconfirmed = if from_read { view.read } else { view.head };
    let position = place_of(known.unwrap_or(unconfirmed), view.joined_seq, view.head);
    let missed = view.head.0 - position.0;
    ChatSync {
        chat_id: view.chat.0,
        position: position.0,
        head: view.head.0,
        events: Vec::new(),
        gap_to: if missed > SYNC_EVENTS { view.head.0 - SYNC_EVENTS } else { 0 },
        kind: view.kind.into(),
        peer: view.peer.map_or(0, |peer| peer.0),
        peer_delivered: view.peer_delivered.0,
        peer_read: view.peer_read.0,
        left: view.has_left(),
        blocked: view.blocked,
    }
}

fn chat(view: ChatView) -> pb::Chat {
    pb::Chat {
        chat_id: view.chat.0,
        kind: view.kind.into(),
        title: view.title,
        created_by: view.created_by.0,
        created_at_ms: view.created_at_ms,
        member_count: u32::try_from(view.members).unwrap_or(u32::MAX),
        peer: view.peer.map_or(0, |peer| peer.0),
        head: view.head.0,
        read: view.read.0,
        delivered: view.delivered.0,
        role: view.role.into(),
        unread: 0,
        last_event: Default::default(),
        muted_until_ms: None,
    }
}
