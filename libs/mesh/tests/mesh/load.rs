//! A server that gets more than it can do: what it takes on it does in good time, and the rest it refuses at once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use confab_mesh::{ClientConfig, Peer, ServerConfig, server};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tonic::{Code, Request, Response};
use tonic_types::StatusExt;

use crate::kit::{Strings, converse, empty, in_process_with, say, streaming, unary};

const MS: Duration = Duration::from_millis(1);
/// One call's work. With 20 at a time: 400 calls per second.
const WORK: Duration = Duration::from_millis(50);
const CAPACITY: usize = 20;

/// What became of the calls of some time.
#[derive(Clone, Default)]
struct Outcomes {
    took: Arc<Mutex<Vec<Duration>>>,
    refused: Arc<AtomicUsize>,
    late: Arc<AtomicUsize>,
}

impl Outcomes {
    fn served(&self) -> usize {
        self.took.lock().expect("not poisoned").len()
    }

    fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    fn p99(&self) -> Duration {
        let mut took = self.took.lock().expect("not poisoned").clone();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}

/// Works on as many calls at once as `slots` has permits; the others wait in it.
fn works(cfg: ServerConfig, slots: &Arc<Semaphore>) -> Peer {
    let slots = Arc::clone(slots);
    let handler = move |_| {
        let slots = Arc::clone(&slots);
        async move {
            let _slot = slots.acquire().await.expect("open");
            sleep(WORK).await;
            Ok(Response::new(String::new()))
        }
    };
    in_process_with(ClientConfig::new("edge", "test-svc"), server(cfg, unary(handler)))
}

/// Calls `peer` every `interval`, whether or not it answers, for `time`; then waits for all answers.
async fn offer(peer: &Peer, interval: Duration, time: Duration) -> Outcomes {
    let outcomes = Outcomes::default();
    let started = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    while started.elapsed() < time {
        let (peer, seen) = (peer.clone(), outcomes.clone());
        calls.spawn(async move {
            let started = Instant::now();
            match say(&peer, empty()).await {
                Ok(_) => seen.took.lock().expect("not poisoned").push(started.elapsed()),
                Err(refusal) if refusal.code() == Code::Unavailable => {
                    assert_eq!(started.elapsed(), Duration::ZERO, "refused late");
                    seen.refused.fetch_add(1, Ordering::SeqCst);
                }
                Err(late) => {
                    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
                    seen.late.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        sleep(interval).await;
    }
    while let Some(call) = calls.join_next().await {
        call.expect("no panic");
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn twice_the_capacity_is_served_as_far_as_it_goes_and_in_good_time() {
    let slots = Arc::new(Semaphore::new(CAPACITY));
    let peer = works(ServerConfig::new("test-svc"), &slots);
    offer(&peer, MS, Duration::from_secs(5)).await;

    // 1,000 per second, where 400 can be done.
    let seen = offer(&peer, MS, Duration::from_secs(40)).await;

    let (served, p99) = (seen.served(), seen.p99());
    assert!(served >= 40 * 400 * 9 / 10, "{served} served of 16,000 that could be");
    assert!(p99 <= 5 * WORK, "p99 is {p99:?}");
    assert_eq!(seen.late.load(Ordering::SeqCst), 0);

    // The control: without it they all wait for each other, until most are late.
    let mut unlimited = ServerConfig::new("test-svc");
    unlimited.limit_min = unlimited.in_flight_max;
    let peer = works(unlimited, &Arc::new(Semaphore::new(CAPACITY)));
    let without = offer(&peer, MS, Duration::from_secs(40)).await;
    assert!(without.p99() >= 40 * WORK, "p99 is {:?}", without.p99());
    assert!(without.late.load(Ordering::SeqCst) > 10_000);
}

#[tokio::test(start_paused = true)]
async fn it_recovers_when_the_load_falls_or_the_capacity_grows() {
    let slots = Arc::new(Semaphore::new(CAPACITY));
    let peer = works(ServerConfig::new("test-svc"), &slots);
    let over = offer(&peer, MS, Duration::from_secs(20)).await;
    assert!(over.refused() > 5_000);

    let calm = offer(&peer, 4 * MS, Duration::from_secs(20)).await;
    assert_eq!(calm.refused(), 0, "250 per second are well within 400");

    offer(&peer, MS, Duration::from_secs(20)).await;
    slots.add_permits(9 * CAPACITY);
    offer(&peer, MS, Duration::from_secs(10)).await;
    let grown = offer(&peer, MS, Duration::from_secs(20)).await;
    assert_eq!(grown.refused(), 0, "1,000 per second are well within 4,000");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_that_it_is_one_for_load_and_when_to_come_again() {
    let mut cfg = ServerConfig::new("test-svc");
    cfg.limit_min = 1;
    let peer = works(cfg, &Arc::new(Semaphore::new(CAPACITY)));
    // A server starts with 128.
    let held: Vec<_> = (0..128)
        .map(|_| {
            let peer = peer.clone();
            tokio::spawn(async move { say(&peer, empty()).await })
        })
        .collect();
    // Paused time moves on when all of them wait.
    sleep(MS).await;

    let refusal = say(&peer, empty()).await.expect_err("one too many");

    assert_eq!(refusal.code(), Code::Unavailable);
    for word in ["test-svc sheds load", "128 unary calls"] {
        assert!(refusal.message().contains(word), "{refusal}");
    }
    let again = refusal.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(again, Some(100 * MS));
    for call in held {
        call.await.expect("no panic").expect("served");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_not_in_the_limit() {
    let mut cfg = ServerConfig::new("test-svc").streaming(&["Converse"]);
    cfg.in_flight_max = 500;
    let echoes = streaming(|request| async { Ok(Response::new(Box::pin(request.into_inner()) as Strings)) });
    let cfg_client = ClientConfig::new("edge", "test-svc").streaming(&["Converse"]);
    let peer = in_process_with(cfg_client, server(cfg, echoes));
    let mut open = Vec::new();
    for _ in 0..500 {
        open.push(converse(&peer, Request::new(tokio_stream::pending())).await.expect("below in_flight_max"));
    }
    let refusal = converse(&peer, Request::new(tokio_stream::pending())).await.expect_err("in_flight_max");
    assert!(refusal.message().contains("in_flight_max"), "{refusal}");
}
