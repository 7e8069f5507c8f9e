//! What is tried again, when, how often, and what is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use confab_mesh::{ClientConfig, Peer, ServerConfig, client, server};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use crate::kit::{empty, in_process_with, say, unary};

const MS: Duration = Duration::from_millis(1);
const IDEMPOTENT: ClientConfig = ClientConfig::new("edge", "test-svc").idempotent(&["Say"]);

/// How often a peer was called.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    /// Which call this is, from 0.
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Answers with what `answer` makes of a call's number.
fn scripted<A>(cfg: ClientConfig, answer: A) -> (Peer, Count)
where
    A: Fn(usize) -> Result<String, Status> + Clone + Send + Sync + 'static,
{
    let count = Count::default();
    let counted = count.clone();
    let handler = move |_| {
        let answer = answer(counted.next());
        async { answer.map(Response::new) }
    };
    (in_process_with(cfg, server(ServerConfig::new("test-svc"), unary(handler))), count)
}

fn unavailable() -> Status {
    Status::unavailable("not now")
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_is_tried_three_times_at_most_each_after_a_longer_pause() {
    for failures in 0..5 {
        let fails = move |call| if call < failures { Err(unavailable()) } else { Ok("here".to_owned()) };
        let (peer, count) = scripted(IDEMPOTENT, fails);
        let started = Instant::now();

        let result = say(&peer, empty()).await;

        assert_eq!(result.is_ok(), failures <= 2, "{failures} failures");
        assert_eq!(count.get(), failures.min(2) + 1);
        // 25 ms and 50 ms, half as much less or more, and a timer's 1 ms.
        let (least, most) = [(0, 0), (12, 39), (37, 115)][failures.min(2)];
        let took = started.elapsed().as_millis();
        assert!((least..=most).contains(&took), "{took} ms for {failures} failures");
    }
}

#[tokio::test(start_paused = true)]
async fn other_methods_and_other_refusals_are_not_tried_again() {
    let (peer, count) = scripted(ClientConfig::new("edge", "test-svc").idempotent(&["Tell"]), |_| Err(unavailable()));
    say(&peer, empty()).await.expect_err("refused");
    assert_eq!(count.get(), 1);

    for code in [Code::Internal, Code::ResourceExhausted, Code::Aborted, Code::DeadlineExceeded, Code::NotFound] {
        let (peer, count) = scripted(IDEMPOTENT, move |_| Err(Status::new(code, "no")));
        assert_eq!(say(&peer, empty()).await.expect_err("refused").code(), code);
        assert_eq!(count.get(), 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_request_goes_out_again_and_says_which_try_it_is() {
    let handler = |request: Request<String>| async move {
        let before = request.metadata().get("grpc-previous-rpc-attempts").cloned();
        let asked = request.metadata().get("x-asked").cloned();
        match before {
            None => Err(unavailable()),
            Some(before) => Ok(Response::new(format!("{} {asked:?} {before:?}", request.into_inner()))),
        }
    };
    let peer = in_process_with(IDEMPOTENT, server(ServerConfig::new("test-svc"), unary(handler)));
    let mut request = Request::new("hello".to_owned());
    request.metadata_mut().insert("x-asked", "politely".parse().expect("ascii"));
    let answer = say(&peer, request).await.expect("the second try");
    assert_eq!(answer.get_ref(), r#"hello Some("politely") "1""#);
}

#[tokio::test(start_paused = true)]
async fn when_no_server_answers_another_try_may_find_one() {
    let count = Count::default();
    let counted = count.clone();
    let gone = Peer::new(service_fn(move |_| {
        counted.next();
        async { Err::<http::Response<tonic::body::Body>, _>(Status::unavailable("no endpoint")) }
    }));
    let refusal = say(&client(IDEMPOTENT, gone), empty()).await.expect_err("gone");
    assert_eq!((refusal.message(), count.get()), ("no endpoint", 3));
}

#[tokio::test(start_paused = true)]
async fn all_tries_together_have_the_calls_time_and_each_is_told_what_is_left() {
    let (told, mut timeouts) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |request: Request<String>| {
        let header = request.metadata().get("grpc-timeout").expect("a deadline").to_str().expect("ascii").to_owned();
        told.send(header).expect("the test listens");
        async {
            sleep(40 * MS).await;
            Err(unavailable())
        }
    };
    let peer = in_process_with(IDEMPOTENT.timeout(100 * MS), server(ServerConfig::new("test-svc"), unary(handler)));
    let started = Instant::now();

    let refusal = say(&peer, empty()).await.expect_err("refused");

    // 40 ms, a pause of 12 to 38, then 20 ms and more of the second try: no third could end in time.
    assert!(started.elapsed() <= 102 * MS, "{:?}", started.elapsed());
    assert!(matches!(refusal.code(), Code::Unavailable | Code::DeadlineExceeded), "{refusal}");
    let mut micros = Vec::new();
    while let Ok(header) = timeouts.try_recv() {
        let nanos = header.strip_suffix('n').map_or_else(
            || header.trim_end_matches('u').parse::<u64>().expect("microseconds"),
            |nanos| nanos.parse::<u64>().expect("nanoseconds") / 1_000,
        );
        micros.push(nanos);
    }
    assert!(micros.len() >= 2 && micros[0] > 99_000 && micros[1] <= 48_000, "{micros:?}");
}

#[tokio::test(start_paused = true)]
async fn no_try_is_made_that_could_only_be_late() {
    let (peer, count) = scripted(IDEMPOTENT.timeout(12 * MS), |_| Err(unavailable()));
    let started = Instant::now();
    let refusal = say(&peer, empty()).await.expect_err("refused");
    assert_eq!((refusal.code(), count.get()), (Code::Unavailable, 1));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_server_says_when_to_come_again_or_not_to() {
    let asks = |value: &'static str| {
        move |call| match call {
            0 => {
                let mut status = unavailable();
                status.metadata_mut().insert("grpc-retry-pushback-ms", value.parse().expect("ascii"));
                Err(status)
            }
            _ => Ok("here".to_owned()),
        }
    };
    let (peer, _) = scripted(IDEMPOTENT, asks("400"));
    let started = Instant::now();
    say(&peer, empty()).await.expect("the second try");
    let took = started.elapsed();
    assert!(took >= 400 * MS && took <= 502 * MS, "{took:?}");

    let (peer, count) = scripted(IDEMPOTENT, asks("-1"));
    say(&peer, empty()).await.expect_err("never");
    assert_eq!(count.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_what_trouble_adds() {
    let mut cfg = IDEMPOTENT;
    cfg.breaker_failures = 0;
    let (peer, count) = scripted(cfg, |_| Err(unavailable()));
    let calls = join_all((0..2_000).map(|_| say(&peer, empty()))).await;
    assert!(calls.iter().all(Result::is_err));
    // A tenth of them, and ten seconds of the reserve. Unbounded, there would be 4,000.
    let retries = count.get() - 2_000;
    assert!((200..=300).contains(&retries), "{retries} retries");

    // The reserve comes back.
    sleep(Duration::from_secs(20)).await;
    let before = count.get();
    say(&peer, empty()).await.expect_err("still");
    assert_eq!(count.get() - before, 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_above_1_mib_is_sent_whole_and_once() {
    let max = 1024 * 1024;
    for (bytes, tries) in [(max, 3), (max + 1, 1), (2 * max, 1)] {
        let count = Count::default();
        let counted = count.clone();
        let handler = move |request: Request<String>| {
            counted.next();
            // Fails with what it got.
            async move { Err(Status::unavailable(request.into_inner().len().to_string())) }
        };
        let peer = in_process_with(IDEMPOTENT, server(ServerConfig::new("test-svc"), unary(handler)));
        // Beside the text 5 bytes of gRPC's and 4 of the field's.
        let text = bytes - 9;
        let refusal = say(&peer, Request::new("x".repeat(text))).await.expect_err("refused");
        assert_eq!((refusal.message(), count.get()), (text.to_string().as_str(), tries), "{bytes} bytes");
    }
}
