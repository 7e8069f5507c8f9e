//! Deadlines of unary calls: kept by either end alone, and shrinking from hop to hop.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use confab_mesh::{ClientConfig, Peer, ServerConfig, deadline, server};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Response};

use crate::kit::{drop_probe, empty, in_process, in_process_with, raw, say, send, soon, unary};

const MS: Duration = Duration::from_millis(1);

fn never_answers(cfg: ServerConfig) -> Peer {
    server(cfg, unary(|_| pending()))
}

/// A timer's granularity is 1 ms.
fn assert_took(started: Instant, expected: Duration) {
    let took = started.elapsed();
    assert!(took >= expected - MS && took <= expected + 2 * MS, "took {took:?}, not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_late_in_process_and_is_dropped() {
    let (probe, dropped) = drop_probe();
    let probe = Arc::new(Mutex::new(Some(probe)));
    let slow = server(
        ServerConfig::new("test-svc"),
        unary(move |_| {
            let held = probe.lock().expect("not poisoned").take();
            async move {
                let _held = held;
                pending().await
            }
        }),
    );
    let cfg = ClientConfig::new("edge", "test-svc").timeout(100 * MS);
    let started = Instant::now();

    let refusal = say(&in_process_with(cfg, slow), empty()).await;

    let refusal = refusal.expect_err("late");
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
    assert!(refusal.message().contains("test-svc"), "{refusal}");
    assert_took(started, 100 * MS);
    soon(dropped).await.expect("the handler was dropped with the call");
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_timeout_wins_over_the_clients() {
    for timeout in [20 * MS, 8_000 * MS] {
        let peer = in_process(never_answers(ServerConfig::new("test-svc")));
        let mut request = Request::new(String::new());
        request.set_timeout(timeout);
        let started = Instant::now();

        let refusal = say(&peer, request).await.expect_err("late");

        assert_eq!(refusal.code(), Code::DeadlineExceeded);
        assert_took(started, timeout);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_keeps_deadlines_whatever_its_caller_does() {
    let cfg = ServerConfig::new("test-svc");
    let (default, max) = (cfg.deadline_default, cfg.deadline_max);
    let peer = never_answers(cfg);
    let cases: [(&[(&str, &str)], Duration); 4] = [
        (&[("grpc-timeout", "50m")], 50 * MS),
        (&[], default),
        (&[("grpc-timeout", "99999999H")], max),
        (&[("grpc-timeout", "0n")], Duration::ZERO + MS),
    ];
    for (headers, expected) in cases {
        let started = Instant::now();

        let refusal = send(&peer, raw(headers)).await;

        assert_eq!(refusal.code(), Code::DeadlineExceeded, "{headers:?}");
        assert_took(started, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_timeout_or_one_that_is_over_reaches_no_handler() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let peer = server(
        ServerConfig::new("test-svc"),
        unary(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(Response::new(String::new())) }
        }),
    );

    let refusal = send(&peer, raw(&[("grpc-timeout", "soon")])).await;
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(refusal.message().contains("grpc-timeout"), "{refusal}");
    let refusal = send(&peer, raw(&[("grpc-timeout", "0n")])).await;
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
    assert_eq!(handled.load(Ordering::SeqCst), 0);

    let fine = send(&peer, raw(&[("grpc-timeout", "1S")])).await;
    assert_eq!((fine.code(), handled.load(Ordering::SeqCst)), (Code::Ok, 1));
}

/// Answers, after `delay`, with what is left and the header that it got.
fn says_what_is_left(delay: Duration) -> Peer {
    server(
        ServerConfig::new("last-svc"),
        unary(move |request| async move {
            sleep(delay).await;
            let left = deadline::remaining().map(|left| left.as_millis());
            let header = request.metadata().get("grpc-timeout").cloned();
            Ok(Response::new(format!("{left:?} {header:?}")))
        }),
    )
}

/// Calls `next` after `delay`.
fn calls_on(delay: Duration, next: Peer) -> Peer {
    let next = in_process_with(ClientConfig::new("test-svc", "last-svc"), next);
    server(
        ServerConfig::new("test-svc"),
        unary(move |_| {
            let next = next.clone();
            async move {
                sleep(delay).await;
                say(&next, empty()).await
            }
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shrinks_through_two_hops() {
    let last = says_what_is_left(100 * MS);
    let middle = calls_on(300 * MS, last);
    let first = calls_on(200 * MS, middle);
    let cfg = ClientConfig::new("edge", "test-svc").timeout(1_000 * MS);

    let answer = say(&in_process_with(cfg, first), empty()).await;

    let answer = answer.expect("in time").into_inner();
    let left: u64 = answer
        .trim_start_matches("Some(")
        .split(')')
        .next()
        .and_then(|ms| ms.parse().ok())
        .unwrap_or_else(|| panic!("nothing is left in {answer:?}"));
    // 1000 - 200 - 300 - 100, less what timers round up.
    assert!((390..=400).contains(&left), "{left} ms are left");
    assert!(answer.contains("u\"") || answer.contains("m\""), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn the_first_deadline_ends_every_hop() {
    let middle = calls_on(MS, never_answers(ServerConfig::new("last-svc")));
    let first = calls_on(MS, middle);
    let cfg = ClientConfig::new("edge", "test-svc").timeout(700 * MS);
    let started = Instant::now();

    let refusal = say(&in_process_with(cfg, first), empty()).await;

    // Not the 5 s that the inner clients are configured with.
    assert_eq!(refusal.expect_err("late").code(), Code::DeadlineExceeded);
    assert_took(started, 700 * MS);
}

#[tokio::test(start_paused = true)]
async fn outside_of_a_call_nothing_is_left_to_inherit() {
    assert_eq!(deadline::remaining(), None);
    let peer = in_process(says_what_is_left(Duration::ZERO));
    say(&peer, empty()).await.expect("in time");
    assert_eq!(deadline::remaining(), None);
}
