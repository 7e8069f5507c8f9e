//! Everything of a user's goes: what they have sent is deleted, message by message, as if they did it themselves, so that members'
//! devices forget it, too; they leave their groups; and what they have set is forgotten.
//!
//! It is done at the owner of the user's shard, one chat after the other. Where that one ends, the next one finds it among those that
//! are not done, and begins anew: what is deleted by then is passed by.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use confab_ids::{ChatId, Seq, Shard, UserId};
use confab_mesh::Drain;
use confab_proto::message::v1::{self as pb, ChatKind, Deletion, Event, Role, event};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use super::{apply_here, change};
use crate::convert::fresh_id;
use crate::core::user::{Block, Erasure, UserRecord};
use crate::core::{Change, ChatView, Command, Outcome, Send, What};
use crate::error::{ChatError, SendError};
use crate::hop::passed_on;
use crate::others::Client;
use crate::owner::now_ms;
use crate::reads::Reader;
use crate::store::{Store, StoreError};

/// How often it is looked for erasures that are not done and that nobody is at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Users whose erasure is under way at once; others wait for their turn.
const AT_ONCE: usize = 4;

/// Erasures that wait to be begun here; those beyond it are found by the next look.
const ASKED_MAX: usize = 1_024;

/// Events that one call for a chat looks at.
const PART: usize = 200;

const CHATS: usize = 200;

/// How long one call goes on at most, well below a call's deadline: then it says how far it has come.
const PART_TIME: Duration = Duration::from_secs(2);

/// The device that the deletions are by: no token's can be called so, so that their keys are no client's.
const DEVICE: &str = "!erasure";

/// The way to those that this instance is at.
pub(super) struct Erasing {
    asked: mpsc::Sender<UserId>,
}

impl Erasing {
    /// Goes on with those that are not done, too, until the drain begins.
    pub(super) fn start<S: Store>(reader: Reader<S>, drain: &Drain) -> Self {
        let (asked, queue) = mpsc::channel(ASKED_MAX);
        let (work, drain) = (run(reader, queue), drain.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = drain.started() => {}
            }
        });
        Self { asked }
    }

    /// Notes that it is asked for, unless it goes on.
    pub(super) async fn begin(&self, store: &impl Store, user: UserId) -> Result<UserRecord, Status> {
        let asked_at_ms = now_ms();
        let begin = |record: &mut UserRecord| {
            if !record.is_erasing() {
                record.erasure = Some(Erasure { asked_at_ms, done_at_ms: 0 });
            }
            Ok(())
        };
        let record = change(store, user, begin).await?;
        // What doesn't fit is found by the next look.
        let _full = self.asked.try_send(user);
        Ok(record)
    }
}

/// Whose erasure is under way here.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<HashSet<UserId>>>);

impl UnderWay {
    fn users(&self) -> MutexGuard<'_, HashSet<UserId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run<S: Store>(reader: Reader<S>, mut queue: mpsc::Receiver<UserId>) {
    let under_way = UnderWay::default();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let asked = tokio::select! {
            user = queue.recv() => match user {
                Some(user) => vec![user],
                None => return,
            },
            _ = look.tick() => not_done(&reader).await,
        };
        for user in asked {
            if !under_way.users().insert(user) {
                continue;
            }
            let (reader, under_way, turns) = (reader.clone(), under_way.clone(), turns.clone());
            tasks.spawn(async move {
                let _turn = turns.acquire_owned().await;
                match erase(&reader, user).await {
                    Ok(true) => tracing::info!("a user's erasure is done"),
                    Ok(false) => {}
                    Err(status) => {
                        tracing::warn!(code = ?status.code(), "a user's erasure is not done: it is tried again")
                    }
                }
                under_way.users().remove(&user);
            });
        }
    }
}

/// Those whose shard is of this instance.
async fn not_done<S: Store>(reader: &Reader<S>) -> Vec<UserId> {
    match reader.store.erasing().await {
        Ok(users) => users.into_iter().filter(|user| reader.owners.is_here(Shard::of_user(*user))).collect(),
        Err(error) => {
            tracing::warn!(%error, "the erasures that are not done could not be read");
            Vec::new()
        }
    }
}

/// It is done as it was asked for when this began: one that was asked for since then begins anew. `false`: it was done before.
async fn erase<S: Store>(reader: &Reader<S>, user: UserId) -> Result<bool, Status> {
    // First what is set, so that the owners of the chats find it gone.
    let forget = |record: &mut UserRecord| {
        if record.is_erasing() {
            record.forget();
        }
        Ok(())
    };
    let begun = change(&reader.store, user, forget).await?;
    if !begun.is_erasing() {
        return Ok(false);
    }
    let mut after = ChatId(0);
    loop {
        let chats = reader.store.chats_of(user, after, CHATS).await?;
        let Some(last) = chats.last() else { break };
        after = last.chat;
        for chat in &chats {
            erase_in(reader, chat.chat, user).await?;
        }
    }
    let done_at_ms = now_ms();
    let done = |record: &mut UserRecord| {
        if record.erasure == begun.erasure {
            record.erasure = record.erasure.map(|erasure| Erasure { done_at_ms, ..erasure });
        }
        Ok(())
    };
    change(&reader.store, user, done).await?;
    Ok(true)
}

/// All parts of one chat, at its owner.
async fn erase_in<S: Store>(reader: &Reader<S>, chat: ChatId, user: UserId) -> Result<(), Status> {
    let mut after = Seq::ZERO;
    loop {
        let request = pb::EraseInChatRequest { chat_id: chat.0, user_id: user.0, after: after.0 };
        let there = |mut owner: Client| async move {
            owner.erase_in_chat(passed_on(request)).await.map(tonic::Response::into_inner)
        };
        let here = || erase_part(reader, chat, user, after);
        let part = reader.owners.fresh_tries().call(Shard::of_chat(chat), here, there).await?;
        if part.done {
            return Ok(());
        }
        after = Seq(part.seq);
    }
}

/// Deletes what a user has sent among the next events. At the end of the log they leave, if it is a group; of a pair's chat the owner
/// hears that they block nobody any more.
pub(super) async fn erase_part<S: Store>(
    reader: &Reader<S>,
    chat: ChatId,
    user: UserId,
    after: Seq,
) -> Result<pb::EraseInChatResponse, Status> {
    let begun = Instant::now();
    let Some(view) = reader.owners.whole_view_here(chat).await? else {
        // A list of chats may be ahead of the chats.
        return Ok(pb::EraseInChatResponse { seq: after.0, done: true });
    };
    let events = reader.after(&view, after, PART).await?;
    let mut seq = after;
    for bytes in &events {
        if begun.elapsed() >= PART_TIME {
            return Ok(pb::EraseInChatResponse { seq: seq.0, done: false });
        }
        let event = Event::decode(&bytes[..]).map_err(StoreError::from)?;
        seq = Seq(event.seq);
        let is_theirs = event.sender_id == user.0;
        if is_theirs && matches!(&event.body, Some(event::Body::Content(content)) if !content.deleted) {
            delete(reader, chat, user, seq).await?;
        }
    }
    let done = seq >= view.head;
    match view.kind {
        _ if !done => {}
        ChatKind::Group => leave(reader, &view, user).await?,
        _ => tell_blocks(reader, chat, user).await?,
    }
    Ok(pb::EraseInChatResponse { seq: seq.0, done })
}

/// Has a pair's chat know whether one of the two blocks the other: no more, unless it was set since they are forgotten.
async fn tell_blocks<S: Store>(reader: &Reader<S>, chat: ChatId, user: UserId) -> Result<(), Status> {
    let record = reader.store.users(vec![user]).await?.pop().unwrap_or_default();
    let members = reader.store.members(chat).await?;
    let blocked = members.iter().any(|member| record.blocks.contains(&member.user));
    let block = Block { by: user, version: record.version, blocked };
    apply_here(reader, chat, block).await
}

async fn delete<S: Store>(reader: &Reader<S>, chat: ChatId, user: UserId, target: Seq) -> Result<(), Status> {
    let send = Send {
        user,
        device: DEVICE.to_owned(),
        message_id: fresh_id(),
        client_id: target.0.to_string(),
        body: event::Body::Deletion(Deletion { target: target.0, rows: Vec::new() }),
        erases: true,
    };
    match reader.owner.call(chat, Command::Send(send)).await {
        // Deleted meanwhile.
        Outcome::Accepted(_) | Outcome::SendRefused(SendError::UnknownTarget) => Ok(()),
        Outcome::SendRefused(error) => Err(error.into()),
        _ => Err(SendError::Unavailable.into()),
    }
}

/// The last admin makes the one an admin who has been there for longest.
async fn leave<S: Store>(reader: &Reader<S>, view: &ChatView, user: UserId) -> Result<(), Status> {
    let change = async |what| {
        let change = Change { by: user, device: DEVICE.to_owned(), message_id: fresh_id(), what };
        match reader.owner.call(view.chat, Command::Change(change)).await {
            Outcome::Changed { .. } => Ok(()),
            Outcome::ChatRefused(error) => Err(error),
            _ => Err(ChatError::Unavailable),
        }
    };
    match change(What::Remove(vec![user])).await {
        Ok(()) | Err(ChatError::NotMember) => return Ok(()),
        Err(ChatError::LastAdmin) => {}
        Err(error) => return Err(error.into()),
    }
    let members = reader.store.members(view.chat).await?;
    let others = members.iter().filter(|member| member.is_in() && member.user != user);
    if let Some(heir) = others.min_by_key(|member| (member.joined_seq, member.slot)) {
        change(What::Role(heir.user, Role::Admin)).await?;
    }
    Ok(change(What::Remove(vec![user])).await?)
}
