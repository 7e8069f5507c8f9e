//! Who talks, and how much.

use std::time::Duration;

use confab_bench::mix::GROUP_EVERY;

use crate::checker::Device;
use crate::harness::Mesh;
use crate::roam::Part;

/// Members of a group who send.
const GROUP_SENDERS: usize = 10;

/// Of ten connections, about four drop once in a row of the table: after a quarter to twice of the frames that it gets.
const DROPS: (u32, u32) = (4, 2);

/// Of the capacity, what the rows take; the issue allows 0.3. At that, with the reconnects of clients that roam, both cores are
/// two thirds busy before anything happens, most of it Cassandra's three nodes: what happens would wait for them.
pub const SHARE: f64 = 0.2;

/// Who there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Population {
    /// Of two users, who both send.
    pub pairs: usize,
    pub groups: usize,
    /// Of each group; all are connected, some send.
    pub members: usize,
}

impl Population {
    /// The issue's: one-to-one pairs and ten groups of 100.
    pub const FULL: Self = Self { pairs: 40, groups: 10, members: 100 };

    #[must_use]
    pub fn users(&self) -> usize {
        2 * self.pairs + self.groups * self.members
    }

    fn senders(&self) -> usize {
        self.members.min(GROUP_SENDERS)
    }
}

/// What clients do meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub population: Population,
    /// At least so many.
    pub messages: usize,
    /// A second, of all together, where nothing is in the way. One in [`GROUP_EVERY`] goes to a group.
    pub rate: f64,
}

/// A chat and its members, who has which part.
pub(super) struct Talk {
    pub chats: Vec<u64>,
    pub parts: Vec<Part>,
}

impl Load {
    /// How long the sending takes where nothing is in the way.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.messages as f64 / self.rate.max(1.0))
    }

    /// As long as `time` at least.
    #[must_use]
    pub fn for_at_least(mut self, time: Duration) -> Self {
        let needed = self.rate * time.as_secs_f64();
        // A run of hours would not reach 2^32 messages.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates and times are small and positive"
        )]
        let needed = needed.ceil() as usize;
        self.messages = self.messages.max(needed);
        self
    }

    /// Messages of each sender in a pair, and of each in a group.
    fn shares(&self) -> (usize, usize) {
        let Population { pairs, groups, .. } = self.population;
        let to_groups = self.messages.div_ceil(GROUP_EVERY as usize);
        let to_pairs = self.messages - to_groups;
        (to_pairs.div_ceil(2 * pairs.max(1)), to_groups.div_ceil((groups * self.population.senders()).max(1)))
    }

    /// Messages of all together: each sender has as many as the others of its kind.
    #[must_use]
    pub fn total(&self) -> usize {
        let Population { pairs, groups, .. } = self.population;
        let (of_pair, of_group) = self.shares();
        2 * pairs * of_pair + groups * self.population.senders() * of_group
    }

    /// Makes the chats; users are `first` and those after it.
    pub(super) async fn set_up(&self, mesh: &Mesh, first: u64) -> anyhow::Result<Talk> {
        let Population { pairs, groups, members } = self.population;
        let (of_pair, of_group) = self.shares();
        let mut talk = Talk { chats: Vec::new(), parts: Vec::new() };
        let mut next = first;
        for at in 0..pairs + groups {
            let size = if at < pairs { 2 } else { members };
            let users: Vec<u64> = (next..).take(size).collect();
            next += size as u64;
            let (chat, senders, share) = if at < pairs {
                (mesh.direct(0, users[0], users[1]).await?, 2, of_pair)
            } else {
                (mesh.group(0, users[0], &users[1..]).await?, self.population.senders(), of_group)
            };
            talk.chats.push(chat);
            let frames = self.frames(senders, share);
            for (at, user) in users.into_iter().enumerate() {
                talk.parts.push(Part {
                    device: Device { user, name: "default".to_owned() },
                    token: mesh.token(user),
                    chats: vec![chat],
                    per_chat: if at < senders { share } else { 0 },
                    pace: self.lasts() / u32::try_from(share.max(1)).unwrap_or(u32::MAX),
                    drop_after: frames / DROPS.0..(frames * DROPS.1).max(frames / DROPS.0 + 1),
                });
            }
        }
        Ok(talk)
    }

    /// That each member gets, about: everyone's messages, and acks of its own.
    fn frames(&self, senders: usize, share: usize) -> u32 {
        u32::try_from(senders * share + share).unwrap_or(u32::MAX / DROPS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_goes_to_groups_and_nobody_sends_less_than_asked_for() {
        let load = Load { population: Population::FULL, messages: 5_000, rate: 100.0 };
        assert_eq!(load.shares(), (57, 5));
        assert_eq!((load.total(), load.lasts()), (80 * 57 + 100 * 5, Duration::from_secs(50)));
        assert_eq!(load.for_at_least(Duration::from_secs(40)).messages, 5_000);
        assert_eq!(load.for_at_least(Duration::from_secs(80)).messages, 8_000);
        assert_eq!(load.population.users(), 1_080);
    }
}
