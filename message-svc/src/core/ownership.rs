//! Who owns which chats: leases, the shard map, write timestamps. The rules are in `docs/design/0004-ownership.md`.
//!
//! Pure: it is told the time, what was read and what became of its compare-and-sets, and says which to try next and which
//! shards were stopped, gained and lost.

pub(crate) mod lease;
pub(crate) mod map;
pub(crate) mod rules;
pub(crate) mod stamps;

use std::collections::BTreeSet;
use std::sync::Arc;

use confab_ids::Shard;

use super::Now;
use super::maps::HashSet;
use lease::{Incarnation, Lease, LeaseRow, Observed, Standing, Swapped};
use map::{Move, ShardMap, Wanted};
use rules::Rule;

/// How often leases and map are read, milliseconds.
const OBSERVE_MS: u64 = 1_000;

/// After an observation another one may follow so soon, where there is a sign that the map has changed, milliseconds.
const LOOK_AGAIN_MS: u64 = 100;

/// Who comes later in the order of candidates waits so much longer before it takes over, milliseconds: nearly always one
/// does it alone.
const TURN_MS: u64 = 300;

/// Shards that an owner hands over at once to one that has come, and how often, milliseconds: the others go on meanwhile. Each chat of
/// them that is in use is recovered there, which costs the store some ten requests: all of them at once would keep it from everything
/// else. Half of all shards take 4 s.
const HANDED_OVER_MAX: usize = 256;
const HAND_OVER_EVERY_MS: u64 = 500;

/// And at once where it is to end, one lot after the other.
const DRAINED_MAX: usize = 512;

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
    /// Remove its row, if it is marked as dead.
    Purge(Incarnation),
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
    /// Where those are called who have gained shards by a map that was made here: they have yet to see it.
    pub gainers: BTreeSet<Arc<str>>,
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
    /// The map that was known when the observation that is under way, or was last, began.
    known: Arc<ShardMap>,
    /// Of the regular ones.
    next_observation_ms: u64,
    /// The observation that is under way, or was last, is one between the regular ones.
    is_extra: bool,
    observed_ms: u64,
    /// When one is due between the regular ones.
    look_again_ms: Option<u64>,
    marking: bool,
    /// Dead, and named by the map no more: its row is of no use.
    useless: Option<Incarnation>,
    purging: bool,
    swapping: Option<Swapping>,
    /// Stopped, and not quiet yet; stopped and quiet.
    stopping: BTreeSet<Shard>,
    quiet: BTreeSet<Shard>,
    /// When shards may be stopped next, if it doesn't drain.
    next_hand_over_ms: u64,
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
            known: Arc::default(),
            next_observation_ms: 0,
            is_extra: false,
            observed_ms: 0,
            look_again_ms: None,
            marking: false,
            useless: None,
            purging: false,
            swapping: None,
            stopping: BTreeSet::new(),
            quiet: BTreeSet::new(),
            next_hand_over_ms: 0,
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
        let is_regular = now.mono_ms >= self.next_observation_ms;
        if !self.observing && (is_regular || self.look_again_ms.is_some_and(|at| now.mono_ms >= at)) {
            (self.observing, self.is_extra, self.look_again_ms) = (true, !is_regular, None);
            self.known = self.map.clone();
            asks.push(Ask::Observe { known: self.map.version });
        }
        if self.lease.holds(now) {
            self.hand_over(now);
            asks.extend(self.mark_dead(now));
            asks.extend(self.purge(now));
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
        if self.lease.is_draining() {
            // By its own row it sees who is to have its shards.
            self.look_again();
        }
    }

    /// `map`: where it is newer than the known one.
    pub(crate) fn observed(&mut self, now: Now, leases: Vec<LeaseRow>, map: Option<Arc<ShardMap>>) {
        self.unobserved(now);
        let me = self.lease.incarnation();
        if leases.iter().any(|row| row.incarnation == me && row.standing == Standing::Dead) {
            self.lease.die();
            return self.lose_all();
        }
        let dead_before = self.observed.dead();
        self.observed.update(now, leases, &self.known);
        self.wanted.update(&self.observed.candidates(now, &self.map));
        // Before it is known what became of its own, another's word of the map may be older than that.
        if let Some(map) = map
            && (self.swapping.is_none() || !rules::holds(Rule::SettleUnknownMap))
        {
            self.adopt(map);
        }
        // Whoever was dead before this map was read and isn't named by it owns nothing, and will never write.
        let is_named =
            |dead: Incarnation| self.map.shards_of(dead).next().is_some() && rules::holds(Rule::PurgeUnnamed);
        let mut useless =
            self.observed.dead().into_iter().filter(|dead| dead_before.contains(dead) && !is_named(*dead));
        self.useless = useless.next().filter(|_| self.swapping.is_none());
    }

    /// It could not be read.
    pub(crate) fn unobserved(&mut self, now: Now) {
        self.observing = false;
        self.observed_ms = now.mono_ms;
        if !self.is_extra {
            self.next_observation_ms = now.mono_ms + OBSERVE_MS;
        }
    }

    /// Somebody takes it for the owner of what it doesn't own, and may know a newer map.
    pub(crate) fn mistaken(&mut self, shard: Shard) {
        if !self.owns(shard) {
            self.look_again();
        }
    }

    fn look_again(&mut self) {
        self.look_again_ms.get_or_insert(self.observed_ms + LOOK_AGAIN_MS);
    }

    pub(crate) fn marked_dead(&mut self, now: Now) {
        self.marking = false;
        self.next_observation_ms = now.mono_ms;
    }

    pub(crate) fn purged(&mut self) {
        self.purging = false;
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
        let is_applied = map.as_ref().is_none_or(|map| *map == swapping.map);
        if let Some(map) = map.as_ref().filter(|_| is_applied) {
            let gainers = self.gainers(map);
            self.changes.gainers.extend(gainers);
        }
        self.swapping = None;
        if let Some(map) = map {
            self.adopt(map);
        }
        // If another was faster, what is quiet goes by the next swap: to take it up again, and to stop it once more, would be felt.
        if is_applied {
            self.resume();
        }
    }

    /// Who has shards by `next` that are not theirs by the map that is known.
    fn gainers(&self, next: &ShardMap) -> BTreeSet<Arc<str>> {
        let me = self.lease.incarnation();
        let gained = Shard::all().filter(|shard| next.tenure(*shard) != self.map.tenure(*shard));
        let gainers: BTreeSet<Incarnation> = gained.filter_map(|shard| next.owner(shard)).collect();
        gainers.iter().filter(|gainer| **gainer != me).filter_map(|gainer| next.addrs.get(gainer).cloned()).collect()
    }

    /// Somebody says that there is a map of this version.
    pub(crate) fn noticed(&mut self, version: u64) {
        if version > self.map.version {
            self.look_again();
        }
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
    fn hand_over(&mut self, now: Now) {
        if self.swapping.is_some() || self.map.version == 0 {
            return;
        }
        let me = self.lease.incarnation();
        if self.stopping.is_empty() && self.quiet.is_empty() {
            if !self.lease.is_draining() && now.mono_ms < self.next_hand_over_ms {
                return;
            }
            let max = if self.lease.is_draining() { DRAINED_MAX } else { HANDED_OVER_MAX };
            let others = |shard: &Shard| self.wanted.owner(*shard).is_some_and(|owner| owner != me);
            let stopped: Vec<Shard> = self.map.shards_of(me).filter(others).take(max).collect();
            self.next_hand_over_ms = now.mono_ms + HAND_OVER_EVERY_MS;
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

    /// Removes the row of one that is dead and owns nothing: at most one per observation.
    fn purge(&mut self, now: Now) -> Option<Ask> {
        if self.purging || !self.my_turn(now) {
            return None;
        }
        let ask = self.useless.take().map(Ask::Purge);
        self.purging = ask.is_some();
        ask
    }

    /// Moves the shards of the dead, and makes the first map.
    fn take_over(&mut self, now: Now) {
        if self.swapping.is_some() || !self.my_turn(now) {
            return;
        }
        let mut movable = self.observed.movable(now);
        movable.retain(|row| self.map.addrs.contains_key(&row.incarnation));
        if movable.is_empty() && !self.observed.has_absent() && self.map.version > 0 {
            return;
        }
        let moves = |shard: Shard| {
            let to = self.wanted.owner(shard)?;
            let floor = match self.map.tenure(shard) {
                None => 0,
                // It was given the shard when its row had been purged, by who had not seen that: it has written nothing.
                Some(tenure) if self.observed.is_absent(tenure.owner) => tenure.floor,
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
        Now { wall_ms: 1_700_000_000_000 + i64::try_from(mono_ms).unwrap_or(0), mono_ms }
    }

    /// When observations are asked for, from `from_ms` on, each answered after 5 ms; `each`: what happens every 10 ms.
    fn observations(
        ownership: &mut Ownership,
        ms: std::ops::Range<u64>,
        mut each: impl FnMut(&mut Ownership),
    ) -> Vec<u64> {
        let mut asked = Vec::new();
        for ms in ms.step_by(10) {
            each(ownership);
            for ask in ownership.tick(at(ms)) {
                match ask {
                    Ask::Observe { .. } => {
                        asked.push(ms);
                        ownership.observed(at(ms + 5), Vec::new(), None);
                    }
                    Ask::Renew(_) => ownership.renewed(at(ms + 5), Swapped::Applied),
                    _ => {}
                }
            }
        }
        asked
    }

    #[test]
    fn whoever_is_taken_for_an_owner_looks_again_soon_and_not_too_often() {
        let mut ownership = Ownership::new(Incarnation(1), "a:1".to_owned());
        assert_eq!(observations(&mut ownership, 0..1_000, |_| {}), [0]);
        assert_eq!(observations(&mut ownership, 1_000..2_000, |_| {}), [1_010]);
        ownership.mistaken(Shard(0));
        // One more, and the regular one is neither earlier nor later for it.
        assert_eq!(observations(&mut ownership, 2_000..3_000, |_| {}), [2_000, 2_020]);
        let many = observations(&mut ownership, 3_000..4_000, |ownership| ownership.mistaken(Shard(0)));
        assert!((8..=11).contains(&many.len()), "{many:?}");
    }

    #[test]
    fn who_is_told_of_a_newer_map_reads_it_soon() {
        let mut ownership = Ownership::new(Incarnation(1), "a:1".to_owned());
        assert_eq!(observations(&mut ownership, 0..500, |_| {}), [0]);
        ownership.noticed(0);
        assert!(observations(&mut ownership, 500..700, |_| {}).is_empty());
        ownership.noticed(1);
        assert_eq!(observations(&mut ownership, 700..900, |_| {}), [700]);
    }

    #[test]
    fn a_drain_that_begins_while_the_lease_is_renewed_is_told_at_once() {
        let mut ownership = Ownership::new(Incarnation(1), "a:1".to_owned());
        let renewal =
            |asks: Vec<Ask>| asks.into_iter().find_map(|ask| if let Ask::Renew(row) = ask { Some(row) } else { None });
        assert_eq!(renewal(ownership.tick(at(0))).map(|row| row.standing), Some(Standing::Serving));
        ownership.drain();
        ownership.renewed(at(40), Swapped::Applied);
        assert_eq!(renewal(ownership.tick(at(50))).map(|row| row.standing), Some(Standing::Draining));
    }

    #[test]
    fn who_gains_shards_is_told() {
        let mut ownership = Ownership::new(Incarnation(1), "a:1".to_owned());
        ownership.renewed(at(0), Swapped::Applied);
        let row = |number, addr: &str| LeaseRow {
            incarnation: Incarnation(number),
            addr: addr.to_owned(),
            counter: 9,
            hi: 0,
            standing: Standing::Serving,
        };
        ownership.observed(at(5), vec![row(1, "a:1"), row(2, "b:1"), row(3, "c:1")], None);
        let moves = [
            Move { shard: Shard(0), to: Incarnation(1), floor: 0 },
            Move { shard: Shard(1), to: Incarnation(3), floor: 0 },
        ];
        ownership.swap(&moves);
        ownership.swapped(Swapped::Applied);
        assert_eq!(Vec::from_iter(ownership.take_changes().gainers), [Arc::from("c:1")]);
    }

    #[test]
    fn a_drain_sees_at_once_who_is_to_have_its_shards() {
        let mut ownership = Ownership::new(Incarnation(1), "a:1".to_owned());
        observations(&mut ownership, 0..500, |_| {});
        ownership.drain();
        // Its renewal at 500 is answered at 505.
        assert_eq!(observations(&mut ownership, 500..900, |_| {}), [510]);
    }
}
