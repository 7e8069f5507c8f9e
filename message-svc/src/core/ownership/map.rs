//! Which incarnation owns which shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use confab_ids::{SHARDS, Shard};
use confab_mesh::rendezvous;

use super::lease::{Incarnation, LeaseRow};

/// Who owns a shard, and the timestamp that all of that owner's writes are at or above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub owner: Incarnation,
    pub floor: i64,
}

/// The shard map as it is stored: one row, changed only by compare-and-set on its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardMap {
    /// 0: there is none yet.
    pub version: u64,
    /// Where the owners are called: all of those that have a shard, and nobody else.
    pub addrs: BTreeMap<Incarnation, Arc<str>>,
    /// By shard; empty in version 0.
    pub tenures: Vec<Tenure>,
}

/// A change of some shards' owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub shard: Shard,
    pub to: Incarnation,
    pub floor: i64,
}

impl ShardMap {
    pub(crate) fn tenure(&self, shard: Shard) -> Option<Tenure> {
        self.tenures.get(usize::from(shard.0)).copied()
    }

    pub(crate) fn owner(&self, shard: Shard) -> Option<Incarnation> {
        self.tenure(shard).map(|tenure| tenure.owner)
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = Incarnation> {
        self.addrs.keys().copied()
    }

    pub(crate) fn shards_of(&self, owner: Incarnation) -> impl Iterator<Item = Shard> {
        let owned = self.tenures.iter().zip(Shard::all()).filter(move |(tenure, _)| tenure.owner == owner);
        owned.map(|(_, shard)| shard)
    }

    /// The next version, with these changes; `addr` tells where an owner is called.
    pub(crate) fn moved(&self, moves: &[Move], addr: impl Fn(Incarnation) -> Option<Arc<str>>) -> Self {
        let mut next = Self { version: self.version + 1, addrs: BTreeMap::new(), tenures: self.tenures.clone() };
        if next.tenures.is_empty() {
            let nobody = Tenure { owner: Incarnation(0), floor: 0 };
            next.tenures = vec![nobody; usize::from(SHARDS)];
        }
        for Move { shard, to, floor } in moves {
            next.tenures[usize::from(shard.0)] = Tenure { owner: *to, floor: *floor };
        }
        let owners: BTreeSet<Incarnation> = next.tenures.iter().map(|tenure| tenure.owner).collect();
        for owner in owners {
            let known = self.addrs.get(&owner).cloned().or_else(|| addr(owner));
            next.addrs.extend(known.map(|known| (owner, known)));
        }
        next
    }
}

/// Who should own each shard, among those that can.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    among: Vec<(Incarnation, Arc<str>)>,
    owners: Vec<Incarnation>,
}

impl Wanted {
    /// Reckons anew if the candidates have changed.
    pub(crate) fn update(&mut self, serving: &[&LeaseRow]) {
        let same = |(known, row): (&(Incarnation, Arc<str>), &&LeaseRow)| known.0 == row.incarnation;
        if self.among.len() == serving.len() && self.among.iter().zip(serving).all(same) {
            return;
        }
        self.among = serving.iter().map(|row| (row.incarnation, Arc::from(row.addr.as_str()))).collect();
        self.owners.clear();
        if self.among.is_empty() {
            return;
        }
        self.owners = Shard::all()
            .filter_map(|shard| {
                let scored = |(incarnation, addr): &(Incarnation, Arc<str>)| {
                    (rendezvous::score(u64::from(shard.0), addr), *incarnation)
                };
                self.among.iter().map(scored).max().map(|(_, best)| best)
            })
            .collect();
    }

    /// Nobody can.
    pub(crate) fn is_empty(&self) -> bool {
        self.among.is_empty()
    }

    pub(crate) fn owner(&self, shard: Shard) -> Option<Incarnation> {
        self.owners.get(usize::from(shard.0)).copied()
    }

    /// How many candidates come before this one: who is first acts first.
    pub(crate) fn rank(&self, incarnation: Incarnation) -> usize {
        self.among.iter().position(|(known, _)| *known == incarnation).unwrap_or(self.among.len())
    }
}
