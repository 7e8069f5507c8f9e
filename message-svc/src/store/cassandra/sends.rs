//! Sends by their idempotency keys. They lie by bucket, so that they are written with their messages; a lookup reads all that
//! its sender has in each bucket where the key may be, so that the next keys of that sender need no lookup.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use futures_util::stream::TryStreamExt;
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use super::{Cassandra, big, failed};
use crate::core::sends::{Sent, hash};
use crate::core::{Found, Lookup};
use crate::store::{SendKey, StoreError, bucket_of};

/// A sender's rows in one bucket: at most as many as the bucket has events.
type Slice = (ChatId, UserId, u32);

struct Read {
    slice: Slice,
    hashes: Vec<u64>,
    /// Of the keys that were asked for.
    sent: Vec<(SendKey, Sent)>,
}

impl Cassandra {
    pub(super) async fn find(&self, lookups: &[Lookup]) -> Result<Vec<Found>, StoreError> {
        let slices: BTreeSet<Slice> = lookups.iter().flat_map(slices_of).collect();
        let wanted: Arc<BTreeSet<SendKey>> = Arc::new(lookups.iter().map(|lookup| lookup.key.clone()).collect());
        let read =
            self.for_each(slices.into_iter().collect(), |store, slice| store.slice(slice, wanted.clone())).await?;
        let read: HashMap<Slice, Read> = read.into_iter().map(|read| (read.slice, read)).collect();
        self.for_each(lookups.to_vec(), |store, lookup| {
            let slices: Vec<&Read> = slices_of(&lookup).filter_map(|slice| read.get(&slice)).collect();
            let of_key = slices.iter().flat_map(|read| &read.sent).filter(|(key, _)| *key == lookup.key);
            let candidates: Vec<Sent> = of_key.map(|(_, sent)| *sent).collect();
            let of_sender = slices.iter().flat_map(|read| &read.hashes).copied().collect();
            async move {
                let mut sent = Vec::with_capacity(candidates.len());
                for candidate in candidates {
                    sent.push((candidate, store.event(lookup.chat, candidate.seq).await?));
                }
                Ok(Found { sent, of_sender: Some(of_sender) })
            }
        })
        .await
    }

    async fn slice(self, slice: Slice, wanted: Arc<BTreeSet<SendKey>>) -> Result<Read, StoreError> {
        let (chat, user, bucket) = slice;
        let values = (big(chat.0), bucket.cast_signed(), big(user.0));
        let pages = self.session.execute_iter(self.statements.sends.clone(), values).await.map_err(failed)?;
        let mut rows = pages.rows_stream::<(Vec<u8>, i64, Uuid, CqlTimestamp, i64)>().map_err(failed)?;
        let mut read = Read { slice, hashes: Vec::new(), sent: Vec::new() };
        while let Some((key, seq, message_id, created_at, body_hash)) = rows.try_next().await.map_err(failed)? {
            let key = SendKey(key.into());
            read.hashes.push(hash(&key));
            if wanted.contains(&key) {
                let sent = Sent {
                    seq: Seq(seq.cast_unsigned()),
                    message_id: MessageId(message_id.into_bytes()),
                    created_at_ms: created_at.0,
                    body_hash: body_hash.cast_unsigned(),
                };
                read.sent.push((key, sent));
            }
        }
        Ok(read)
    }

    /// The log's row at a seq.
    async fn event(&self, chat: ChatId, seq: Seq) -> Result<Option<Bytes>, StoreError> {
        let values = (big(chat.0), bucket_of(seq).cast_signed(), big(seq.0));
        let row: Option<(Bytes,)> = self.row(&self.statements.event, values).await?;
        Ok(row.map(|(bytes,)| bytes))
    }
}

fn slices_of(lookup: &Lookup) -> impl Iterator<Item = Slice> {
    lookup.buckets.iter().map(|bucket| (lookup.chat, lookup.key.user(), *bucket))
}
