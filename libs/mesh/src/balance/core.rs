//! Who is called next, and what calls say about who was called: pure, with `now` and the dice as arguments.

use std::{cmp::Ordering, time::Duration};

use tokio::time::Instant;

use super::{BalanceConfig, latency::Latency, record::Record};
use crate::{Member, Members, Peer};

pub(super) struct Core {
    cfg: BalanceConfig,
    /// As many as the pool lists, by ascending id.
    entries: Vec<Entry>,
    next_key: u64,
}

struct Entry {
    /// Unlike the id, never used again: an instance that leaves and comes back is another.
    key: u64,
    member: Member,
    in_flight: u32,
    latency: Latency,
    record: Record,
}

/// Whom to call.
pub(super) struct Choice {
    pub(super) key: u64,
    pub(super) peer: Peer,
}

/// What a call says about the instance. Each call that was chosen for ends once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered.
    Answered,
    /// It answered, but too late.
    Late,
    /// It could not be reached, or said that it cannot.
    Failed,
    /// Nobody waits for the answer any more.
    GivenUp,
    /// A stream ended whose head [was answered](Core::answered) before.
    Over,
}

impl Core {
    pub(super) fn new(cfg: BalanceConfig) -> Self {
        Self { cfg, entries: Vec::new(), next_key: 0 }
    }

    /// The pool's list as it is now. One that is up again begins anew: most likely it is another process.
    pub(super) fn sync(&mut self, members: &Members) {
        let mut before = std::mem::take(&mut self.entries).into_iter().peekable();
        for member in members.iter() {
            while before.next_if(|entry| entry.member.id < member.id).is_some() {}
            let entry = match before.next_if(|entry| entry.member.id == member.id) {
                Some(entry) if entry.member.up || !member.up => Entry { member: member.clone(), ..entry },
                Some(entry) => {
                    let (latency, record) = (Latency::default(), Record::default());
                    Entry { member: member.clone(), latency, record, ..entry }
                }
                None => self.newcomer(member.clone()),
            };
            self.entries.push(entry);
        }
    }

    fn newcomer(&mut self, member: Member) -> Entry {
        self.next_key += 1;
        let (latency, record) = (Latency::default(), Record::default());
        Entry { key: self.next_key, member, in_flight: 0, latency, record }
    }

    /// The less loaded of two that `dice` choose, among those that are up, not ejected and not yet tried. If all that
    /// are up are ejected, among those. The call is in flight from now on.
    pub(super) fn choose(&mut self, now: Instant, dice: [u32; 2], tried: &[u64]) -> Option<Choice> {
        let usable = |entry: &Entry| entry.member.up && !tried.contains(&entry.key);
        let good = |entry: &Entry| usable(entry) && !entry.record.is_ejected(now);
        let chosen = self.two_choices(now, dice, good).or_else(|| self.two_choices(now, dice, usable))?;
        let entry = &mut self.entries[chosen];
        entry.in_flight += 1;
        Some(Choice { key: entry.key, peer: entry.member.peer.clone() })
    }

    fn two_choices(&self, now: Instant, dice: [u32; 2], among: impl Fn(&Entry) -> bool) -> Option<usize> {
        let candidates = || self.entries.iter().enumerate().filter(|(_, entry)| among(entry));
        let count = candidates().count();
        let first = scaled(dice[0], count)?;
        let (first_at, first_entry) = candidates().nth(first)?;
        let Some(second) = scaled(dice[1], count - 1) else {
            return Some(first_at);
        };
        // Of the others.
        let (second_at, second_entry) = candidates().nth(second + usize::from(second >= first))?;
        let order = self.load(first_entry, now).total_cmp(&self.load(second_entry, now));
        Some(if order == Ordering::Greater { second_at } else { first_at })
    }

    fn load(&self, entry: &Entry, now: Instant) -> f64 {
        let calls = f64::from(entry.in_flight) + 1.0;
        match entry.latency.now(now, self.cfg.decay) {
            Some(latency) => latency * calls,
            // One call finds out.
            None if entry.in_flight == 0 => 0.0,
            None => self.cfg.latency_default.as_secs_f64() * calls,
        }
    }

    /// A stream's head came; the stream goes on.
    pub(super) fn answered(&mut self, key: u64, took: Duration, now: Instant) {
        self.note(key, Outcome::Answered, took, now);
    }

    /// A call ended `took` after it was chosen for.
    pub(super) fn ended(&mut self, key: u64, outcome: Outcome, took: Duration, now: Instant) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
        self.note(key, outcome, took, now);
    }

    fn note(&mut self, key: u64, outcome: Outcome, took: Duration, now: Instant) {
        let ejected = self.entries.iter().filter(|entry| entry.record.is_ejected(now)).count();
        let may_eject = ejected < self.entries.len() / 2;
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) else {
            // It has left.
            return;
        };
        let decay = self.cfg.decay;
        match outcome {
            Outcome::Answered => {
                entry.latency.observe(took, now, decay);
                entry.record.success(now);
            }
            Outcome::Late => entry.latency.observe(took, now, decay),
            Outcome::GivenUp => entry.latency.at_least(took, self.cfg.latency_default, now, decay),
            Outcome::Over => {}
            Outcome::Failed => {
                entry.latency.observe(took.max(self.cfg.failure_latency), now, decay);
                if entry.record.failure(now, &self.cfg, may_eject) {
                    // What comes after it is one call that finds out.
                    entry.latency = Latency::default();
                    let (target, instance) = (self.cfg.target, &entry.member.id);
                    tracing::warn!(target_service = target, %instance, "an instance is ejected: it keeps failing");
                }
            }
        }
    }

    /// Why nobody could be chosen.
    pub(super) fn nobody(&self) -> String {
        let target = self.cfg.target;
        match &self.entries[..] {
            [] => format!("{target}: no instance is known"),
            [only] => format!("{target}: its one instance, {}, is down", only.member.id),
            many => format!("{target}: none of its {} instances is up", many.len()),
        }
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.in_flight).collect()
    }
}

/// A die of 2^32 sides as one of `sides`.
fn scaled(die: u32, sides: usize) -> Option<usize> {
    let scaled = (u64::from(die) * u64::try_from(sides).ok()?) >> 32;
    (sides > 0).then_some(usize::try_from(scaled).ok()?)
}

#[cfg(test)]
mod tests;
