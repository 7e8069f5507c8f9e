//! Leases, the shard map and chat ids, as two instances change them.

use std::collections::BTreeSet;
use std::sync::Arc;

use confab_ids::Shard;

use crate::core::ownership::lease::{Incarnation, LeaseRow, Standing, Swapped};
use crate::core::ownership::map::{Move, ShardMap};
use crate::store::Ledger;

const A: Incarnation = Incarnation(7 << 100 | 1);
const B: Incarnation = Incarnation(9 << 100 | 2);

pub(crate) async fn run(a: &impl Ledger, b: &impl Ledger) {
    leases(a, b).await;
    map(a, b).await;
    chat_ids(a, b).await;
}

fn lease(incarnation: Incarnation, counter: u64) -> LeaseRow {
    let hi = 1_000 * counter.cast_signed();
    LeaseRow { incarnation, addr: format!("{incarnation:?}:1"), counter, hi, standing: Standing::Serving }
}

/// What the other instance sees of a lease.
async fn seen(by: &impl Ledger, incarnation: Incarnation) -> Option<LeaseRow> {
    let (leases, _) = by.observe(0).await.expect("read");
    leases.into_iter().find(|row| row.incarnation == incarnation)
}

async fn leases(a: &impl Ledger, b: &impl Ledger) {
    assert_eq!(b.observe(0).await.expect("read"), (Vec::new(), None));
    assert_eq!(a.renew(lease(A, 2)).await, Swapped::Refused(None), "there is none to be renewed");
    b.mark_dead(A, 1).await;
    assert_eq!(seen(b, A).await, None, "nor to be marked");

    assert_eq!(a.renew(lease(A, 1)).await, Swapped::Applied);
    assert_eq!(seen(b, A).await, Some(lease(A, 1)));
    assert_eq!(a.renew(lease(A, 1)).await, Swapped::Refused(Some(lease(A, 1))), "the first comes once");
    assert_eq!(b.renew(lease(B, 1)).await, Swapped::Applied);
    let draining = LeaseRow { standing: Standing::Draining, ..lease(A, 4) };
    assert_eq!(a.renew(draining.clone()).await, Swapped::Applied, "a counter may have been left out");
    assert_eq!(seen(b, A).await, Some(draining.clone()));
    for late in [3, 4] {
        assert_eq!(a.renew(lease(A, late)).await, Swapped::Refused(Some(draining.clone())), "an older renewal");
    }

    b.mark_dead(A, 3).await;
    assert_eq!(seen(b, A).await, Some(draining.clone()), "it was renewed meanwhile");
    b.mark_dead(A, 4).await;
    let dead = LeaseRow { standing: Standing::Dead, ..draining };
    assert_eq!(seen(a, A).await, Some(dead.clone()));
    assert_eq!(a.renew(lease(A, 5)).await, Swapped::Refused(Some(dead.clone())), "for good");
    assert_eq!(seen(b, A).await, Some(dead));

    b.purge(A).await;
    assert_eq!(seen(a, A).await, None);
    assert_eq!(a.renew(lease(A, 6)).await, Swapped::Refused(None), "it doesn't come back");
    b.purge(B).await;
    assert_eq!(seen(a, B).await, Some(lease(B, 1)), "the other's is as it was, and lives");
}

fn moved(map: &ShardMap, first: u16, to: Incarnation) -> Arc<ShardMap> {
    let moves: Vec<Move> = (first..first + 3).map(|shard| Move { shard: Shard(shard), to, floor: 77 }).collect();
    Arc::new(map.moved(&moves, |owner| (owner == to).then(|| Arc::from("here:1"))))
}

async fn map(a: &impl Ledger, b: &impl Ledger) {
    let none = ShardMap::default();
    let third = Arc::new(ShardMap { version: 3, ..(*moved(&none, 0, A)).clone() });
    assert_eq!(a.swap_map(third).await, Swapped::Refused(Arc::default()), "there is no second one");

    let (first, other) = (moved(&none, 0, A), moved(&none, 0, B));
    let outcomes = futures_util::future::join(a.swap_map(first.clone()), b.swap_map(other.clone())).await;
    let (winner, loser) = match outcomes {
        (Swapped::Applied, loser) => (first, loser),
        (loser, Swapped::Applied) => (other, loser),
        neither => panic!("one has to win: {neither:?}"),
    };
    assert_eq!(loser, Swapped::Refused(winner.clone()), "with the one that is there");
    assert_eq!(b.observe(0).await.expect("read").1, Some(winner.clone()));
    assert_eq!(b.observe(1).await.expect("read").1, None, "it is known");

    let second = moved(&winner, 100, B);
    assert_eq!(b.swap_map(second.clone()).await, Swapped::Applied);
    let late = moved(&winner, 200, A);
    assert_eq!(a.swap_map(late).await, Swapped::Refused(second.clone()), "another was quicker");
    assert_eq!(b.swap_map(second.clone()).await, Swapped::Refused(second.clone()), "its own, asked for again");
    assert_eq!(a.observe(1).await.expect("read").1, Some(second));
}

/// Blocks of both, taken at once.
async fn chat_ids(a: &impl Ledger, b: &impl Ledger) {
    let (of_a, of_b) = futures_util::future::join(blocks(a), blocks(b)).await;
    let mut given = BTreeSet::new();
    for (first, count) in of_a.into_iter().chain(of_b) {
        for id in first..first + count {
            assert!(id > 0 && given.insert(id), "{id} is given twice");
        }
    }
    assert_eq!(given.len(), 2 * (1 + 2 + 3 + 4 + 5));
    assert!(a.take_chat_ids(1 << 53).await.is_err(), "they end");
}

async fn blocks(of: &impl Ledger) -> Vec<(u64, u64)> {
    let mut blocks = Vec::new();
    for count in 1..=5 {
        blocks.push((of.take_chat_ids(count).await.expect("ids"), count));
    }
    blocks
}
