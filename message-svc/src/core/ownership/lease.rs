//! An incarnation's lease: its own, and those of others as they are observed.

use super::map::ShardMap;
use super::rules::{self, Rule};
use super::stamps::Stamps;
use crate::core::Now;
use crate::core::maps::{HashMap, HashSet};

/// How long a lease holds after the sending of its last confirmed renewal, milliseconds on a clock that counts sleep, too.
pub(crate) const TTL_MS: u64 = 6_000;

/// How often it is renewed, milliseconds.
const RENEW_MS: u64 = 2_000;

/// A renewal that failed is followed by another so soon, milliseconds.
const RETRY_MS: u64 = 500;

/// With this renewal, 4 s after it has come, an incarnation is known to those who call it: edges have found it, and their
/// streams are open. Its counter says so, so that all observers agree.
const KNOWN_AT: u64 = 3;

/// How long a lease's row stands unchanged until its holder counts as gone: the lease's time and 6 % for clocks that run
/// at different speeds.
const OBSERVED_MS: u64 = TTL_MS + TTL_MS * 6 / 100;

/// One start of a message-svc process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Incarnation(pub u128);

impl std::fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How it stands with an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Serving,
    /// Gives its shards away; gets none.
    Draining,
    /// For good.
    Dead,
}

/// A lease as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub incarnation: Incarnation,
    /// Where it is called.
    pub addr: String,
    /// Rises with each renewal.
    pub counter: u64,
    /// No write of it has a higher timestamp.
    pub hi: i64,
    pub standing: Standing,
}

/// What became of a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Swapped<T> {
    Applied,
    /// This is what was there instead.
    Refused(T),
    /// It may be applied by now, or later, or never.
    Unknown,
}

/// One's own lease.
#[derive(Debug)]
pub(crate) struct Lease {
    row: LeaseRow,
    pub stamps: Stamps,
    until_ms: u64,
    /// When the renewal that is under way was sent.
    asked_ms: Option<u64>,
    next_ms: u64,
    stored: bool,
}

impl Lease {
    pub(crate) fn new(incarnation: Incarnation, addr: String) -> Self {
        let row = LeaseRow { incarnation, addr, counter: 0, hi: 0, standing: Standing::Serving };
        Self { row, stamps: Stamps::default(), until_ms: 0, asked_ms: None, next_ms: 0, stored: false }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.row.incarnation
    }

    pub(crate) fn counter(&self) -> u64 {
        self.row.counter
    }

    pub(crate) fn addr(&self) -> &str {
        &self.row.addr
    }

    pub(crate) fn holds(&self, now: Now) -> bool {
        now.mono_ms < self.until_ms && self.row.standing != Standing::Dead
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.row.standing == Standing::Dead
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.row.standing == Standing::Draining
    }

    /// From now on it gives its shards away; the next renewal says so, at once.
    pub(crate) fn drain(&mut self) {
        if self.row.standing == Standing::Serving {
            self.row.standing = Standing::Draining;
            self.next_ms = 0;
        }
    }

    /// The renewal that is due: to be stored if the row is not dead and its counter is lower; the first one, if there is
    /// no row.
    pub(crate) fn renewal(&mut self, now: Now) -> Option<LeaseRow> {
        if self.asked_ms.is_some() || now.mono_ms < self.next_ms || self.is_dead() {
            return None;
        }
        self.asked_ms = Some(now.mono_ms);
        // A drain that begins before the answer brings it forward.
        self.next_ms = now.mono_ms + RENEW_MS;
        self.row.counter += 1;
        let ttl_us = i64::try_from(TTL_MS * 1_000).unwrap_or(i64::MAX);
        self.row.hi = self.stamps.proposal(now.wall_us(), ttl_us);
        Some(self.row.clone())
    }

    /// What became of the renewal. One whose outcome is not known has failed, though its row may be stored.
    pub(crate) fn renewed(&mut self, now: Now, outcome: Swapped<Option<LeaseRow>>) {
        let Some(asked_ms) = self.asked_ms.take() else { return };
        match outcome {
            Swapped::Applied => {
                self.stored = true;
                self.until_ms = asked_ms + TTL_MS;
                self.stamps.confirmed(self.row.hi);
            }
            Swapped::Refused(Some(row)) if row.standing != Standing::Dead => {
                self.row.counter = self.row.counter.max(row.counter);
                self.next_ms = self.next_ms.min(now.mono_ms + RETRY_MS);
            }
            Swapped::Refused(_) => self.die(),
            // Whether the row is there can't be told apart from another's: better a new name.
            Swapped::Unknown if !self.stored => self.die(),
            Swapped::Unknown => self.next_ms = self.next_ms.min(now.mono_ms + RETRY_MS),
        }
    }

    pub(crate) fn die(&mut self) {
        self.row.standing = Standing::Dead;
    }
}

/// The leases of all, as one instance sees them.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    rows: HashMap<Incarnation, (LeaseRow, u64)>,
    /// Owners without a row, though they were known before the rows were read: theirs were purged.
    absent: HashSet<Incarnation>,
}

impl Observed {
    /// All rows as they were just read; `known`: the map that was known before that. (An owner named by a newer one may have
    /// stored its row since.)
    pub(crate) fn update(&mut self, now: Now, rows: Vec<LeaseRow>, known: &ShardMap) {
        let mut before = std::mem::take(&mut self.rows);
        for row in rows {
            let since = match before.remove(&row.incarnation) {
                Some((known, since)) if known.counter == row.counter && known.standing == row.standing => since,
                _ => now.mono_ms,
            };
            self.rows.insert(row.incarnation, (row, since));
        }
        self.absent = known.owners().filter(|owner| !self.rows.contains_key(owner)).collect();
    }

    pub(crate) fn is_absent(&self, owner: Incarnation) -> bool {
        self.absent.contains(&owner)
    }

    pub(crate) fn has_absent(&self) -> bool {
        !self.absent.is_empty()
    }

    /// Those that are marked as dead.
    pub(crate) fn dead(&self) -> Vec<Incarnation> {
        self.select(|row, _| row.standing == Standing::Dead).into_iter().map(|row| row.incarnation).collect()
    }

    pub(crate) fn get(&self, incarnation: Incarnation) -> Option<&LeaseRow> {
        self.rows.get(&incarnation).map(|(row, _)| row)
    }

    /// Those that have not been renewed for so long that their leases are over, and are not marked as dead yet.
    pub(crate) fn expired(&self, now: Now) -> Vec<&LeaseRow> {
        self.select(|row, since| row.standing != Standing::Dead && is_over(now, since))
    }

    /// Those whose shards may be moved: marked as dead.
    pub(crate) fn movable(&self, now: Now) -> Vec<&LeaseRow> {
        let unmarked = |since| !rules::holds(Rule::DeadBeforeMove) && is_over(now, since);
        self.select(|row, since| row.standing == Standing::Dead || unmarked(since))
    }

    /// Those to whom shards are given: whoever has just come gets none while others are there, unless `map` has given it
    /// some already. (Then it keeps them: what is moved to and fro is recovered each time.)
    pub(crate) fn candidates(&self, now: Now, map: &ShardMap) -> Vec<&LeaseRow> {
        let serving = |row: &LeaseRow, since| row.standing == Standing::Serving && !is_over(now, since);
        let is_known = |row: &LeaseRow| row.counter >= KNOWN_AT || map.addrs.contains_key(&row.incarnation);
        let known = self.select(|row, since| serving(row, since) && is_known(row));
        if known.is_empty() { self.select(serving) } else { known }
    }

    /// By incarnation. The predicate is given since when a row has stood there unchanged.
    fn select(&self, keep: impl Fn(&LeaseRow, u64) -> bool) -> Vec<&LeaseRow> {
        let kept = self.rows.values().filter(|(row, since)| keep(row, *since));
        let mut rows: Vec<&LeaseRow> = kept.map(|(row, _)| row).collect();
        rows.sort_unstable_by_key(|row| row.incarnation);
        rows
    }
}

/// Whether a lease whose row has stood unchanged since then is over.
fn is_over(now: Now, since_ms: u64) -> bool {
    now.mono_ms >= since_ms + OBSERVED_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u128, counter: u64, standing: Standing) -> LeaseRow {
        LeaseRow { incarnation: Incarnation(number), addr: format!("{number}:1"), counter, hi: 0, standing }
    }

    fn candidates(rows: &[LeaseRow], map: &ShardMap) -> Vec<u128> {
        let now = Now { wall_ms: 0, mono_ms: 1 };
        let mut observed = Observed::default();
        observed.update(now, rows.to_vec(), &ShardMap::default());
        observed.candidates(now, map).iter().map(|row| row.incarnation.0).collect()
    }

    #[test]
    fn who_has_just_come_gets_shards_only_where_nobody_else_is() {
        use Standing::{Draining, Serving};
        let nobodys = ShardMap::default();
        assert_eq!(candidates(&[row(1, 1, Serving), row(2, 2, Serving)], &nobodys), [1, 2]);
        let rows = [row(1, 3, Serving), row(2, 2, Serving), row(3, 9, Serving)];
        assert_eq!(candidates(&rows, &nobodys), [1, 3]);
        assert_eq!(candidates(&[row(1, 9, Draining), row(2, 1, Serving)], &nobodys), [2]);
        let addrs = [(Incarnation(2), "2:1".into())].into();
        assert_eq!(candidates(&rows, &ShardMap { addrs, ..ShardMap::default() }), [1, 2, 3]);
    }
}
