//! Reads of chats, members and lists.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::ChatKind;
use futures_util::stream::TryStreamExt;
use prost::Message;

use super::writes::LEFT;
use super::{Cassandra, big, failed};
use crate::core::marks::Marks;
use crate::core::recovery::LogRow;
use crate::store::rows::{ChatValue, MarksValue, RosterValue};
use crate::store::{ChatOfUser, ChatRecord, EveryChat, Meta, Roster, StoreError};

/// Chats of a user that are compared with others'; who shares only later ones counts as a stranger.
const COMPARED_MAX: usize = 65_536;

impl Cassandra {
    pub(super) async fn chat(&self, chat: ChatId) -> Result<Option<(Meta, Roster)>, StoreError> {
        let row: Option<(Bytes, Bytes, i64)> = self.row(&self.statements.chat, (big(chat.0),)).await?;
        let Some((meta, members, seq)) = row else { return Ok(None) };
        let roster = RosterValue::decode(members)?.roster(Seq(seq.cast_unsigned()));
        Ok(Some((ChatValue::decode(meta)?.meta(chat), roster)))
    }

    /// Without its log's end.
    pub(super) async fn load_one(self, chat: ChatId) -> Result<Option<ChatRecord>, StoreError> {
        let marks = self.rows::<(Bytes,)>(&self.statements.marks, (big(chat.0),));
        let record = async {
            let Some(mut record) = self.chat(chat).await?.map(Self::record) else { return Ok(None) };
            if record.meta.kind == ChatKind::Direct {
                record.blocks = self.clone().blocks_in(&record).await?;
            }
            Ok(Some(record))
        };
        let (found, blocks) = futures_util::future::try_join(record, marks).await?;
        let Some(mut record) = found else { return Ok(None) };
        let mut known = HashMap::new();
        for (block,) in blocks {
            known.extend(MarksValue::decode(block)?.marks());
        }
        for (member, marks) in &mut record.members {
            *marks = known.remove(&member.user).unwrap_or_default();
        }
        Ok(Some(record))
    }

    /// Without watermarks and blocks.
    pub(super) fn record((meta, roster): (Meta, Roster)) -> ChatRecord {
        let members = roster.members.iter().map(|member| (member.clone(), Marks::default())).collect();
        let Roster { seq: roster_seq, certain, .. } = roster;
        let (head, blocks) = (Seq::ZERO, Vec::new());
        ChatRecord { meta, members, roster_seq, certain, head, count: 0, last_at_ms: 0, blocks }
    }

    /// In one page: what a recovery cuts at must not change between two.
    pub(super) async fn tail(self, chat: ChatId, bucket: u32, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        let values = (big(chat.0), bucket.cast_signed(), rows_at_most(limit));
        let rows: Vec<(i64, i64, Bytes)> = self.rows(&self.statements.tail, values).await?;
        Ok(rows.into_iter().map(|(seq, epoch, bytes)| LogRow { seq: Seq(seq.cast_unsigned()), epoch, bytes }).collect())
    }

    pub(super) async fn chats(&self, user: UserId, after: ChatId, limit: usize) -> Result<Vec<ChatOfUser>, StoreError> {
        let values = (big(user.0), big(after.0), rows_at_most(limit));
        let rows: Vec<(i64, i32)> = self.rows(&self.statements.chats_of, values).await?;
        let chat = |(chat, kind): (i64, i32)| ChatOfUser {
            chat: ChatId(chat.cast_unsigned()),
            kind: ChatKind::try_from(kind & !LEFT).unwrap_or_default(),
        };
        Ok(rows.into_iter().map(chat).collect())
    }

    /// By their tokens.
    pub(super) async fn chats_after(&self, after: Option<i64>, limit: usize) -> Result<Vec<EveryChat>, StoreError> {
        let values = (after.unwrap_or(i64::MIN), rows_at_most(limit));
        let rows: Vec<(i64, i64, Option<Bytes>)> = self.rows(&self.statements.every_chat, values).await?;
        let chat = |(place, chat, meta): (i64, i64, Option<Bytes>)| {
            let chat = ChatId(chat.cast_unsigned());
            let expired_upto = ChatValue::decode(meta.unwrap_or_default())?.meta(chat).expired_upto;
            Ok(EveryChat { place, chat, expired_upto })
        };
        rows.into_iter().map(chat).collect()
    }

    pub(super) async fn sharing(&self, user: UserId, others: Vec<UserId>) -> Result<Vec<UserId>, StoreError> {
        let chats = std::sync::Arc::new(self.clone().first_chats(user).await?);
        let shares = |store: Self, other| {
            let chats = chats.clone();
            async move { Ok(store.is_in_any(other, &chats).await?.then_some(other)) }
        };
        Ok(self.for_each(others, shares).await?.into_iter().flatten().collect())
    }

    async fn first_chats(self, user: UserId) -> Result<HashSet<i64>, StoreError> {
        let mut chats = HashSet::new();
        let mut rows = self.all_chats(user).await?;
        let mut compared = 0;
        while compared < COMPARED_MAX
            && let Some((chat, kind)) = rows.try_next().await.map_err(failed)?
        {
            if kind & LEFT == 0 {
                chats.insert(chat);
            }
            compared += 1;
        }
        Ok(chats)
    }

    async fn is_in_any(&self, user: UserId, chats: &HashSet<i64>) -> Result<bool, StoreError> {
        let mut rows = self.all_chats(user).await?;
        let mut compared = 0;
        while compared < COMPARED_MAX
            && let Some((chat, kind)) = rows.try_next().await.map_err(failed)?
        {
            if kind & LEFT == 0 && chats.contains(&chat) {
                return Ok(true);
            }
            compared += 1;
        }
        Ok(false)
    }

    /// By ascending id, page after page.
    async fn all_chats(&self, user: UserId) -> Result<scylla::client::pager::TypedRowStream<(i64, i32)>, StoreError> {
        let pages = self.session.execute_iter(self.statements.all_chats_of.clone(), (big(user.0),)).await;
        pages.map_err(failed)?.rows_stream().map_err(failed)
    }
}

/// A count as CQL's LIMIT has it.
pub(super) fn rows_at_most(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX).max(1)
}
