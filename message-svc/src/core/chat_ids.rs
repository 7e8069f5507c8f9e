//! Chat ids for new chats: taken from the store in blocks, so that nobody else gives them out, and chosen from a block so
//! that a chat is of its key's shard. The same owner then has both, or loses both.

use confab_ids::{ChatId, Shard};

use super::maps::HashMap;

/// Ids that are taken at once: for each shard some 256. What is left of a block when one shard has none any more is not
/// used; 2^53 ids last for thousands of millions of blocks.
pub(crate) const BLOCK_IDS: u64 = if cfg!(test) { 1 << 14 } else { 1 << 20 };

/// What is left of a block.
#[derive(Debug, Default)]
pub(crate) struct ChatIds {
    end: u64,
    first: u64,
    /// Where the search for a shard's next id goes on.
    next: HashMap<Shard, u64>,
}

impl ChatIds {
    /// Ids from `first` on, [`BLOCK_IDS`] of them.
    pub(crate) fn block(first: u64) -> Self {
        Self { first, end: first.saturating_add(BLOCK_IDS), next: HashMap::default() }
    }

    /// A new id of the shard; `None`: another block is needed.
    pub(crate) fn take(&mut self, shard: Shard) -> Option<ChatId> {
        let next = self.next.entry(shard).or_insert(self.first);
        let found = (*next..self.end).map(ChatId).find(|chat| Shard::of_chat(*chat) == shard);
        *next = found.map_or(self.end, |chat| chat.0 + 1);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_their_shard_and_given_out_once() {
        let mut ids = ChatIds::block(1_000);
        let mut seen = std::collections::HashSet::new();
        for shard in [Shard(0), Shard(7), Shard(4_095)] {
            let mut count = 0;
            while let Some(chat) = ids.take(shard) {
                assert_eq!(Shard::of_chat(chat), shard);
                assert!((1_000..1_000 + BLOCK_IDS).contains(&chat.0) && seen.insert(chat));
                count += 1;
            }
            assert!(count >= 3, "{shard:?}: {count}");
            assert_eq!(ids.take(shard), None);
        }
        assert_eq!(ChatIds::default().take(Shard(1)), None);
    }
}
