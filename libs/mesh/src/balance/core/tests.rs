use std::sync::Arc;

use tonic::Status;

use super::{BalanceConfig, Core, Duration, Instant, Member, Members, Outcome, Peer};

fn member(id: &str, up: bool) -> Member {
    let never = tower::service_fn(|_| std::future::ready(Err(Status::unavailable("not called here"))));
    Member { id: id.into(), peer: Peer::new(never), up }
}

fn members(ids: &[&str]) -> Members {
    ids.iter().map(|id| member(id, true)).collect()
}

fn core(ids: &[&str]) -> (Core, Instant) {
    let mut core = Core::new(BalanceConfig::new("test-svc"));
    core.sync(&members(ids));
    (core, Instant::now())
}

/// All that two dice can say of up to eight.
fn dice() -> impl Iterator<Item = [u32; 2]> {
    (0..8).flat_map(|first| (0..8).map(move |second| [first << 29, second << 29]))
}

/// Which keys get calls that end at once as `outcome`, one for each pair of dice.
fn chosen(core: &mut Core, now: Instant, tried: &[u64]) -> Vec<u64> {
    let mut keys = Vec::new();
    for dice in dice() {
        if let Some(choice) = core.choose(now, dice, tried) {
            core.ended(choice.key, Outcome::Over, Duration::ZERO, now);
            keys.push(choice.key);
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Each has answered once.
fn warm(core: &mut Core, now: Instant, millis: &[u64]) {
    for (key, millis) in (1..).zip(millis) {
        core.answered(key, Duration::from_millis(*millis), now);
    }
}

fn fail(core: &mut Core, key: u64, times: usize, now: Instant) {
    for _ in 0..times {
        core.ended(key, Outcome::Failed, Duration::ZERO, now);
    }
}

#[test]
fn the_less_loaded_of_two_is_chosen_by_latency_times_calls() {
    let (mut core, now) = core(&["a", "b"]);
    warm(&mut core, now, &[10, 25]);
    // a: 10, 20, 30 > 25.
    let keys: Vec<u64> = (0..4).map(|_| core.choose(now, [0, 0], &[]).expect("up").key).collect();
    assert_eq!(keys, [1, 1, 2, 1]);
    assert_eq!(core.in_flight(), [3, 1]);
}

#[test]
fn the_slowest_of_three_is_not_chosen_but_for_its_pairs() {
    let (mut core, now) = core(&["a", "b", "c"]);
    warm(&mut core, now, &[10, 10, 100]);
    assert_eq!(chosen(&mut core, now, &[]), [1, 2]);
    assert_eq!(chosen(&mut core, now, &[1, 2]), [3], "it is what is left");
}

#[test]
fn a_newcomer_is_given_one_call_and_then_counts_as_the_default() {
    let (mut core, now) = core(&["a", "b"]);
    core.answered(1, Duration::from_millis(1), now);
    assert_eq!(core.choose(now, [0, 0], &[]).expect("up").key, 2);
    assert_eq!(core.choose(now, [0, 0], &[]).expect("up").key, 1);
}

#[test]
fn only_those_that_are_up_are_chosen_and_nobody_is_a_sentence() {
    let (mut core, now) = core(&[]);
    assert_eq!(core.nobody(), "test-svc: no instance is known");
    core.sync(&Arc::from([member("a", false)]));
    assert!(core.choose(now, [0, 0], &[]).is_none());
    assert_eq!(core.nobody(), "test-svc: its one instance, a, is down");
    core.sync(&Arc::from([member("a", false), member("b", true)]));
    assert_eq!(chosen(&mut core, now, &[]), [2]);
    assert!(core.choose(now, [0, 0], &[2]).is_none());
    core.sync(&Arc::from([member("a", false), member("b", false)]));
    assert_eq!(core.nobody(), "test-svc: none of its 2 instances is up");
}

#[test]
fn failing_fast_is_not_being_fast() {
    let (mut core, now) = core(&["a", "b"]);
    warm(&mut core, now, &[100, 1]);
    fail(&mut core, 2, 1, now);
    assert_eq!(chosen(&mut core, now, &[]), [1]);
}

#[test]
fn no_more_than_half_are_ejected_and_they_come_back_with_one_call() {
    for (ids, most) in [(&["a"][..], 0), (&["a", "b"], 1), (&["a", "b", "c"], 1), (&["a", "b", "c", "d"], 2)] {
        let (mut core, now) = core(ids);
        for key in 1..=ids.len() {
            fail(&mut core, u64::try_from(key).expect("small"), 10, now);
        }
        let ejected = core.entries.iter().filter(|entry| entry.record.is_ejected(now)).count();
        assert_eq!(ejected, most, "{ids:?}");
    }

    let (mut core, now) = core(&["a", "b"]);
    fail(&mut core, 1, 5, now);
    assert_eq!(chosen(&mut core, now, &[]), [2], "a is ejected");
    let after = now + Duration::from_secs(1);
    warm(&mut core, after, &[]);
    core.answered(2, Duration::from_millis(1), after);
    assert_eq!(core.choose(after, [0, 0], &[]).expect("up").key, 1, "one call finds out");
    assert_eq!(core.choose(after, [0, 0], &[]).expect("up").key, 2);
    core.ended(1, Outcome::Failed, Duration::ZERO, after);
    assert_eq!(chosen(&mut core, after + Duration::from_millis(1_999), &[]), [2]);
}

#[test]
fn where_all_that_are_up_are_ejected_they_are_called_all_the_same() {
    let (mut core, now) = core(&["a", "b"]);
    fail(&mut core, 1, 5, now);
    core.sync(&Arc::from([member("a", true), member("b", false)]));
    assert_eq!(chosen(&mut core, now, &[]), [1]);
}

#[test]
fn what_is_known_stays_with_whom_it_is_known_of() {
    let (mut core, now) = core(&["b", "d"]);
    warm(&mut core, now, &[10, 20]);
    core.choose(now, [0, 0], &[]).expect("up");
    core.sync(&members(&["a", "b", "c", "d", "e"]));
    assert_eq!(core.in_flight(), [0, 1, 0, 0, 0]);
    core.sync(&members(&["c", "d"]));
    core.ended(1, Outcome::Answered, Duration::ZERO, now);
    assert_eq!(core.in_flight(), [0, 0]);
    // b is back as another: a call to the first says nothing of it.
    core.sync(&members(&["b", "d"]));
    fail(&mut core, 1, 5, now);
    assert_eq!(core.choose(now, [0, 0], &[]).expect("up").key, 6);
    core.ended(1, Outcome::Over, Duration::ZERO, now);
    assert_eq!(core.in_flight(), [1, 0]);

    // One that was down is new, but for what is still under way.
    fail(&mut core, 2, 4, now);
    core.sync(&Arc::from([member("b", false), member("d", false)]));
    core.sync(&members(&["b", "d"]));
    fail(&mut core, 2, 4, now);
    assert!(!core.entries[1].record.is_ejected(now));
    assert_eq!(core.in_flight(), [1, 0]);
}
