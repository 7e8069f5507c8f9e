//! Calls spread over instances that are slow, dead, failing or killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use confab_mesh::{
    BalanceConfig, ClientConfig, ListenConfig, Member, Members, Peer, Pool, ServerConfig, balanced, client, server,
    unsent,
};
use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tonic::{Code, Response, Status};

use crate::{
    kit::{empty, say, unary},
    loopback::{Loopback, pool_of, quick, when},
};

const MS: Duration = Duration::from_millis(1);

/// Answers after `takes`, and counts.
fn takes(takes: Duration) -> (Peer, Arc<AtomicUsize>) {
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let handler = unary(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(takes).await;
            Ok(Response::new(String::new()))
        }
    });
    (server(ServerConfig::new("test-svc"), handler), calls)
}

/// Gives every request back at once, as an instance without a connection does.
fn dead() -> Peer {
    Peer::new(tower::service_fn(|request| {
        std::future::ready(Err(unsent::give_back(Status::unavailable("no connection"), request)))
    }))
}

/// Sends every call to the next one.
fn round_robin(peers: Vec<Peer>) -> Peer {
    let next = Arc::<AtomicUsize>::default();
    Peer::new(tower::service_fn(move |request| {
        let next = next.fetch_add(1, Ordering::Relaxed) % peers.len();
        tower::ServiceExt::oneshot(peers[next].clone(), request)
    }))
}

fn pool(peers: &[Peer]) -> Pool {
    Pool::fixed(peers.iter().enumerate().map(|(number, peer)| (format!("host:{number}"), peer.clone())))
}

fn caller(peer: Peer) -> Peer {
    client(ClientConfig::new("edge", "test-svc"), peer)
}

/// `count` calls, `width` at a time: how long each took, ascending, and those that failed.
async fn calls(peer: &Peer, count: usize, width: usize) -> (Vec<Duration>, Vec<Status>) {
    let one = |_| async {
        let started = Instant::now();
        say(peer, empty()).await.map(|_| started.elapsed())
    };
    let results: Vec<_> = stream::iter(0..count).map(one).buffer_unordered(width).collect().await;
    let (mut took, mut failed) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(time) => took.push(time),
            Err(status) => failed.push(status),
        }
    }
    took.sort_unstable();
    (took, failed)
}

fn percentile(ascending: &[Duration], percent: usize) -> Duration {
    ascending[(ascending.len() * percent / 100).min(ascending.len() - 1)]
}

#[tokio::test(start_paused = true)]
#[expect(clippy::print_stdout, reason = "the figures are what one wants to see of it")]
async fn with_one_instance_ten_times_slower_the_p99_is_at_most_half_of_round_robins() {
    let peers: Vec<Peer> = [5 * MS, 5 * MS, 50 * MS].map(|time| takes(time).0).into();
    let (robin, failed) = calls(&caller(round_robin(peers.clone())), 3_000, 8).await;
    assert!(failed.is_empty(), "{failed:?}");
    let balanced = balanced(pool(&peers), BalanceConfig::new("test-svc"));
    let (ours, failed) = calls(&caller(balanced), 3_000, 8).await;
    assert!(failed.is_empty(), "{failed:?}");
    let (robin, ours) = (percentile(&robin, 99), percentile(&ours, 99));
    println!("p99: {ours:?} balanced, {robin:?} in turn");
    assert!(ours * 2 <= robin, "{ours:?} against {robin:?}");
}

#[tokio::test(start_paused = true)]
async fn with_one_of_three_instances_dead_no_call_fails() {
    let peers = [takes(5 * MS).0, dead(), takes(5 * MS).0];
    let peer = caller(balanced(pool(&peers), BalanceConfig::new("test-svc")));
    let (took, failed) = calls(&peer, 3_000, 8).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(took.len(), 3_000);
    assert!(*took.last().expect("some") <= 6 * MS, "none waited for the dead one: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn with_two_of_three_dead_no_call_fails_either() {
    let peers = [dead(), dead(), takes(5 * MS).0];
    let peer = caller(balanced(pool(&peers), BalanceConfig::new("test-svc")));
    let (_, failed) = calls(&peer, 1_000, 8).await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_is_sent_once() {
    let lost = |calls: Arc<AtomicUsize>| {
        Peer::new(tower::service_fn(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err(Status::unavailable("the call broke")))
        }))
    };
    let calls = Arc::<AtomicUsize>::default();
    let peers = [lost(Arc::clone(&calls)), lost(Arc::clone(&calls)), lost(Arc::clone(&calls))];
    let peer = caller(balanced(pool(&peers), BalanceConfig::new("test-svc")));
    let refusal = say(&peer, empty()).await.expect_err("lost");
    assert_eq!(refusal.message(), "the call broke");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_at_once_is_not_taken_for_a_fast_one() {
    let calls_of = |cfg: BalanceConfig| async {
        let refusals = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&refusals);
        let refuses = server(
            ServerConfig::new("test-svc"),
            unary(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                async { Err(Status::unavailable("full")) }
            }),
        );
        let peer = caller(balanced(pool(&[refuses, takes(20 * MS).0, takes(20 * MS).0]), cfg));
        let (_, failed) = calls(&peer, 1_000, 8).await;
        assert_eq!(failed.len(), refusals.load(Ordering::Relaxed));
        failed.len()
    };
    // By its load alone, and ejected besides.
    let mut cfg = BalanceConfig::new("test-svc");
    cfg.failures_max = u32::MAX;
    let unejected = calls_of(cfg).await;
    assert!((1..20).contains(&unejected), "{unejected}");
    let ejected = calls_of(BalanceConfig::new("test-svc")).await;
    assert!((1..20).contains(&ejected), "{ejected}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_gets_few_calls_though_it_answers_none() {
    // Not even that it is late.
    let hanging = Peer::new(tower::service_fn(|_| std::future::pending()));
    let pool = pool(&[hanging, takes(5 * MS).0, takes(5 * MS).0]);
    let cfg = ClientConfig::new("edge", "test-svc").timeout(500 * MS);
    let peer = client(cfg, balanced(pool, BalanceConfig::new("test-svc")));
    // Six seconds: twelve times as long as it takes to give a call up.
    let (_, failed) = calls(&peer, 10_000, 8).await;
    assert!(failed.iter().all(|status| status.code() == Code::DeadlineExceeded), "{failed:?}");
    // Of the first eight, about a third: nobody knows anything yet.
    assert!((1..=4).contains(&failed.len()), "{} calls were lost to it", failed.len());
}

#[tokio::test(start_paused = true)]
async fn with_nobody_to_call_a_call_fails_at_once_and_says_whom_it_was_to() {
    let down = Member { id: "host:1".into(), peer: dead(), up: false };
    let (_sender, members) = watch::channel::<Members>(Arc::from([down]));
    let peer = caller(balanced(Pool::new(members), BalanceConfig::new("test-svc")));
    let refusal = say(&peer, empty()).await.expect_err("nobody");
    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(refusal.message(), "test-svc: its one instance, host:1, is down");
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_changes_is_followed() {
    let (near, near_calls) = takes(MS);
    let (far, far_calls) = takes(MS);
    let member = |id: &str, peer: &Peer| Member { id: id.into(), peer: peer.clone(), up: true };
    let (sender, members) = watch::channel::<Members>(Arc::from([member("a:1", &near)]));
    let peer = caller(balanced(Pool::new(members), BalanceConfig::new("test-svc")));
    calls(&peer, 10, 2).await;
    sender.send_replace(Arc::from([member("b:1", &far)]));
    calls(&peer, 20, 2).await;
    assert_eq!((near_calls.load(Ordering::Relaxed), far_calls.load(Ordering::Relaxed)), (10, 20));
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures are what one wants to see of it")]
async fn one_of_three_servers_is_killed_and_only_what_it_had_in_hand_fails() {
    const WIDTH: usize = 16;
    let (mut servers, mut counts) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (peer, calls) = takes(MS);
        servers.push(Loopback::start(peer, ListenConfig::default()).await);
        counts.push(calls);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let pool = pool_of(&addresses, quick()).await;
    when(&pool, |members| members.iter().all(|member| member.up)).await;
    let peer = caller(balanced(pool, BalanceConfig::new("test-svc")));

    let victim = servers.pop().expect("three");
    let ((), (took, failed)) = tokio::join!(
        async {
            while counts[2].load(Ordering::Relaxed) < 200 {
                sleep(MS).await;
            }
            victim.kill().await;
        },
        calls(&peer, 3_000, WIDTH)
    );
    println!("{} calls, {} failed with the server, p99 {:?}", took.len(), failed.len(), percentile(&took, 99));
    assert!(failed.len() <= WIDTH, "{} failed", failed.len());
    assert!(failed.iter().all(|status| status.code() == Code::Unavailable), "{failed:?}");
    let (_, failed) = calls(&peer, 1_000, WIDTH).await;
    assert!(failed.is_empty(), "it is known to be dead: {failed:?}");
}
