//! A target that fails call after call is left alone, and found again.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use confab_mesh::{ClientConfig, Peer, ServerConfig, client, server};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use crate::kit::{empty, in_process, in_process_with, say, unary};

const MS: Duration = Duration::from_millis(1);

/// Fails for the first `failures` calls, by `Err`: nobody answers.
fn comes_back_after(failures: usize) -> (Peer, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let works = server(ServerConfig::new("test-svc"), unary(|_| async { Ok(Response::new(String::new())) }));
    let peer = Peer::new(service_fn(move |request| {
        let gone = counted.fetch_add(1, Ordering::SeqCst) < failures;
        let mut works = works.clone();
        async move {
            if gone {
                return Err(Status::unavailable("no endpoint"));
            }
            tower::Service::call(&mut works, request).await
        }
    }));
    let mut cfg = ClientConfig::new("edge", "test-svc");
    cfg.breaker_pause_max = Duration::from_secs(30);
    (client(cfg, peer), calls)
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_no_failure_and_the_first_connection_is_used_at_once() {
    let connected = Arc::new(AtomicUsize::new(0));
    let is_connected = Arc::clone(&connected);
    let works = server(ServerConfig::new("test-svc"), unary(|_| async { Ok(Response::new(String::new())) }));
    let peer = Peer::new(service_fn(move |request| {
        let (connected, mut works) = (is_connected.load(Ordering::SeqCst), works.clone());
        async move {
            match connected {
                0 => Err(confab_mesh::unsent::give_back(Status::unavailable("no connection"), request)),
                _ => tower::Service::call(&mut works, request).await,
            }
        }
    }));
    let peer = client(ClientConfig::new("edge", "test-svc"), peer);
    for _ in 0..50 {
        assert_eq!(say(&peer, empty()).await.expect_err("not there").message(), "no connection");
    }
    connected.store(1, Ordering::SeqCst);
    say(&peer, empty()).await.expect("at once");
}

#[tokio::test(start_paused = true)]
async fn it_is_called_no_more_than_to_see_whether_it_is_back() {
    let (peer, calls) = comes_back_after(8);
    for _ in 0..5 {
        assert_eq!(say(&peer, empty()).await.expect_err("gone").message(), "no endpoint");
    }
    let started = Instant::now();
    let refusal = say(&peer, empty()).await.expect_err("open");
    assert_eq!((refusal.code(), started.elapsed()), (Code::Unavailable, Duration::ZERO));
    assert!(refusal.message().starts_with("test-svc is not called"), "{refusal}");
    assert_eq!(calls.load(Ordering::SeqCst), 5);

    let mut refused = 0;
    while say(&peer, empty()).await.is_err() {
        refused += 1;
        sleep(10 * MS).await;
    }
    // 0.5 + 1 + 2 + 4 s, a fifth more or less, for the three trials that fail and the one that does not.
    let took = started.elapsed();
    assert!(took >= 6_000 * MS && took <= 9_100 * MS, "{took:?}");
    assert!(refused > 500 && calls.load(Ordering::SeqCst) == 9, "{refused} refused, {calls:?} calls");
    say(&peer, empty()).await.expect("closed");
}

#[tokio::test(start_paused = true)]
async fn clones_share_what_they_found() {
    let (peer, calls) = comes_back_after(usize::MAX);
    for _ in 0..10 {
        say(&peer.clone(), empty()).await.expect_err("gone");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

/// Whether the target is no longer called after 20 calls that end in this way.
async fn opens(cfg: ClientConfig, server: Peer, timeout: Option<Duration>) -> bool {
    let peer = in_process_with(cfg, server);
    for _ in 0..20 {
        let mut request = Request::new(String::new());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let refusal = say(&peer, request).await.expect_err("it fails");
        if refusal.message().contains("is not called") {
            return true;
        }
    }
    false
}

#[tokio::test(start_paused = true)]
async fn only_what_says_that_it_does_not_work_opens_it() {
    let cfg = ClientConfig::new("edge", "test-svc");
    let says =
        |code| server(ServerConfig::new("test-svc"), unary(move |_| async move { Err(Status::new(code, "no")) }));
    assert!(opens(cfg.clone(), says(Code::Unavailable), None).await);
    for code in [Code::Internal, Code::NotFound, Code::ResourceExhausted, Code::PermissionDenied] {
        assert!(!opens(cfg.clone(), says(code), None).await, "{code:?}");
    }

    let hangs = || server(ServerConfig::new("test-svc"), unary(|_| pending()));
    assert!(opens(cfg.clone(), hangs(), None).await, "late");
    assert!(!opens(cfg.clone(), hangs(), Some(20 * MS)).await, "late, but it had no time");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sheds_load_works() {
    let mut full = ServerConfig::new("test-svc");
    full.in_flight_max = 0;
    let full = server(full, unary(|_| pending()));
    assert!(!opens(ClientConfig::new("edge", "test-svc"), full, None).await);
}

#[tokio::test(start_paused = true)]
async fn a_trial_whose_caller_leaves_does_not_keep_the_others_out() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |_| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0..5 => Err(Status::unavailable("no")),
                5 => pending().await,
                _ => Ok(Response::new(String::new())),
            }
        }
    };
    let peer = in_process(server(ServerConfig::new("test-svc"), unary(handler)));
    for _ in 0..5 {
        say(&peer, empty()).await.expect_err("no");
    }
    sleep(700 * MS).await;
    let trial = tokio::spawn({
        let peer = peer.clone();
        async move { say(&peer, empty()).await }
    });
    sleep(MS).await;
    say(&peer, empty()).await.expect_err("one tries");
    trial.abort();
    trial.await.expect_err("aborted");
    say(&peer, empty()).await.expect("another tries");
}
