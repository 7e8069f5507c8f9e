//! The ids that every service speaks of, as types: a chat's id can't be taken for a user's.
//!
//! All are numbers under 2^53, so that they survive JSON and JavaScript.

mod shard;

pub use shard::{SHARDS, Shard};

/// Ids, seqs and counts stay below this: 2^53, the end of the integers that a JSON number holds exactly.
pub const NUMBER_LIMIT: u64 = 1 << 53;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The id, if it is one: from 1 to 2^53 - 1.
            #[must_use]
            pub const fn checked(value: u64) -> Option<Self> {
                if value == 0 || value >= NUMBER_LIMIT { None } else { Some(Self(value)) }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A chat, direct or group.
    ChatId
);
id!(
    /// A person, as the token's `sub` names them.
    UserId
);
id!(
    /// A place in a chat's log: from 1 on, without gaps. 0 is before the first.
    Seq
);

impl Seq {
    /// The place before the first event.
    pub const ZERO: Seq = Seq(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The place before this one; before the first there is only 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The name of one event: a UUIDv7, as its 16 big-endian bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// The id in these bytes, if there are 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Debug for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_json_can_hold() {
        assert_eq!(ChatId::checked(0), None);
        assert_eq!(ChatId::checked(NUMBER_LIMIT), None);
        assert_eq!(ChatId::checked(NUMBER_LIMIT - 1), Some(ChatId(NUMBER_LIMIT - 1)));
        assert_eq!(MessageId::from_slice(&[1; 15]), None);
    }
}
