//! What one user has set, for all of their devices and chats: pure.

use std::collections::{BTreeMap, BTreeSet};

use confab_ids::{ChatId, UserId};

use crate::error::ChatError;

/// Others that a user has blocked at most, and chats that they have muted: the whole is one row, of about 30 KiB then.
pub(crate) const BLOCKS_MAX: usize = if cfg!(test) { 3 } else { 2_000 };
pub(crate) const MUTES_MAX: usize = if cfg!(test) { 3 } else { 1_000 };

/// Changed whole, by compare-and-set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserRecord {
    /// Rises by one with each change; 0: nothing was ever set.
    pub version: u64,
    pub hides_last_seen: bool,
    pub hides_preview: bool,
    pub quiet_hours: Option<QuietHours>,
    /// Until when, Unix time in milliseconds; 0: for good.
    pub mutes: BTreeMap<ChatId, i64>,
    pub blocks: BTreeSet<UserId>,
    pub erasure: Option<Erasure>,
}

/// Every day, in minutes since midnight; the end may be the next day's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuietHours {
    pub from_minute: u16,
    pub to_minute: u16,
    /// A name of the IANA time zone database.
    pub time_zone: String,
}

/// Everything of the user's is to go, or has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Erasure {
    /// Unix time, milliseconds.
    pub asked_at_ms: i64,
    /// 0: it isn't done yet.
    pub done_at_ms: i64,
}

/// What is to be changed of the settings; `None`: nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Update {
    pub last_seen: Option<bool>,
    pub preview: Option<bool>,
    pub quiet_hours: Option<Option<QuietHours>>,
}

impl UserRecord {
    pub(crate) fn update(&mut self, update: &Update) {
        self.hides_last_seen = update.last_seen.map_or(self.hides_last_seen, |shown| !shown);
        self.hides_preview = update.preview.map_or(self.hides_preview, |shown| !shown);
        if let Some(quiet_hours) = &update.quiet_hours {
            self.quiet_hours.clone_from(quiet_hours);
        }
    }

    /// Everything of the user's is to go, and has not yet.
    pub(crate) fn is_erasing(&self) -> bool {
        self.erasure.is_some_and(|erasure| erasure.done_at_ms == 0)
    }

    /// As if nothing had been set, but for what protects: when they were last there stays hidden, or is from now on.
    pub(crate) fn forget(&mut self) {
        let Self { version, erasure, .. } = *self;
        *self = Self { version, erasure, hides_last_seen: true, ..Self::default() };
    }

    pub(crate) fn set_block(&mut self, peer: UserId, blocked: bool) -> Result<(), ChatError> {
        if !blocked {
            self.blocks.remove(&peer);
        } else if self.blocks.len() >= BLOCKS_MAX && !self.blocks.contains(&peer) {
            return Err(ChatError::TooManyBlocks);
        } else {
            self.blocks.insert(peer);
        }
        Ok(())
    }

    /// `until_ms`: 0 is for good; `None`: it is muted no more.
    pub(crate) fn set_mute(&mut self, now_ms: i64, chat: ChatId, until_ms: Option<i64>) -> Result<(), ChatError> {
        self.mutes.retain(|_, until| lasts(*until, now_ms));
        match until_ms.filter(|until| lasts(*until, now_ms)) {
            None => drop(self.mutes.remove(&chat)),
            Some(_) if self.mutes.len() >= MUTES_MAX && !self.mutes.contains_key(&chat) => {
                return Err(ChatError::TooManyMutes);
            }
            Some(until) => drop(self.mutes.insert(chat, until)),
        }
        Ok(())
    }

    /// Until when a chat is muted; 0: for good.
    pub(crate) fn muted_until(&self, now_ms: i64, chat: ChatId) -> Option<i64> {
        self.mutes.get(&chat).copied().filter(|until| lasts(*until, now_ms))
    }
}

fn lasts(until_ms: i64, now_ms: i64) -> bool {
    until_ms == 0 || until_ms > now_ms
}

/// What a member of a direct chat says of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Who has blocked, or not any more.
    pub by: UserId,
    /// Of their record: what is older says nothing.
    pub version: u64,
    pub blocked: bool,
}

/// What the records of two users say of each other.
pub(crate) fn blocks_between(one: (UserId, &UserRecord), other: (UserId, &UserRecord)) -> Vec<Block> {
    let of = |(by, record): (UserId, &UserRecord), peer: UserId| Block {
        by,
        version: record.version,
        blocked: record.blocks.contains(&peer),
    };
    [of(one, other.0), of(other, one.0)].into_iter().filter(|block| block.version > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_mutes_are_bounded_and_what_is_there_stays_changeable() {
        let mut record = UserRecord::default();
        for peer in 1..=3 {
            record.set_block(UserId(peer), true).expect("room");
            record.set_mute(0, ChatId(peer), Some(0)).expect("room");
        }
        assert_eq!(record.set_block(UserId(4), true), Err(ChatError::TooManyBlocks));
        assert_eq!(record.set_mute(0, ChatId(4), Some(0)), Err(ChatError::TooManyMutes));
        assert_eq!((record.set_block(UserId(3), true), record.set_mute(0, ChatId(3), Some(9))), (Ok(()), Ok(())));
        record.set_block(UserId(3), false).expect("fewer");
        record.set_block(UserId(4), true).expect("room");
        assert_eq!(record.muted_until(8, ChatId(3)), Some(9));
        assert_eq!(record.muted_until(9, ChatId(3)), None);
        record.set_mute(9, ChatId(4), Some(0)).expect("one has ended");
        record.set_mute(9, ChatId(4), Some(5)).expect("in the past: not at all");
        assert_eq!(record.muted_until(9, ChatId(4)), None);
    }

    #[test]
    fn an_update_leaves_alone_what_it_does_not_name() {
        let mut record = UserRecord::default();
        let quiet = QuietHours { from_minute: 1_320, to_minute: 420, time_zone: "Europe/Berlin".into() };
        record.update(&Update { last_seen: Some(false), quiet_hours: Some(Some(quiet.clone())), ..Update::default() });
        record.update(&Update { preview: Some(false), ..Update::default() });
        assert!(record.hides_last_seen && record.hides_preview);
        assert_eq!(record.quiet_hours, Some(quiet));
        record.update(&Update { last_seen: Some(true), quiet_hours: Some(None), ..Update::default() });
        assert!(!record.hides_last_seen && record.hides_preview && record.quiet_hours.is_none());
    }

    #[test]
    fn only_who_has_ever_set_something_says_something() {
        let (ann, ben) = (UserId(1), UserId(2));
        let blocking = UserRecord { version: 3, blocks: BTreeSet::from([ben]), ..UserRecord::default() };
        let nothing = UserRecord::default();
        assert_eq!(blocks_between((ann, &blocking), (ben, &nothing)), [Block { by: ann, version: 3, blocked: true }]);
        assert!(blocks_between((ann, &nothing), (ben, &nothing)).is_empty());
    }
}
