//! What users have set: rows changed by compare-and-set, as any instance changes them.

use std::collections::HashMap;

use bytes::Bytes;
use confab_ids::UserId;
use prost::Message as _;

use super::{Cassandra, big};
use crate::core::user::{Block, UserRecord, blocks_between};
use crate::store::rows::UserValue;
use crate::store::{ChatRecord, StoreError};

/// Users whose rows are read by one statement: most have none, and a partition that isn't there costs little.
const USERS_AT_ONCE: usize = 50;

/// Partitions that erasures are spread over.
const ERASURE_BUCKETS: i32 = 16;

fn erasure_bucket(user: UserId) -> i32 {
    // Below 2^53.
    i32::try_from(big(user.0) % i64::from(ERASURE_BUCKETS)).unwrap_or_default()
}

impl Cassandra {
    pub(super) async fn user(self, user: UserId) -> Result<UserRecord, StoreError> {
        let row: Option<(Bytes,)> = self.row(&self.statements.user, (big(user.0),)).await?;
        let Some((bytes,)) = row else { return Ok(UserRecord::default()) };
        Ok(UserValue::decode(bytes)?.record())
    }

    /// In their order.
    pub(super) async fn users_of(&self, users: Vec<UserId>) -> Result<Vec<UserRecord>, StoreError> {
        if let [user] = users[..] {
            return Ok(vec![self.clone().user(user).await?]);
        }
        let some: Vec<Vec<i64>> =
            users.chunks(USERS_AT_ONCE).map(|users| users.iter().map(|user| big(user.0)).collect()).collect();
        let rows = self
            .for_each(some, async |store, users| store.rows::<(i64, Bytes)>(&store.statements.users, (users,)).await);
        let mut found = HashMap::new();
        for (user, bytes) in rows.await?.into_iter().flatten() {
            found.insert(UserId(user.cast_unsigned()), UserValue::decode(bytes)?.record());
        }
        Ok(users.iter().map(|user| found.get(user).cloned().unwrap_or_default()).collect())
    }

    pub(super) async fn swap_one(&self, user: UserId, record: UserRecord) -> Result<bool, StoreError> {
        let erasure = (erasure_bucket(user), big(user.0));
        let is_erasing = record.is_erasing();
        if is_erasing {
            // Before it: what is listed in vain does no harm.
            self.swap(&self.statements.erasure_begun, erasure).await?;
        }
        let (id, version, bytes) = (big(user.0), big(record.version), UserValue::of(&record).encode_to_vec());
        let answer = match record.version {
            1 => self.swap(&self.statements.user_first, (id, version, bytes)).await?,
            _ => self.swap(&self.statements.user_next, (version, bytes, id, version - 1)).await?,
        };
        if answer.applied && record.erasure.is_some() && !is_erasing {
            self.swap(&self.statements.erasure_done, erasure).await?;
            // Asked for again meanwhile, it was listed before that.
            if self.clone().user(user).await?.is_erasing() {
                self.swap(&self.statements.erasure_begun, erasure).await?;
            }
        }
        Ok(answer.applied)
    }

    pub(super) async fn erasures(&self) -> Result<Vec<UserId>, StoreError> {
        let buckets: Vec<i32> = (0..ERASURE_BUCKETS).collect();
        let rows = self.rows::<(i64,)>(&self.statements.erasures, (buckets,)).await?;
        Ok(rows.into_iter().map(|(user,)| UserId(user.cast_unsigned())).collect())
    }

    /// What the two of a direct chat say of each other.
    pub(super) async fn blocks_in(self, record: &ChatRecord) -> Result<Vec<Block>, StoreError> {
        let [(one, _), (other, _)] = &record.members[..] else { return Ok(Vec::new()) };
        let (one, other) = (one.user, other.user);
        let (of_one, of_other) = futures_util::future::try_join(self.clone().user(one), self.user(other)).await?;
        Ok(blocks_between((one, &of_one), (other, &of_other)))
    }
}
