//! Several owners over a store that delays, reorders, loses and merges by timestamp; owners that freeze, crash, come back
//! and hand over; clocks that drift and step; compare-and-sets whose outcome is not told. The cores run as they are.
//!
//! Whatever the schedule: what was acked is in the log where the ack said, no send is there twice, each sender's are in
//! their order, and what was published is what the log says, as edits and deletions have changed it, and with what has expired
//! silent. With any one rule of
//! [`rules`] cut, some schedule breaks that.

#![allow(clippy::print_stdout, reason = "its figures are its result")]

mod chance;
mod judge;
mod register;
mod replicas;
mod sender;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::ownership::rules::{self, Rule};
use world::World;

/// Schedules in a test run; `cargo xtask simulate` runs more.
const SCHEDULES: u64 = 300;

/// Schedules within which the lack of a rule has to show.
const CONTROL_SCHEDULES: u64 = 20_000;

const RULES: [Rule; 29] = [
    Rule::SettleUnknownMap,
    Rule::NoticeAnotherTenure,
    Rule::DeadBeforeMove,
    Rule::PurgeUnnamed,
    Rule::StampsInRange,
    Rule::Window,
    Rule::OnlyContiguous,
    Rule::LeaseAfterQuorum,
    Rule::SendsWithTheMessage,
    Rule::SendsOutliveTries,
    Rule::BucketBeforeItsRows,
    Rule::QuorumReads,
    Rule::LowerBeforeUpper,
    Rule::ReadChatAgain,
    Rule::StaleUpto,
    Rule::CutAtHole,
    Rule::CutOtherEpochs,
    Rule::RewriteWithFreshEpoch,
    Rule::RosterBeforeRewrite,
    Rule::RewriteUpperFirst,
    Rule::CheckSendAgainstRow,
    Rule::RefuseGenerations,
    Rule::Rewrite,
    Rule::ChangeAlone,
    Rule::ChangeAfterEvent,
    Rule::RedoChanges,
    Rule::RedoMembers,
    Rule::ExpireAsRead,
    Rule::StaySilent,
];

/// Between two lines that tell how far it has come.
const PROGRESS: u64 = 2_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What came of some schedules.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    acked: u64,
    /// The lowest seed whose schedule broke a promise, and which. Whatever thread finds it: all seeds below it have been run.
    fault: Option<(u64, String)>,
}

/// Runs `count` schedules, or those up to the first that breaks a promise, on all cores. `cut`: a rule that doesn't hold.
fn run(first: u64, count: u64, cut: Option<Rule>) -> Ran {
    let next = AtomicU64::new(first);
    let end = AtomicU64::new(first + count);
    let begun = Instant::now();
    let part = || {
        rules::cut(cut);
        let mut ran = Ran { acked: 0, fault: None };
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= end.load(Ordering::SeqCst) {
                return ran;
            }
            match World::run(seed) {
                Ok(run) => ran.acked += run.acked,
                Err(fault) => {
                    // Those below it are other threads', and are run to their ends.
                    end.fetch_min(seed, Ordering::SeqCst);
                    return Ran { fault: Some((seed, fault)), ..ran };
                }
            }
            let done = seed + 1 - first;
            if done.is_multiple_of(PROGRESS) && done < count {
                let left = begun.elapsed().as_secs() * (count - done) / done;
                println!("  {done} of {count} schedules; at most {left} s to go");
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let parts: Vec<Ran> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(part)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a schedule doesn't panic")).collect()
    });
    let acked = parts.iter().map(|part| part.acked).sum();
    Ran { acked, fault: parts.into_iter().filter_map(|part| part.fault).min() }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_whatever_the_schedule() {
    let first = number("CONFAB_SEED", 1);
    let schedules = number("CONFAB_SCHEDULES", SCHEDULES);
    let Ran { acked, fault } = run(first, schedules, None);
    if let Some((seed, fault)) = fault {
        panic!("schedule {seed} (CONFAB_SEED={seed} CONFAB_SCHEDULES=1): {fault}");
    }
    println!("{schedules} schedules from seed {first} on: {acked} acked sends, no violation");
    assert!(acked > schedules * 10, "hardly anything was sent: {acked}");
}

#[test]
fn a_schedule_is_its_seed() {
    for seed in 1..=30 {
        assert_eq!(World::run(seed), World::run(seed), "schedule {seed}");
    }
    assert_ne!(World::run(1), World::run(2));
}

#[test]
fn the_lowest_schedule_that_fails_is_the_one_that_is_told() {
    let cut = Some(Rule::StampsInRange);
    let (lowest, _) = run(1, CONTROL_SCHEDULES, cut).fault.expect("a fault without this rule");
    assert_eq!(run(1, lowest - 1, cut).fault, None);
    assert_eq!(run(1, lowest, cut).fault.map(|(seed, _)| seed), Some(lowest));
}

#[test]
#[ignore = "minutes: `cargo xtask simulate` runs it"]
fn controls_without_any_one_rule_some_schedule_fails() {
    let only = std::env::var("CONFAB_RULE").ok();
    let first = number("CONFAB_SEED", 1);
    let schedules = number("CONFAB_SCHEDULES", CONTROL_SCHEDULES);
    let mut missed = Vec::new();
    for rule in RULES.into_iter().filter(|rule| only.as_ref().is_none_or(|only| format!("{rule:?}") == *only)) {
        match run(first, schedules, Some(rule)).fault {
            Some((seed, fault)) => println!("without {rule:?}: schedule {seed}: {fault}"),
            None => {
                println!("without {rule:?}: no fault in {schedules} schedules");
                missed.push(rule);
            }
        }
    }
    assert!(missed.is_empty(), "not shown to be needed: {missed:?}");
}
