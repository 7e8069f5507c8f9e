//! Chats that are made where there are other owners, as steps that each leave nothing half done that matters:
//!
//! ```text
//! the key is looked up  →  an id of the key's shard, and the key's row  →  the chat's row, with its members as of seq 0
//!    →  seqs 0 and 1 of its log  →  its place in its members' lists  →  the chat's row, with its members as of seq 1
//! ```
//!
//! Once a key's row is stored under a lease that still holds, no other owner can give the key another chat; before that
//! nothing of the chat is written. Whoever finds the key and no chat makes that chat; who finds it half made ends it (see
//! `recovery.rs`).

use std::collections::VecDeque;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, Shard};

use super::durable::{Commit, Write};
use super::{Owner, Slot};
use crate::core::chat::Answer;
use crate::core::chat_ids::ChatIds;
use crate::core::maps::HashSet;
use crate::core::{Command, Create, Effects, KeyRead, Now, Origin, Outcome};
use crate::error::ChatError;
use crate::store::{Certain, Creation, CreationKey, MemberRow, Opening, Row};

/// A key whose chat is not settled yet, and who waits for it. The first one's chat is made.
#[derive(Debug)]
pub(super) struct Making {
    number: u64,
    stage: Stage,
    creates: Vec<(Origin, Create)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    LookingUp,
    WaitingForIds,
    Writing(Creation),
}

impl Owner {
    pub(super) fn create_among(&mut self, now: Now, origin: Origin, create: Create, fx: &mut Effects) {
        let key = create.key.clone();
        if !self.fence.serves(now, key.shard()) {
            return fx.replies.push((origin, Outcome::ChatRefused(ChatError::NotOwner)));
        }
        self.waiting += 1;
        if let Some(making) = self.making.get_mut(&key) {
            return making.creates.push((origin, create));
        }
        self.loads += 1;
        let number = self.loads;
        fx.creations.push(KeyRead { key: key.clone(), number });
        self.making.insert(key, Making { number, stage: Stage::LookingUp, creates: vec![(origin, create)] });
    }

    /// What a key has made. One that was asked before its shard came and went says nothing.
    pub(crate) fn creation_found(&mut self, now: Now, read: &KeyRead, made: Option<Creation>, fx: &mut Effects) {
        let asked = |making: &Making| making.number == read.number && making.stage == Stage::LookingUp;
        if !self.making.get(&read.key).is_some_and(asked) {
            return;
        }
        match made {
            Some(made) => self.settled(now, &read.key, made, fx),
            None => self.choose(now, &read.key, fx),
        }
    }

    /// A key could not be looked up.
    pub(crate) fn creation_failed(&mut self, read: &KeyRead, fx: &mut Effects) {
        if self.making.get(&read.key).is_some_and(|making| making.number == read.number) {
            self.give_up(&read.key, ChatError::Unavailable, fx);
        }
    }

    /// A block of ids, from this one on; `None`: there was none to be had.
    pub(crate) fn ids_taken(&mut self, now: Now, first: Option<u64>, fx: &mut Effects) {
        self.taking_ids = false;
        let waiting = self.making.iter().filter(|(_, making)| making.stage == Stage::WaitingForIds);
        let keys: Vec<CreationKey> = waiting.map(|(key, _)| key.clone()).collect();
        let Some(first) = first else {
            return keys.iter().for_each(|key| self.give_up(key, ChatError::Unavailable, fx));
        };
        self.ids = ChatIds::block(first);
        keys.iter().for_each(|key| self.choose(now, key, fx));
    }

    /// Gives a key that has made nothing its chat.
    fn choose(&mut self, now: Now, key: &CreationKey, fx: &mut Effects) {
        let Some(making) = self.making.get_mut(key) else { return };
        let Some(chat) = self.ids.take(key.shard()) else {
            making.stage = Stage::WaitingForIds;
            fx.take_ids |= !std::mem::replace(&mut self.taking_ids, true);
            return;
        };
        let body_hash = making.creates.first().map_or(0, |(_, create)| create.body_hash());
        let made = Creation { chat, body_hash };
        making.stage = Stage::Writing(made);
        let Some(stamp) = self.fence.stamp(now) else {
            return self.give_up(key, ChatError::NotOwner, fx);
        };
        let number = self.number(Commit::Creation(key.clone()));
        fx.writes.push(Write { number, stamp, rows: vec![Row::Creation { key: key.clone(), made }] });
    }

    pub(super) fn key_written(&mut self, now: Now, key: &CreationKey, fx: &mut Effects) {
        let Some(Making { stage: Stage::Writing(made), .. }) = self.making.get(key) else { return };
        let made = *made;
        if self.fence.holds(now) {
            self.settled(now, key, made, fx);
        } else {
            self.give_up(key, ChatError::NotOwner, fx);
        }
    }

    /// The key's chat is this one, for good: whoever waits asks for that.
    fn settled(&mut self, now: Now, key: &CreationKey, made: Creation, fx: &mut Effects) {
        for (origin, create) in self.no_longer_making(key) {
            if create.body_hash() == made.body_hash {
                self.command(now, made.chat, origin, Command::Create(Box::new(create)), fx);
            } else {
                fx.replies.push((origin, Outcome::ChatRefused(ChatError::Conflict)));
            }
        }
    }

    fn give_up(&mut self, key: &CreationKey, error: ChatError, fx: &mut Effects) {
        let refused = |(origin, _)| (origin, Outcome::ChatRefused(error.clone()));
        fx.replies.extend(self.no_longer_making(key).into_iter().map(refused));
    }

    fn no_longer_making(&mut self, key: &CreationKey) -> Vec<(Origin, Create)> {
        let creates = self.making.remove(key).map(|making| making.creates).unwrap_or_default();
        self.waiting -= creates.len();
        creates
    }

    /// Their shards are to go, or gone. A key's row that is under way loses against the next owner's, or is found by it.
    pub(super) fn give_up_makings(&mut self, shards: &HashSet<Shard>, fx: &mut Effects) {
        let of_these = |key: &&CreationKey| shards.contains(&key.shard());
        let keys: Vec<CreationKey> = self.making.keys().filter(of_these).cloned().collect();
        keys.iter().for_each(|key| self.give_up(key, ChatError::NotOwner, fx));
        let of_these = |commit: &Commit| matches!(commit, Commit::Creation(key) if shards.contains(&key.shard()));
        let dropped = self.commits.extract_if(|_, commit| of_these(commit));
        fx.abandoned.extend(dropped.map(|(number, _)| number));
    }

    /// There is no such chat, or none that anything was told of. Whoever asks for it to be made, and who came after, waits
    /// until it is; the others learn that it is not there.
    pub(super) fn absent(&mut self, now: Now, id: ChatId, fx: &mut Effects) {
        let Some(Slot::Loading { mut waiting, .. }) = self.slots.remove(&id) else { return };
        let makes = waiting.iter().position(|(_, command)| matches!(command, Command::Create(_)));
        let makers = waiting.split_off(makes.unwrap_or(waiting.len()));
        self.waiting -= waiting.len();
        fx.replies.extend(waiting.into_iter().map(|(origin, command)| (origin, super::not_member(&command))));
        if !makers.is_empty() {
            self.begin(now, id, makers, fx);
        }
    }

    /// Writes a new chat's row; its log is begun when that is stored.
    fn begin(&mut self, now: Now, id: ChatId, waiting: VecDeque<(Origin, Command)>, fx: &mut Effects) {
        let Some((_, Command::Create(create))) = waiting.front() else { return };
        let mut chat = create.chat(id, now.wall_ms, vec![Opening { bucket: 0, at_ms: now.wall_ms }]);
        chat.opening = true;
        chat.used_ms = now.mono_ms;
        let epoch = self.fence.stamp(now);
        // Another may have begun it in vain: nothing goes beyond the first event before the roster has it.
        let (window, stale_upto) = (self.limits.window, Seq(1));
        chat.certain = Certain { epoch: epoch.unwrap_or_default(), upto: Seq::ZERO, window, stale_upto };
        let row = chat.row(false);
        self.slots.insert(id, Slot::Hot { chat: Box::new(chat), waiting });
        match epoch {
            Some(_) => self.write(now, id, vec![row], Commit::Bucket(id), fx),
            None => self.drop_chats(&HashSet::from_iter([id]), fx),
        }
    }

    /// The chat that is asked for is there, or its log is begun now.
    pub(super) fn ensure(&mut self, now: Now, id: ChatId, origin: Origin, create: Create, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        if chat.last > Seq::ZERO {
            return self.exists(id, origin, fx);
        }
        let everyone: Vec<MemberRow> = chat.rows().collect();
        let (place, epoch) = (chat.take_place(now.wall_ms, false), chat.certain.epoch);
        let event = create.event(id, place, everyone.len());
        fx.rows.push(Row::Event { chat: id, seq: Seq::ZERO, epoch, bytes: Bytes::new() });
        let answer = Answer::Now(Outcome::Created { chat: id, existed: false });
        self.append(now, id, &event, (origin, answer), fx);
        self.write_roster(id, everyone);
    }
}
