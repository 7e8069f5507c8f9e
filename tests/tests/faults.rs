//! Three rows of the fault table, on one node of Cassandra. All of it, on three: `cargo xtask faults`.

#![allow(clippy::print_stdout, reason = "its figures are what one wants to see of it")]

use confab_tests::faults::{Cluster, Load, Population, row};
use confab_tests::harness::seed;

const LOAD: Load = Load { population: Population { pairs: 8, groups: 2, members: 12 }, messages: 2_000, rate: 160.0 };

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered_when_an_owner_dies_or_stands_still_or_a_fanout_dies() {
    let seed = seed();
    println!("CONFAB_SEED={seed}");
    let mut cluster = Cluster::start(1).await.unwrap();
    let mut first = 1;
    for name in ["kill-message-svc", "freeze-message-svc", "kill-fanout-svc"] {
        let outcome = cluster.run(row(name).unwrap(), LOAD, seed, first).await.unwrap();
        println!("{outcome}");
        assert!(outcome.holds(), "{outcome}\n{}", outcome.report);
        first += 1_000;
    }
}
