//! `retention_days`: what was said before that is erased, in passes over all chats. Each instance looks at its part of them, wherever they
//! are owned, and has their owners write anew what is too old.
//!
//! A pass reads one row of each chat, and the first event that is not expired: most have nothing to do, and are not taken into memory.
//! A chat at which it fails is the next pass's: the others go on.

use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, Shard};
use confab_mesh::Drain;
use confab_proto::message::v1::{Event, ExpireChatRequest};
use prost::Message as _;
use tonic::{Response, Status};

use crate::core::{Command, Expire, Outcome};
use crate::error::ChatError;
use crate::hop::passed_on;
use crate::others::Client;
use crate::owner::now_ms;
use crate::reads::Reader;
use crate::store::{EveryChat, Range, Store, StoreError};

/// Passes within the time that is kept: so much later than it should, at most, something is erased.
const PASSES: u32 = 20;

/// Between two passes, whatever is kept.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3_600));

/// Until the first, at most: who is restarted every day would else never come to one.
const FIRST: Duration = Duration::from_secs(60);

/// Chats of one page of a pass.
const CHATS: usize = 200;

/// Events that are looked at, and written anew, at once.
const PART: usize = 100;

/// Starts the passes; they end with the service.
pub(crate) fn start<S: Store>(reader: Reader<S>, keep: Duration, drain: &Drain) {
    let pause = (keep / PASSES).clamp(PAUSE.0, PAUSE.1);
    let drain = drain.clone();
    tokio::spawn(async move {
        let passes = async {
            tokio::time::sleep(pause.min(FIRST)).await;
            loop {
                match pass(&reader, too_old(keep)).await {
                    Ok(Passed { expired: 0, failed: 0 }) => {}
                    Ok(Passed { expired, failed: 0 }) => {
                        tracing::info!(chats = expired, "what was too old to be kept is erased");
                    }
                    Ok(Passed { expired, failed }) => {
                        tracing::warn!(
                            chats = expired,
                            failed,
                            "what was too old to be kept is erased, but in some chats"
                        );
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a pass over what is too old has ended: the next one begins anew")
                    }
                }
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = passes => {}
            () = drain.started() => {}
        }
    });
}

/// What was said before is too old, Unix time in milliseconds.
fn too_old(keep: Duration) -> i64 {
    now_ms().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
}

/// How many chats a pass has found with something too old.
#[derive(Default)]
struct Passed {
    expired: usize,
    failed: usize,
}

async fn pass<S: Store>(reader: &Reader<S>, before_ms: i64) -> Result<Passed, StoreError> {
    let part = reader.owners.part();
    let (mut after, mut passed) = (None, Passed::default());
    loop {
        let chats = reader.store.every_chat(after, CHATS).await?;
        let Some(last) = chats.last() else { return Ok(passed) };
        after = Some(last.place);
        let own: Vec<EveryChat> = chats.into_iter().filter(|chat| part.has(chat.place)).collect();
        for chat in with_something_old(reader, own, before_ms).await? {
            match expire(reader, chat, before_ms).await {
                Ok(()) => passed.expired += 1,
                Err(status) => {
                    tracing::debug!(chat = chat.0, code = ?status.code(), "what is too old in a chat stays for now");
                    passed.failed += 1;
                }
            }
        }
    }
}

/// Whose first event that is not expired is too old.
async fn with_something_old<S: Store>(
    reader: &Reader<S>,
    chats: Vec<EveryChat>,
    before_ms: i64,
) -> Result<Vec<ChatId>, StoreError> {
    let first = |chat: &EveryChat| {
        let (after, before) = (chat.expired_upto, Seq(chat.expired_upto.0 + 2));
        Range { chat: chat.chat, after, before, limit: 1, bytes: usize::MAX, newest: false }
    };
    let pages = reader.store.events(chats.iter().map(first).collect()).await?;
    // What is damaged is told where it is taken up.
    let is_old = |bytes: &Bytes| Event::decode(&bytes[..]).map_or(true, |event| event.created_at_ms < before_ms);
    let old = chats.iter().zip(pages).filter(|(_, page)| page.events.first().is_some_and(is_old));
    Ok(old.map(|(chat, _)| chat.chat).collect())
}

/// All parts of a chat, at its owner.
async fn expire<S: Store>(reader: &Reader<S>, chat: ChatId, before_ms: i64) -> Result<(), Status> {
    loop {
        let request = ExpireChatRequest { chat_id: chat.0, before_ms };
        let there = |mut owner: Client| async move {
            owner.expire_chat(passed_on(request)).await.map(Response::into_inner).map(|part| part.done)
        };
        let here = || expire_part(reader, chat, before_ms, None);
        if reader.owners.fresh_tries().call(Shard::of_chat(chat), here, there).await? {
            return Ok(());
        }
    }
}

/// At the chat's owner; `true`: nothing is left to do. `keep`: what the owner itself was told, if anything: whose clock is ahead has
/// nothing erased before its time.
pub(crate) async fn expire_part<S: Store>(
    reader: &Reader<S>,
    chat: ChatId,
    before_ms: i64,
    keep: Option<Duration>,
) -> Result<bool, Status> {
    let before_ms = keep.map_or(before_ms, |keep| before_ms.min(too_old(keep)));
    let Some(view) = reader.owners.whole_view_here(chat).await? else { return Ok(true) };
    let events = reader.after(&view, view.expired_upto, PART).await?;
    let mut expire = Expire::after(view.expired_upto, view.head);
    for bytes in &events {
        let event = Event::decode(&bytes[..]).map_err(StoreError::from)?;
        if event.created_at_ms >= before_ms {
            break;
        }
        if let Some(edit) = expire.take(&event)
            && let Some(edit) = reader.after(&view, edit.prev(), 1).await?.first()
        {
            expire.take_edit(&Event::decode(&edit[..]).map_err(StoreError::from)?);
        }
    }
    if expire.upto == view.expired_upto {
        return Ok(true);
    }
    match reader.owner.call(chat, Command::Expire(expire)).await {
        Outcome::Expired { upto } => Ok(upto >= view.head),
        Outcome::ChatRefused(error) => Err(error.into()),
        _ => Err(ChatError::Unavailable.into()),
    }
}
