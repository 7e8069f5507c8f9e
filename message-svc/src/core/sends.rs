//! Which sends a chat has seen: the newest in memory, the others in the store.

use std::collections::VecDeque;

use confab_ids::{MessageId, Seq, UserId};

use super::maps::{HashMap, HashSet};
use crate::store::SendKey;

/// Keys kept in memory per chat, beside those that the store doesn't have yet. Older ones are looked up. (In tests few, so
/// that they are forgotten.)
const KEPT: usize = if cfg!(test) { 2 } else { 1_024 };

/// One accepted send, as its key remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub seq: Seq,
    pub message_id: MessageId,
    pub created_at_ms: i64,
    /// Of what was sent: another body under the same key is a conflict.
    pub body_hash: u64,
}

/// What memory knows of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Sent(Sent),
    New,
    /// Only the store can tell.
    Unknown,
}

/// Hashes of keys kept per chat: with them a fresh key is known to be new without a look into the store, and fresh is what
/// nearly all are. 8 bytes each; a chat with more asks the store.
const HASHES: usize = 32_768;

/// Keys beyond which a chat at rest forgets what the store knows.
const KEPT_AT_REST: usize = 64;

/// Whose keys are known, all of them.
#[derive(Debug)]
enum Senders {
    Everyone,
    These(HashSet<UserId>),
}

#[derive(Debug)]
pub(crate) struct Sends {
    sent: HashMap<SendKey, Sent>,
    order: VecDeque<SendKey>,
    /// The hashes of all that was sent by those in `of`: a key of theirs whose hash isn't here is new. `None`: too many.
    hashes: Option<HashSet<u64>>,
    of: Senders,
    /// New, as the store has said, and waiting to be accepted.
    vetted: Vec<SendKey>,
}

impl Sends {
    /// For a chat whose log is empty (`complete`), or one read from the store.
    pub(crate) fn new(complete: bool) -> Self {
        let of = if complete { Senders::Everyone } else { Senders::These(HashSet::default()) };
        Self {
            sent: HashMap::default(),
            order: VecDeque::new(),
            hashes: Some(HashSet::default()),
            of,
            vetted: Vec::new(),
        }
    }

    pub(crate) fn get(&self, key: &SendKey) -> Known {
        match self.sent.get(key) {
            Some(sent) => Known::Sent(*sent),
            None => match &self.hashes {
                Some(hashes) if self.knows(key.user()) && !hashes.contains(&hash(key)) => Known::New,
                _ if self.vetted.contains(key) => Known::New,
                _ => Known::Unknown,
            },
        }
    }

    fn knows(&self, user: UserId) -> bool {
        match &self.of {
            Senders::Everyone => true,
            Senders::These(users) => users.contains(&user),
        }
    }

    /// The hashes of all keys that the store has of this key's sender.
    pub(crate) fn complete(&mut self, key: &SendKey, of_sender: Vec<u64>) {
        if let (Some(hashes), Senders::These(users)) = (&mut self.hashes, &mut self.of) {
            hashes.extend(of_sender);
            hashes.extend(self.sent.keys().filter(|sent| sent.user() == key.user()).map(hash));
            users.insert(key.user());
            if hashes.len() > HASHES {
                self.hashes = None;
            }
        }
    }

    /// The store doesn't have this key: it is new until it is inserted.
    pub(crate) fn vet(&mut self, key: SendKey) {
        self.vetted.push(key);
    }

    /// Nothing waits any more.
    pub(crate) fn forget_vetted(&mut self) {
        self.vetted = Vec::new();
    }

    /// Remembers a key. `stored`: up to where the store has the chat's sends; their keys can be forgotten.
    pub(crate) fn insert(&mut self, key: SendKey, sent: Sent, stored: Seq) {
        if self.knows(key.user())
            && let Some(hashes) = &mut self.hashes
        {
            hashes.insert(hash(&key));
            if hashes.len() > HASHES {
                self.hashes = None;
            }
        }
        self.vetted.retain(|vetted| *vetted != key);
        if self.sent.insert(key.clone(), sent).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > KEPT
            && let Some(oldest) =
                self.order.pop_front_if(|key| self.sent.get(key).is_none_or(|sent| sent.seq <= stored))
        {
            self.sent.remove(&oldest);
        }
    }

    /// It holds more than a chat at rest needs.
    pub(crate) fn is_large(&self) -> bool {
        self.order.len() > KEPT_AT_REST || self.hashes.as_ref().is_some_and(|hashes| hashes.len() > KEPT_AT_REST)
    }
}

/// What a key is remembered by where there is no room for it.
pub(crate) fn hash(key: &SendKey) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(seq: u64) -> Sent {
        Sent { seq: Seq(seq), message_id: MessageId([0; 16]), created_at_ms: 0, body_hash: seq }
    }

    fn key(n: u64) -> SendKey {
        SendKey::new(confab_ids::UserId(1), "d", &n.to_string(), MessageId([0; 16]))
    }

    #[test]
    fn beyond_its_bound_it_forgets_the_oldest_but_still_knows_what_is_new() {
        let mut sends = Sends::new(true);
        assert_eq!(sends.get(&key(1)), Known::New);
        for n in 0..=KEPT as u64 {
            sends.insert(key(n), sent(n), Seq(u64::MAX));
        }
        assert_eq!(sends.get(&key(0)), Known::Unknown);
        assert_eq!(sends.get(&key(1)), Known::Sent(sent(1)));
        assert_eq!(sends.get(&key(u64::MAX)), Known::New);
        assert_eq!(Sends::new(false).get(&key(1)), Known::Unknown);
    }

    #[test]
    fn beyond_its_hashes_it_no_longer_claims_to_know_all() {
        let mut sends = Sends::new(true);
        for n in 0..=HASHES as u64 {
            sends.insert(key(n), sent(n), Seq(u64::MAX));
        }
        assert_eq!(sends.get(&key(u64::MAX)), Known::Unknown);
    }
}
