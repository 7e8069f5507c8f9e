//! Ranges of a log: over its buckets, page after page, until there is enough.

use bytes::Bytes;
use confab_ids::{ChatId, Seq};
use scylla::response::{PagingState, PagingStateResponse};

use super::reads::rows_at_most;
use super::{Cassandra, big, failed};
use crate::store::{Page, Range, StoreError, bucket_of};

/// Buckets without rows after which a log has ended, going down: the one asked for first, the one that was opened last, and
/// the one below it.
const EMPTY_MAX: usize = 3;

/// A range on its way into memory.
struct Filling {
    range: Range,
    page: Page,
    bytes: usize,
}

impl Filling {
    fn is_full(&self) -> bool {
        self.page.events.len() >= self.range.limit || self.bytes >= self.range.bytes
    }

    fn take(&mut self, event: Bytes) {
        if self.is_full() {
            self.page.more = true;
        } else {
            self.bytes += event.len();
            self.page.events.push(event);
        }
    }

    fn done(mut self) -> Page {
        if self.range.newest {
            self.page.events.reverse();
        }
        self.page
    }
}

impl Cassandra {
    pub(super) async fn page(self, range: Range) -> Result<Page, StoreError> {
        let mut filling = Filling { range, page: Page::default(), bytes: 0 };
        if range.after.next() >= range.before {
            return Ok(filling.page);
        }
        if range.newest {
            self.fill_down(&mut filling).await?
        } else {
            self.fill_up(&mut filling).await?
        }
        Ok(filling.done())
    }

    async fn fill_up(&self, filling: &mut Filling) -> Result<(), StoreError> {
        let (first, last) = (bucket_of(filling.range.after.next()), bucket_of(filling.range.before.prev()));
        for bucket in first..=last {
            // The log ends where a bucket has no row: there are no holes below its head.
            if self.fill_from(bucket, filling).await? == 0 || filling.page.more {
                break;
            }
        }
        Ok(())
    }

    async fn fill_down(&self, filling: &mut Filling) -> Result<(), StoreError> {
        let (last, mut bucket) = (bucket_of(filling.range.after.next()), bucket_of(filling.range.before.prev()));
        let mut empty = 0;
        loop {
            let mut next = bucket.checked_sub(1);
            if self.fill_from(bucket, filling).await? == 0 {
                empty += 1;
                if empty == 1 {
                    let upper = self.upper_bucket(filling.range.chat).await?;
                    next = next.zip(upper).map(|(below, upper)| below.min(upper));
                }
            }
            match next {
                Some(next) if next >= last && empty < EMPTY_MAX && !filling.page.more => bucket = next,
                _ => return Ok(()),
            }
        }
    }

    /// The bucket that was opened last; its row may come later.
    async fn upper_bucket(&self, chat: ChatId) -> Result<Option<u32>, StoreError> {
        let found = self.chat(chat).await?;
        Ok(found.map(|(meta, _)| meta.openings.last().map_or(0, |opening| opening.bucket)))
    }

    /// Returns how many rows there were, up to the first that had no room.
    async fn fill_from(&self, bucket: u32, filling: &mut Filling) -> Result<usize, StoreError> {
        let Range { chat, after, before, limit, newest, .. } = filling.range;
        let statement = if newest { &self.statements.events_down } else { &self.statements.events_up };
        // One more than there is room for tells that there is more.
        let rows_max = rows_at_most((limit - filling.page.events.len()).saturating_add(1));
        let (first, last) = (big(after.next().0), cql_seq(before.prev()));
        let values = (big(chat.0), bucket.cast_signed(), first, last, rows_max);
        let mut state = PagingState::start();
        let mut found = 0;
        loop {
            let page = self.session.execute_single_page(statement, values, state).await;
            let (result, paging) = page.map_err(failed)?;
            let rows = result.into_rows_result().map_err(failed)?;
            for row in rows.rows::<(Bytes,)>().map_err(failed)? {
                filling.take(row.map_err(failed)?.0);
                found += 1;
            }
            match paging {
                PagingStateResponse::HasMorePages { state: next } if !filling.page.more => state = next,
                _ => return Ok(found),
            }
        }
    }
}

/// A bound that may be beyond every seq.
fn cql_seq(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}
