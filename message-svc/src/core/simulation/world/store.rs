//! The store of the world: writes that are tried until a quorum has them, reads of two replicas, compare-and-sets.

use std::sync::Arc;

use super::super::replicas::{self, Mutation};
use super::{Happening, Input, TRY_MS, World};
use crate::core::owner::Answered;
use crate::core::ownership::Ask;
use crate::core::ownership::lease::{Incarnation, LeaseRow, Standing, Swapped};
use crate::core::ownership::map::ShardMap;
use crate::core::ownership::rules::{self, Rule};
use crate::core::sends::hash;
use crate::core::{Found, Lookup};

/// What of an observation has been read.
#[derive(Default)]
pub(super) struct Seen {
    /// The map's version that is known.
    known: u64,
    leases: Option<Vec<LeaseRow>>,
    map: Option<Option<Arc<ShardMap>>>,
}

impl World {
    pub(super) fn quorum(&mut self) -> Vec<usize> {
        let without = usize::try_from(self.chance.below(3)).unwrap_or(0);
        if rules::holds(Rule::QuorumReads) { (0..3).filter(|at| *at != without).collect() } else { vec![without] }
    }

    pub(super) fn find(&mut self, lookup: Lookup) -> (Lookup, Found) {
        let which = self.quorum();
        let of = (lookup.chat, &lookup.buckets[..], &lookup.key);
        let sends = replicas::read_sends(&mut self.replicas, &which, of, self.now_ms);
        let sent = sends.get(&lookup.key).cloned().unwrap_or_default();
        let of_sender = Some(sends.keys().map(hash).collect());
        (lookup, Found { sent, of_sender })
    }

    pub(super) fn try_write(&mut self, number: u64) {
        let Some(write) = self.writes.get(&number) else { return };
        let node = &self.nodes[write.node];
        // A process that stands still sends nothing.
        let stands = node.frozen;
        let open: Vec<(usize, usize, Arc<Mutation>)> = write
            .mutations
            .iter()
            .enumerate()
            .flat_map(|(at, mutation)| (0..3).map(move |replica| (at, replica, mutation.clone())))
            .filter(|(at, replica, _)| !write.acks[*at][*replica])
            .collect();
        for (at, replica, mutation) in open {
            let lost = !self.resting && self.chance.one_in(15);
            if !stands && !lost {
                self.soon(Happening::Apply { replica, mutation, of: (number, at) });
            }
        }
        self.at(self.now_ms + TRY_MS, Happening::Try { write: number });
    }

    pub(super) fn applied(&mut self, (number, at): (u64, usize), replica: usize) {
        let Some(write) = self.writes.get_mut(&number) else { return };
        write.acks[at][replica] = true;
        if write.acks.iter().all(|acks| acks.iter().filter(|ack| **ack).count() >= 2)
            && let Some(write) = self.writes.remove(&number)
        {
            let (node, life) = (write.node, write.life);
            // What the third replica lacks is on its way, or comes by repair.
            self.soon(Happening::Input { node, life, input: Input::Committed(write.number) });
        }
    }

    pub(super) fn asked(&mut self, node: usize, life: u64, of: Incarnation, ask: Ask) {
        let unknown = !self.resting && self.chance.one_in(10);
        let answered = match ask {
            Ask::Renew(row) => {
                Answered::Renewed(self.swap_lease(row.incarnation, unknown, move |before| match before {
                    None => (row.counter == 1).then(|| Some(row.clone())),
                    Some(before) => {
                        (before.standing != Standing::Dead && before.counter < row.counter).then(|| Some(row.clone()))
                    }
                }))
            }
            Ask::Observe { .. } if unknown => Answered::Unobserved,
            Ask::Observe { known } => {
                // Two reads side by side: either may be the first.
                let mut seen = Seen { known, ..Seen::default() };
                if self.chance.one_in(2) {
                    seen.leases = Some(self.all_leases())
                } else {
                    seen.map = Some(self.newer_map(known))
                };
                return self.soon(Happening::Observe { node, life, of, seen });
            }
            Ask::MarkDead { incarnation, counter } => {
                self.swap_lease(incarnation, unknown, move |before| {
                    let before = before.filter(|before| before.counter == counter)?;
                    Some(Some(LeaseRow { standing: Standing::Dead, ..before.clone() }))
                });
                Answered::MarkedDead
            }
            Ask::Purge(incarnation) => {
                self.swap_lease(incarnation, unknown, |before| {
                    before.is_some_and(|before| before.standing == Standing::Dead).then_some(None)
                });
                Answered::Purged
            }
            Ask::SwapMap(map) => {
                let change = move |before: Option<&Arc<ShardMap>>| {
                    (before.map_or(0, |before| before.version) + 1 == map.version).then(|| Some(map.clone()))
                };
                Answered::Swapped(match self.map.swap(&mut self.chance, unknown, Box::new(change)) {
                    Ok(Swapped::Refused(map)) => Swapped::Refused(map.unwrap_or_default()),
                    Ok(Swapped::Applied) => Swapped::Applied,
                    Ok(Swapped::Unknown) => Swapped::Unknown,
                    Err(number) => {
                        self.soon(Happening::SettleMap(number));
                        Swapped::Unknown
                    }
                })
            }
        };
        self.soon(Happening::Input { node, life, input: Input::Answered(of, answered) });
    }

    /// The second of an observation's reads.
    pub(super) fn observed(&mut self, node: usize, life: u64, of: Incarnation, seen: Seen) {
        let leases = seen.leases.unwrap_or_else(|| self.all_leases());
        let map = seen.map.unwrap_or_else(|| self.newer_map(seen.known));
        let input = Input::Answered(of, Answered::Observed { leases, map });
        self.soon(Happening::Input { node, life, input });
    }

    fn all_leases(&self) -> Vec<LeaseRow> {
        self.leases.values().filter_map(|register| register.value().cloned()).collect()
    }

    fn newer_map(&self, known: u64) -> Option<Arc<ShardMap>> {
        self.map.value().filter(|map| map.version > known).cloned()
    }

    fn swap_lease(
        &mut self,
        incarnation: Incarnation,
        unknown: bool,
        change: impl Fn(Option<&LeaseRow>) -> Option<Option<LeaseRow>> + 'static,
    ) -> Swapped<Option<LeaseRow>> {
        let register = self.leases.entry(incarnation).or_default();
        match register.swap(&mut self.chance, unknown, Box::new(change)) {
            Ok(outcome) => outcome,
            Err(number) => {
                self.soon(Happening::SettleLease(incarnation, number));
                Swapped::Unknown
            }
        }
    }
}
