//! The model check: simulated devices do random things at once, and at rest every device and the server agree on every chat.
//!
//! - A device (`device.rs`) does what is drawn for it (`draw.rs`) over a link that it drops and changes (`link.rs`): JSON, protobuf or long
//!   poll, at any edge. What it knows, it knows from its frames alone (`replica.rs`).
//! - At rest (`world.rs`) the server's log of each chat (`log.rs`) is what devices, answers and lists are compared with (`judge.rs`).
//! - The control: one seeded bug between the server and a device (`fault.rs`), which the same checker has to find.
//!
//! `CONFAB_SEED` repeats what is drawn; what happens at the same time is not repeated.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

mod device;
mod draw;
mod event;
mod fault;
mod field;
mod finding;
mod judge;
mod link;
mod log;
#[cfg(test)]
mod pure_tests;
mod replica;
mod server;
mod world;

use std::collections::BTreeSet;

use confab_tests::harness::{Stage, seed};
use fault::Bug;
use finding::Kind;
use world::World;

/// Operations of a round, and how many rounds there are.
type Plan = (u64, u64);

const IN_ONE_PROCESS: Plan = (2_450, 3);
const AS_A_CLUSTER: Plan = (1_325, 2);

/// Of the controls, until the bug has struck.
const CONTROL: Plan = (400, 10);

async fn check(name: &str, stage: &Stage, users: Vec<u64>, (operations, rounds): Plan) {
    let seed = seed();
    println!("{name}: seed {seed}");
    let mut world = World::new(stage, users, seed, None);
    for _ in 0..rounds {
        let ended = world.round(operations).await;
        let agree = ended.unwrap_or_else(|error| panic!("seed {seed}: {error:#}\n{:?}", world.verdict()));
        if !agree {
            break;
        }
    }
    println!("{}", world.report(name));
    world.verdict().unwrap_or_else(|findings| panic!("{name}: {findings}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_process() {
    let stage = Stage::embedded().await.unwrap();
    check("in one process", &stage, stage.users::<10>().into(), IN_ONE_PROCESS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_a_cluster() {
    let stage = Stage::cluster().await.unwrap();
    check("as a cluster", &stage, stage.users::<8>().into(), AS_A_CLUSTER).await;
}

/// Plays until the bug has struck, and once more; what kinds of findings there are then.
async fn kinds_found(bug: Bug) -> BTreeSet<Kind> {
    let seed = seed();
    println!("{bug:?}: seed {seed}");
    let stage = Stage::embedded().await.unwrap();
    let mut world = World::new(&stage, stage.users::<6>().into(), seed, Some(bug));
    let (operations, rounds) = CONTROL;
    for _ in 0..rounds {
        world.round(operations).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        if world.field.bug_is_done() {
            break;
        }
        assert!(world.findings.is_empty(), "before the bug has struck: {:?}", world.verdict());
    }
    let struck = world.field.struck().unwrap_or_else(|| panic!("seed {seed}: the bug has struck nobody"));
    let findings = world.verdict().expect_err("the checker has found nothing");
    println!("{bug:?} has struck {struck}: {findings}");
    world.findings.iter().map(|finding| finding.kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_edit_is_caught() {
    assert!(kinds_found(Bug::DroppedEdit).await.contains(&Kind::Missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_without_its_words_is_caught() {
    assert!(kinds_found(Bug::SilencedEdit).await.contains(&Kind::Message));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_goes_back_is_caught() {
    assert!(kinds_found(Bug::ReceiptGoesBack).await.contains(&Kind::ReceiptWentBack));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_join_that_shows_old_history_is_caught() {
    assert!(kinds_found(Bug::OldHistory).await.contains(&Kind::BeforeJoin));
}
