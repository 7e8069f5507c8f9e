//! `retention_days`: what was said before that is erased, in passes over all chats. Each instance looks at its part of them, wherever they
//! are owned, and has their owners write anew what is too old.
//!
//! A pass reads one row of each chat, and the first event that is not expired: most have nothing to do, and are not taken into memory.

use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, Shard};
use confab_mesh::Drain;
use confab_proto::message::v1::{Event, ExpireChatRequest};
use prost::Message as _;
use tonic::{Response, Status};

use crate::core::body::without_words;
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
            loop {
                tokio::time::sleep(pause).await;
                let before_ms = now_ms().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
                match pass(&reader, before_ms).await {
                    Ok(0) => {}
                    Ok(chats) => tracing::info!(chats, "what was too old to be kept is erased"),
                    Err(status) => {
                        tracing::warn!(code = ?status.code(), "a pass over what is too old has ended: the next one goes on");
                    }
                }
            }
        };
        tokio::select! {
            () = passes => {}
            () = drain.started() => {}
        }
    });
}

/// In how many chats something was too old.
async fn pass<S: Store>(reader: &Reader<S>, before_ms: i64) -> Result<usize, Status> {
    let part = reader.owners.part();
    let (mut after, mut expired) = (None, 0);
    loop {
        let chats = reader.store.every_chat(after, CHATS).await?;
        let Some(last) = chats.last() else { return Ok(expired) };
        after = Some(last.place);
        let own: Vec<EveryChat> = chats.into_iter().filter(|chat| part.has(chat.place)).collect();
        for chat in with_something_old(reader, own, before_ms).await? {
            expire(reader, chat, before_ms).await?;
            expired += 1;
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
    let is_old = |bytes: &Bytes| Event::decode(&bytes[..]).is_ok_and(|event| event.created_at_ms < before_ms);
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
        let here = || expire_part(reader, chat, before_ms);
        if reader.owners.fresh_tries().call(Shard::of_chat(chat), here, there).await? {
            return Ok(());
        }
    }
}

/// At the chat's owner; `true`: nothing is left to do.
pub(crate) async fn expire_part<S: Store>(reader: &Reader<S>, chat: ChatId, before_ms: i64) -> Result<bool, Status> {
    let Some(view) = reader.owners.whole_view_here(chat).await? else { return Ok(true) };
    let events = reader.after(&view, view.expired_upto, PART).await?;
    let mut upto = view.expired_upto;
    let mut rows = Vec::new();
    for bytes in &events {
        let event = Event::decode(&bytes[..]).unwrap_or_default();
        if event.created_at_ms >= before_ms {
            break;
        }
        upto = Seq(event.seq);
        rows.extend(without_words(&event).map(|row| (upto, Bytes::from(row.encode_to_vec()))));
    }
    if upto == view.expired_upto {
        return Ok(true);
    }
    match reader.owner.call(chat, Command::Expire(Expire { rows, upto })).await {
        Outcome::Expired { upto } => Ok(upto >= view.head),
        Outcome::ChatRefused(error) => Err(error.into()),
        _ => Err(ChatError::Unavailable.into()),
    }
}
