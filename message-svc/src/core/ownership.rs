//! Who owns which chats: leases, the shard map, write timestamps. The rules are in `docs/design/0004-ownership.md`.
//!
//! Pure: it is told the time, what was read and what became of its compare-and-sets, and says which to try next and which
//! shards were stopped, gained and lost.

pub(crate) mod lease;
pub(crate) mod map;
pub(crate) mod rules;
pub(crate) mod stamps;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use confab_ids::Shard;

use super::Now;
use lease::{Incarnation, Lease, LeaseRow, Observed, Standing, Swapped};
use map::{Move, ShardMap, Wanted};
use rules::Rule;

/// How often leases and map are read, milliseconds.
const OBSERVE_MS: u64 = 1_000;

/// Between two looks at the map because of commands on others' chats, milliseconds: an edge has the map that gives it the chat,
/// and it hasn't yet.
const LOOK_MS: u64 = 100;

/// Who comes later in the order of candidates waits so much longer before it takes over, milliseconds: nearly always one
/// does it alone.
const TURN_MS: u64 = 300;

/// Shards that an owner hands over at once to one that has come: the others go on meanwhile.
const HANDED_OVER_MAX: usize = 512;

/// One thing to be done with the store; it is answered before the next is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Store my row, if it isn't dead and its counter is lower; with counter 1, if there is none.
    Renew(LeaseRow),
    /// Read all leases, and the map if it is newer than this.
    Observe { known: u64 },
    /// Mark it as dead, if its counter is still this.
    MarkDead { incarnation: Incarnation, counter: u64 },
    /// Store the map, if the version before it is there.
    SwapMap(Arc<ShardMap>),
}

/// What has changed for the owner of chats.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// To be given away: nothing more is taken for them; [`Ownership::quiet`] is to be told while any is stopping.
    pub stopped: Vec<Shard>,
    /// Somebody else's now, or nobody's: all that is in memory of them is to be dropped.
    pub lost: Vec<Shard>,
    /// The map is another one.
    pub map: Option<Arc<ShardMap>>,
}

/// A change of the map that is under way.
#[derive(Debug)]
struct Swapping {
    map: Arc<ShardMap>,
    asked: bool,
}

#[derive(Debug)]
pub(crate) struct Ownership {
    lease: Lease,
    observed: Observed,
    wanted: Wanted,
    map: Arc<ShardMap>,
    observing: bool,
    next_observation_ms: u64,
    /// The observation under way was asked for by [`Self::misdirected`]: those at their time go on as if it were not.
    early: bool,
    /// When to look before it is time, and when that was done last.
    look_ms: u64,
    looked_ms: u64,
    marking: bool,
    swapping: Option<Swapping>,
    /// Stopped, and not quiet yet; stopped and quiet.
    stopping: BTreeSet<Shard>,
    quiet: BTreeSet<Shard>,
    changes: Changes,
}

impl Ownership {
    /// `addr`: where this instance is called.
    pub(crate) fn new(incarnation: Incarnation, addr: String) -> Self {
        Self {
            lease: Lease::new(incarnation, addr),
            observed: Observed::default(),
            wanted: Wanted::default(),
            map: Arc::new(ShardMap::default()),
            observing: false,
            next_observation_ms: 0,
            early: false,
            look_ms: u64::MAX,
            looked_ms: 0,
            marking: false,
            swapping: None,
            stopping: BTreeSet::new(),
            quiet: BTreeSet::new(),
            changes: Changes::default(),
        }
    }

    /// Its lease is over for good: a new incarnation takes its place.
    pub(crate) fn is_dead(&self) -> bool {
        self.lease.is_dead()
    }

    /// It holds no shard, and is to get none.
    pub(crate) fn is_drained(&self) -> bool {
        self.lease.is_draining() && self.map.shards_of(self.lease.incarnation()).next().is_none()
    }

    /// It gives its shards away, and nobody is there to take them.
    pub(crate) fn is_alone(&self) -> bool {
        self.lease.is_draining() && self.wanted.is_empty()
    }

    /// Of its last renewal.
    pub(crate) fn counter(&self) -> u64 {
        self.lease.counter()
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.lease.incarnation()
    }

    /// Whether its lease holds now: what it reads from memory is true, and what is durable may be acked.
    pub(crate) fn holds(&self, now: Now) -> bool {
        self.lease.holds(now)
    }

    /// Whether commands on a shard's chats may be taken now.
    pub(crate) fn serves(&self, now: Now, shard: Shard) -> bool {
        self.owns(shard)
            && !self.stopping.contains(&shard)
            && !self.quiet.contains(&shard)
            && self.holds(now)
            && self.lease.stamps.peek(now.wall_us()).is_some()
    }

    /// Whether the map gives it the shard; its writes go on, though none may begin.
    fn owns(&self, shard: Shard) -> bool {
        self.map.owner(shard) == Some(self.lease.incarnation()) && !self.lease.is_dead()
    }

    /// The timestamp of a write; `None`: it may not be made.
    pub(crate) fn stamp(&mut self, now: Now) -> Option<i64> {
        if !rules::holds(Rule::StampsInRange) {
            return Some(now.wall_us());
        }
        self.lease.stamps.next(now.wall_us())
    }

    /// Begins to give all shards away.
    pub(crate) fn drain(&mut self) {
        self.lease.drain();
    }

    /// What has changed since it was asked last.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// What is to be done now. Its kinds go side by side, each once at a time.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<Ask> {
        let mut asks = Vec::new();
        asks.extend(self.lease.renewal(now).map(Ask::Renew));
        if self.lease.is_dead() {
            return Vec::new();
        }
        let due = now.mono_ms >= self.next_observation_ms;
        if !self.observing && (due || now.mono_ms >= self.look_ms) {
            self.observing = true;
            self.early = !due;
            (self.look_ms, self.looked_ms) = (u64::MAX, now.mono_ms);
            asks.push(Ask::Observe { known: self.map.version });
        }
        if self.lease.holds(now) {
            self.hand_over();
            asks.extend(self.mark_dead(now));
            self.take_over(now);
        }
        if let Some(swapping) = &mut self.swapping
            && !swapping.asked
        {
            swapping.asked = true;
            asks.push(Ask::SwapMap(swapping.map.clone()));
        }
        asks
    }

    pub(crate) fn renewed(&mut self, now: Now, outcome: Swapped<Option<LeaseRow>>) {
        self.lease.renewed(now, outcome);
        if self.lease.is_dead() {
            self.lose_all();
        }
    }

    /// `map`: where it is newer than the known one.
    pub(crate) fn observed(&mut self, now: Now, leases: Vec<LeaseRow>, map: Option<Arc<ShardMap>>) {
        self.end_observation(now);
        let me = self.lease.incarnation();
        if leases.iter().any(|row| row.incarnation == me && row.standing == Standing::Dead) {
            self.lease.die();
            return self.lose_all();
        }
        self.observed.update(now, leases);
        self.wanted.update(&self.observed.serving(now));
        // Before it is known what became of its own, another's word of the map may be older than that.
        if let Some(map) = map
            && (self.swapping.is_none() || !rules::holds(Rule::SettleUnknownMap))
        {
            self.adopt(map);
        }
    }

    /// Somebody takes it for the owner of what isn't its own: perhaps the map says so already. It looks soon, and not each time.
    pub(crate) fn misdirected(&mut self, now: Now) {
        self.look_ms = self.look_ms.min(now.mono_ms.max(self.looked_ms + LOOK_MS));
    }

    /// An early one moves none of those at their time: the turns of [`Self::my_turn`] count from them.
    fn end_observation(&mut self, now: Now) {
        self.observing = false;
        if !std::mem::take(&mut self.early) {
            self.next_observation_ms = now.mono_ms + OBSERVE_MS;
        }
    }

    /// It could not be read.
    pub(crate) fn unobserved(&mut self, now: Now) {
        self.end_observation(now);
    }

    pub(crate) fn marked_dead(&mut self, now: Now) {
        self.marking = false;
        self.next_observation_ms = now.mono_ms;
    }

    /// Refused with the map that is there. An unknown outcome is settled by the same again: whichever is refused, the other
    /// is there or never will be.
    pub(crate) fn swapped(&mut self, outcome: Swapped<Arc<ShardMap>>) {
        let Some(swapping) = &mut self.swapping else { return };
        let map = match outcome {
            Swapped::Unknown if rules::holds(Rule::SettleUnknownMap) => {
                swapping.asked = false;
                return;
            }
            Swapped::Unknown => None,
            Swapped::Applied => Some(swapping.map.clone()),
            Swapped::Refused(map) => Some(map),
        };
        self.swapping = None;
        if let Some(map) = map {
            self.adopt(map);
        }
        self.resume();
    }

    /// Whether something may still be in flight of shards that are to be given away.
    pub(crate) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// Of the stopped shards, only in `busy` ones something is in flight.
    pub(crate) fn quiet(&mut self, busy: &HashSet<Shard>) {
        self.quiet.extend(self.stopping.extract_if(.., |shard| !busy.contains(shard)));
    }

    /// What was stopped and is still its own goes on.
    fn resume(&mut self) {
        self.quiet.clear();
    }

    fn adopt(&mut self, map: Arc<ShardMap>) {
        if map.version <= self.map.version {
            return;
        }
        let me = self.lease.incarnation();
        for shard in Shard::all() {
            let (before, after) = (self.map.tenure(shard), map.tenure(shard));
            let owned = before.is_some_and(|tenure| tenure.owner == me);
            // Another may have had it in between, in versions of the map that were not seen: then its floor has risen.
            let same = before == after || !rules::holds(Rule::NoticeAnotherTenure) && owned;
            if owned && !(same && after.is_some_and(|tenure| tenure.owner == me)) {
                self.changes.lost.push(shard);
                self.stopping.remove(&shard);
                self.quiet.remove(&shard);
            }
            if let Some(tenure) = after.filter(|tenure| tenure.owner == me && !(owned && same)) {
                self.lease.stamps.raise(tenure.floor);
            }
        }
        self.map = map.clone();
        self.changes.map = Some(map);
    }

    fn lose_all(&mut self) {
        let me = self.lease.incarnation();
        self.changes.lost.extend(self.map.shards_of(me));
        self.stopping.clear();
        self.quiet.clear();
        self.swapping = None;
    }

    /// Stops shards that another should have, and moves those that are quiet.
    fn hand_over(&mut self) {
        if self.swapping.is_some() || self.map.version == 0 {
            return;
        }
        let me = self.lease.incarnation();
        if self.stopping.is_empty() && self.quiet.is_empty() {
            let max = if self.lease.is_draining() { usize::MAX } else { HANDED_OVER_MAX };
            let others = |shard: &Shard| self.wanted.owner(*shard).is_some_and(|owner| owner != me);
            let stopped: Vec<Shard> = self.map.shards_of(me).filter(others).take(max).collect();
            self.stopping.extend(&stopped);
            self.changes.stopped.extend(stopped);
            return;
        }
        if !self.stopping.is_empty() {
            return;
        }
        let next = self.lease.stamps.last() + 1;
        let moves = self.quiet.iter().filter_map(|shard| {
            let floor = self.map.tenure(*shard)?.floor.max(next);
            Some(Move { shard: *shard, to: self.wanted.owner(*shard).filter(|owner| *owner != me)?, floor })
        });
        let moves: Vec<Move> = moves.collect();
        if moves.is_empty() {
            // Nobody is there any more to have them.
            return self.resume();
        }
        self.swap(&moves);
    }

    /// Marks one whose lease is over, if it still owns shards or has come before its first.
    fn mark_dead(&mut self, now: Now) -> Option<Ask> {
        if self.marking || !self.my_turn(now) || !rules::holds(Rule::DeadBeforeMove) {
            return None;
        }
        let row = self.observed.expired(now).into_iter().next()?;
        let ask = Ask::MarkDead { incarnation: row.incarnation, counter: row.counter };
        self.marking = true;
        Some(ask)
    }

    /// Moves the shards of the dead, and makes the first map.
    fn take_over(&mut self, now: Now) {
        if self.swapping.is_some() || !self.my_turn(now) {
            return;
        }
        let movable = self.observed.movable(now);
        if movable.is_empty() && self.map.version > 0 {
            return;
        }
        let moves = |shard: Shard| {
            let to = self.wanted.owner(shard)?;
            let floor = match self.map.tenure(shard) {
                None => 0,
                Some(tenure) => {
                    let victim = movable.iter().find(|row| row.incarnation == tenure.owner)?;
                    tenure.floor.max(victim.hi + 1)
                }
            };
            Some(Move { shard, to, floor })
        };
        let moves: Vec<Move> = Shard::all().filter_map(moves).collect();
        if !moves.is_empty() {
            self.swap(&moves);
        }
    }

    /// The first of the candidates acts at once, the others later, one after another.
    fn my_turn(&self, now: Now) -> bool {
        let turn = self.wanted.rank(self.lease.incarnation()) as u64;
        // Observed within the last second: the time since is the time that it has stood there.
        now.mono_ms + OBSERVE_MS >= self.next_observation_ms + turn * TURN_MS
    }

    fn swap(&mut self, moves: &[Move]) {
        let addr = |incarnation: Incarnation| {
            let known = self.observed.get(incarnation).map(|row| Arc::from(row.addr.as_str()));
            known.or_else(|| (incarnation == self.lease.incarnation()).then(|| Arc::from(self.lease.addr())))
        };
        self.swapping = Some(Swapping { map: Arc::new(self.map.moved(moves, addr)), asked: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { wall_ms: 0, mono_ms }
    }

    fn looks(ownership: &mut Ownership, mono_ms: u64) -> bool {
        let looks = ownership.tick(at(mono_ms)).iter().any(|ask| matches!(ask, Ask::Observe { .. }));
        if looks {
            ownership.unobserved(at(mono_ms));
        }
        looks
    }

    #[test]
    fn who_is_asked_for_what_is_not_its_own_looks_at_the_map_soon_and_not_each_time() {
        let mut ownership = Ownership::new(Incarnation(1), "a:1".to_owned());
        assert!(looks(&mut ownership, 1_000) && !looks(&mut ownership, 1_050));
        ownership.misdirected(at(1_060));
        assert!(!looks(&mut ownership, 1_090), "it has just looked");
        ownership.misdirected(at(1_095));
        assert!(looks(&mut ownership, 1_100) && !looks(&mut ownership, 1_300), "once for all of them");
        ownership.misdirected(at(1_500));
        assert!(looks(&mut ownership, 1_500));
        assert!(!looks(&mut ownership, 1_999) && looks(&mut ownership, 2_000), "the others stay at their time");
    }
}
