//! Slices of the key space, each with one owner at a time.

use crate::{ChatId, UserId};

/// How many shards there are: fixed, for it decides where everything is.
pub const SHARDS: u16 = 1 << BITS;
const BITS: u32 = 12;

/// One of [`SHARDS`] slices of all chats, and of all keys that make chats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u16);

impl Shard {
    /// Every shard, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    /// Where a chat is.
    #[must_use]
    pub const fn of_chat(chat: ChatId) -> Self {
        Self::of(chat.0)
    }

    /// Where two users' direct chat is made: the same whoever comes first.
    #[must_use]
    pub const fn of_pair(a: UserId, b: UserId) -> Self {
        let (low, high) = if a.0 < b.0 { (a.0, b.0) } else { (b.0, a.0) };
        Self::of(low.rotate_left(32) ^ high)
    }

    /// Where a user's groups are made.
    #[must_use]
    pub const fn of_user(user: UserId) -> Self {
        Self::of(user.0)
    }

    /// Multiplicative hashing by the golden ratio (Knuth, The Art of Computer Programming, 6.4): neighbouring ids, which
    /// is what ids mostly are, come far apart.
    const fn of(key: u64) -> Self {
        Self((key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - BITS)) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ids_are_spread_evenly() {
        let mut counts = vec![0_u32; usize::from(SHARDS)];
        for chat in 1..=u64::from(SHARDS) * 16 {
            counts[usize::from(Shard::of_chat(ChatId(chat)).0)] += 1;
        }
        assert!(counts.iter().all(|count| (12..=20).contains(count)), "{:?}", counts.iter().max());
    }

    #[test]
    fn a_pair_is_the_same_whoever_comes_first() {
        assert_eq!(Shard::of_pair(UserId(1), UserId(2)), Shard::of_pair(UserId(2), UserId(1)));
        let shards: std::collections::HashSet<Shard> =
            (2..1_002).map(|other| Shard::of_pair(UserId(1), UserId(other))).collect();
        assert!(shards.len() > 800, "one user's chats are all over: {}", shards.len());
    }
}
