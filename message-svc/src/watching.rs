//! `WatchChat`: a chat's log, read from a seq on and further as it grows, at the instance that owns it.
//!
//! A watcher holds nothing of the chat but how far it has read: it is told that there is more, and reads that like anyone else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_mesh::Drain;
use confab_proto::fanout::v1::Publication;
use confab_proto::message::v1::{Event, WatchChatRequest, WatchChatResponse};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::convert;
use crate::core::body::{changed_rows, without_rows};
use crate::error::{ChatError, Invalid};
use crate::hop::Viewer;
use crate::reads::{Reader, WATCH_EVENTS};
use crate::store::Store;

/// Watchers of an instance; one more is refused as `RATE_LIMITED`. Each may have three frames of 64 KiB in memory.
const WATCHERS_MAX: usize = 1_024;

/// Frames that a watcher may leave unread: then its log isn't read any further.
const FRAMES_MAX: usize = 2;

/// How long one that reads nothing has for hearing why it ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How far the chats that are watched have come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heads(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// So that nobody looks where there is nothing.
    watchers: AtomicUsize,
    chats: Mutex<HashMap<ChatId, watch::Sender<Seq>>>,
}

impl Heads {
    fn chats(&self) -> MutexGuard<'_, HashMap<ChatId, watch::Sender<Seq>>> {
        self.0.chats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: there are as many as may be.
    fn watch(&self, chat: ChatId) -> Option<Watcher> {
        let mut chats = self.chats();
        if self.0.watchers.load(Ordering::Relaxed) >= WATCHERS_MAX {
            return None;
        }
        self.0.watchers.fetch_add(1, Ordering::Relaxed);
        let head = chats.entry(chat).or_insert_with(|| watch::Sender::new(Seq::ZERO)).subscribe();
        Some(Watcher { heads: self.clone(), chat, head: Some(head) })
    }

    /// These are on their way to the members: whoever watches has them to read.
    pub(crate) fn published(&self, publications: &[Publication]) {
        if self.0.watchers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let chats = self.chats();
        for publication in publications.iter().filter(|publication| publication.seq > 0) {
            if let Some(head) = chats.get(&ChatId(publication.chat_id)) {
                head.send_if_modified(|head| {
                    let before = std::mem::replace(head, (*head).max(Seq(publication.seq)));
                    *head > before
                });
            }
        }
    }
}

/// One that watches a chat.
#[derive(Debug)]
struct Watcher {
    heads: Heads,
    chat: ChatId,
    /// Until the end.
    head: Option<watch::Receiver<Seq>>,
}

impl Watcher {
    fn seen(&mut self) {
        if let Some(head) = &mut self.head {
            head.mark_unchanged();
        }
    }

    /// Until there is more than was there when it was last seen.
    async fn more(&mut self) {
        let more = match &mut self.head {
            Some(head) => head.changed().await.is_ok(),
            None => false,
        };
        if !more {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut chats = self.heads.chats();
        self.head = None;
        self.heads.0.watchers.fetch_sub(1, Ordering::Relaxed);
        if chats.get(&self.chat).is_some_and(|head| head.receiver_count() == 0) {
            chats.remove(&self.chat);
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub chat: ChatId,
    /// 0: a service.
    user: UserId,
    after: Option<Seq>,
}

impl TryFrom<&WatchChatRequest> for Asked {
    type Error = Invalid;

    fn try_from(request: &WatchChatRequest) -> Result<Self, Invalid> {
        let user = match request.user_id {
            0 => UserId(0),
            user => convert::user_id("user_id", user)?,
        };
        let after = request.after.map(|after| convert::seq("after", after)).transpose()?;
        Ok(Self { chat: convert::chat_id(request.chat_id)?, user, after })
    }
}

pub(crate) type Frames = mpsc::Receiver<Result<WatchChatResponse, Status>>;

/// Begins to watch a chat of this instance.
pub(crate) async fn start<S: Store>(reader: Reader<S>, asked: Asked, drain: Drain) -> Result<Frames, Status> {
    let watcher = reader.owner.heads().watch(asked.chat).ok_or(ChatError::TooManyWatchers)?;
    // Who may not is told at once, and not by the stream's end.
    reader.owners.view_here(asked.chat, &Viewer::of(asked.user, "")).await?;
    let (frames, queue) = mpsc::channel(FRAMES_MAX);
    tokio::spawn(async move {
        if let Err(status) = follow(reader, watcher, asked, &frames, drain).await {
            // Whoever has gone need not be told, nor who reads nothing.
            let _gone = frames.send_timeout(Err(status), LAST_WORD).await;
        }
    });
    Ok(queue)
}

async fn follow<S: Store>(
    reader: Reader<S>,
    mut watcher: Watcher,
    asked: Asked,
    frames: &mpsc::Sender<Result<WatchChatResponse, Status>>,
    drain: Drain,
) -> Result<(), Status> {
    let mut map = reader.owner.map();
    let mut after = asked.after;
    let mut is_told = false;
    loop {
        // Before it is looked at: what comes after that changes it again.
        watcher.seen();
        let view = reader.owners.view_here(asked.chat, &Viewer::of(asked.user, "")).await?;
        let mut place = after.unwrap_or(view.head).max(view.joined_seq.prev());
        while place < view.head {
            let stored = reader.after(&view, place, WATCH_EVENTS).await?;
            let published: Option<Vec<(Seq, Bytes)>> = stored.into_iter().map(as_published).collect();
            let (seqs, events): (Vec<Seq>, Vec<Bytes>) = published.ok_or(ChatError::Unavailable)?.into_iter().unzip();
            // What is below the head is there.
            place = seqs.last().copied().ok_or(ChatError::Unavailable)?;
            is_told = true;
            if !say(frames, WatchChatResponse { events, head: view.head.0 }, &drain).await? {
                return Ok(());
            }
        }
        after = Some(place);
        let watched = WatchChatResponse { events: Vec::new(), head: view.head.0 };
        if !is_told && !say(frames, watched, &drain).await? || view.has_left() {
            return Ok(());
        }
        is_told = true;
        tokio::select! {
            () = watcher.more() => {}
            // It may be another's now; that is looked at.
            changed = map.changed() => changed.map_err(|_| ChatError::NotOwner)?,
            () = frames.closed() => return Ok(()),
            () = drain.started() => return Err(ChatError::NotOwner.into()),
        }
    }
}

/// `false`: nobody listens any more.
async fn say(
    frames: &mpsc::Sender<Result<WatchChatResponse, Status>>,
    frame: WatchChatResponse,
    drain: &Drain,
) -> Result<bool, Status> {
    tokio::select! {
        said = frames.send(Ok(frame)) => Ok(said.is_ok()),
        () = drain.started() => Err(ChatError::NotOwner.into()),
    }
}

/// Where it is in the log, and without the rows that are only for storage. `None`: it is damaged.
fn as_published(stored: Bytes) -> Option<(Seq, Bytes)> {
    let event = Event::decode(&stored[..]).ok()?;
    let bytes = if changed_rows(&event).is_empty() { stored } else { without_rows(&event).encode_to_vec().into() };
    Some((Seq(event.seq), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_only_rise_and_nothing_is_kept_of_what_nobody_watches() {
        let heads = Heads::default();
        let published = |seq| heads.published(&[Publication { chat_id: 7, seq, ..Publication::default() }]);
        published(1);
        assert!(heads.chats().is_empty());
        let (mut one, two) = (heads.watch(ChatId(7)).expect("room"), heads.watch(ChatId(7)).expect("room"));
        published(5);
        published(3);
        let head = one.head.as_mut().expect("watched");
        assert!(head.has_changed().expect("watched"));
        assert_eq!(*head.borrow_and_update(), Seq(5));
        drop(one);
        assert_eq!(heads.chats().len(), 1);
        drop(two);
        assert!(heads.chats().is_empty() && heads.0.watchers.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn there_are_so_many_at_most() {
        let heads = Heads::default();
        let mut watchers: Vec<Watcher> =
            (0..WATCHERS_MAX as u64).map(|chat| heads.watch(ChatId(chat % 3 + 1)).expect("room")).collect();
        assert!(heads.watch(ChatId(1)).is_none());
        watchers.pop();
        assert!(heads.watch(ChatId(1)).is_some());
    }
}
