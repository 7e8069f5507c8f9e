//! "Power loss": the real program on a disk that forgets what was not synced (see `confab_tests::lossy_fs`), cut at 200
//! random points; no acked message may be missing. Control: with buffered durability, some are.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

use confab_tests::harness::seed;
use confab_tests::power::program::Program;
use confab_tests::power::{Cuts, cut_and_compare};

const SENDERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn no_acked_message_is_missing_after_two_hundred_power_cuts() {
    let seed = seed();
    println!("CONFAB_SEED={seed}");
    let lanes = [0, 1].map(|lane| {
        let cuts = Cuts { seed: seed + lane, points: 100, chain: 10, fresh_ops_max: 400, ops_max: 800 };
        tokio::spawn(async move {
            let mut program = Program::new(SENDERS, false);
            cut_and_compare(&mut program, cuts).await.map(|outcome| (outcome, program.torn))
        })
    });
    let mut cut = 0;
    for lane in lanes {
        let (outcome, torn) = lane.await.unwrap().unwrap();
        println!("{outcome}; {torn} starts cut off a torn batch");
        assert_eq!(outcome.bad_points, 0, "{outcome}");
        assert!(outcome.acked > 100, "too little was acked to prove anything: {outcome}");
        assert!(outcome.lost_ops > 0, "the cuts took nothing: {outcome}");
        cut += outcome.points;
    }
    assert_eq!(cut, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_with_buffered_durability_acked_messages_go_missing() {
    let seed = seed();
    let cuts = Cuts { seed, points: 10, chain: 5, fresh_ops_max: 300, ops_max: 300 };
    let outcome = cut_and_compare(&mut Program::new(SENDERS, true), cuts).await.unwrap();
    println!("{outcome}");
    assert!(outcome.missing > 0, "buffered acks survived every cut: the test can't see a loss: {outcome}");
}
