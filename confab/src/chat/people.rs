//! Who is in the chat, who is online, and how far each has got.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::frame::Receipt;
use super::line::{Tick, online_word};

/// More than these aren't named one by one in a line.
const NAMED_MAX: usize = 5;

#[derive(Debug, Default)]
pub(crate) struct People {
    me: u64,
    /// The other members.
    others: BTreeSet<u64>,
    presence: BTreeMap<u64, Presence>,
    /// Delivered and read, by member.
    watermarks: BTreeMap<u64, (u64, u64)>,
    /// Delivered to and read by all, of a chat too large for single watermarks.
    all: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Presence {
    online: bool,
    last_seen: Option<Timestamp>,
}

impl People {
    pub(crate) fn new(me: u64) -> Self {
        Self { me, ..Self::default() }
    }

    /// Everyone is known now.
    pub(crate) fn set(&mut self, members: impl IntoIterator<Item = u64>) {
        self.others = members.into_iter().filter(|user| *user != self.me).collect();
    }

    /// Returns who wasn't known before.
    pub(crate) fn add(&mut self, users: &[u64]) -> Vec<u64> {
        users.iter().copied().filter(|user| *user != self.me && self.others.insert(*user)).collect()
    }

    pub(crate) fn remove(&mut self, users: &[u64]) {
        self.others.retain(|user| !users.contains(user));
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = u64> {
        self.others.iter().copied()
    }

    /// Returns whether it is news, and about this chat.
    pub(crate) fn is_now(&mut self, user: u64, online: bool, last_seen: Option<Timestamp>) -> bool {
        let before = self.presence.insert(user, Presence { online, last_seen });
        self.others.contains(&user) && before.is_none_or(|before| before.online != online)
    }

    /// Without a connection nobody's presence is known.
    pub(crate) fn forget_presence(&mut self) {
        self.presence.clear();
    }

    /// Watermarks only rise.
    pub(crate) fn receipt(&mut self, receipt: &Receipt) {
        match *receipt {
            Receipt::Member { user_id, delivered, read, .. } => {
                let known = self.watermarks.entry(user_id).or_default();
                *known = (known.0.max(delivered).max(read), known.1.max(read));
            }
            Receipt::Many { seq, delivered_by, read_by, members, .. } => {
                let everyone = members.saturating_sub(1);
                if delivered_by >= everyone {
                    self.all.0 = self.all.0.max(seq);
                }
                if read_by >= everyone {
                    self.all.1 = self.all.1.max(seq);
                }
            }
        }
    }

    /// How far a message of one's own has got that is on the server's disk.
    pub(crate) fn tick(&self, seq: u64) -> Tick {
        let mark = |user: u64| self.watermarks.get(&user).copied().unwrap_or_default();
        let alone = self.others.is_empty();
        let all = |reached: fn((u64, u64)) -> u64| {
            reached(self.all) >= seq || (!alone && self.others().all(|user| reached(mark(user)) >= seq))
        };
        if all(|(_, read)| read) {
            Tick::Read
        } else if all(|(delivered, _)| delivered) {
            Tick::Delivered
        } else {
            Tick::Sent
        }
    }

    /// For the line above the prompt: `user 2 online`.
    pub(crate) fn summary(&self) -> String {
        if self.others.is_empty() {
            return "nobody else here".to_owned();
        }
        if self.others.len() > NAMED_MAX {
            let online =
                self.others().filter(|user| self.presence.get(user).is_some_and(|presence| presence.online)).count();
            return format!("{online} of {} others online", self.others.len());
        }
        let one = |user| match self.presence.get(&user) {
            Some(presence) => format!("user {user} {}", online_word(presence.online)),
            None => format!("user {user}"),
        };
        self.others().map(one).collect::<Vec<_>>().join(", ")
    }

    /// For `/who`: a line for each, those online first.
    pub(crate) fn list(&self, clock: impl Fn(Timestamp) -> String) -> Vec<String> {
        let mut others: Vec<_> = self.others().map(|user| (user, self.presence.get(&user).copied())).collect();
        others.sort_by_key(|(_, presence)| !presence.is_some_and(|presence| presence.online));
        let one = |(user, presence): (u64, Option<Presence>)| match presence {
            Some(Presence { online: true, .. }) => format!("user {user}: online"),
            Some(Presence { last_seen: Some(time), .. }) => format!("user {user}: last seen {}", clock(time)),
            Some(_) => format!("user {user}: offline"),
            None => format!("user {user}: not known"),
        };
        [format!("user {}: you", self.me)].into_iter().chain(others.into_iter().map(one)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people(others: &[u64]) -> People {
        let mut people = People::new(1);
        people.set(others.iter().copied().chain([1]));
        people
    }

    fn reached(user_id: u64, delivered: u64, read: u64) -> Receipt {
        Receipt::Member { chat_id: 1, user_id, delivered, read }
    }

    #[test]
    fn two_ticks_when_the_last_one_has_it() {
        let mut people = people(&[2, 3]);
        people.receipt(&reached(2, 5, 5));
        assert_eq!(people.tick(5), Tick::Sent);
        people.receipt(&reached(3, 5, 4));
        assert_eq!((people.tick(4), people.tick(5), people.tick(6)), (Tick::Read, Tick::Delivered, Tick::Sent));
        people.receipt(&reached(3, 4, 5));
        assert_eq!(people.tick(5), Tick::Read);
    }

    #[test]
    fn alone_nothing_is_delivered() {
        assert_eq!(people(&[]).tick(1), Tick::Sent);
    }

    #[test]
    fn large_chats_are_counted() {
        let mut people = people(&[2, 3, 4]);
        let many = |delivered_by, read_by| Receipt::Many { chat_id: 1, seq: 9, delivered_by, read_by, members: 4 };
        people.receipt(&many(2, 1));
        assert_eq!(people.tick(9), Tick::Sent);
        people.receipt(&many(3, 2));
        assert_eq!(people.tick(9), Tick::Delivered);
        people.receipt(&many(3, 3));
        assert_eq!(people.tick(9), Tick::Read);
    }

    #[test]
    fn who_is_there() {
        let mut people = people(&[2, 3]);
        assert_eq!(people.summary(), "user 2, user 3");
        assert!(people.is_now(2, true, None));
        assert!(!people.is_now(2, true, None), "no news");
        assert!(!people.is_now(9, true, None), "not of this chat");
        people.is_now(3, false, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(people.summary(), "user 2 online, user 3 offline");
        assert_eq!(people.list(|_| "12:03".to_owned()), ["user 1: you", "user 2: online", "user 3: last seen 12:03"]);
        assert_eq!(people.add(&[1, 3, 4, 5, 6, 7]), [4, 5, 6, 7]);
        assert_eq!(people.summary(), "1 of 6 others online");
        people.remove(&[2, 3, 4, 5, 6, 7]);
        assert_eq!(people.summary(), "nobody else here");
    }
}
