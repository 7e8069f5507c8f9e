//! Deadlines of streams: on a body as well as on its head, and none at all for those that are meant to last.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use confab_mesh::{ClientConfig, Peer, ServerConfig, deadline, server};
use tokio::{
    sync::mpsc,
    time::{Instant, advance},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response};

use crate::kit::{
    Strings, TestServer, converse, drop_probe, empty, in_process, in_process_with, next, say, soon, streaming, unary,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const LASTING: &[&str] = &["Converse"];

/// Says `one` and then nothing, for ever.
fn stalls() -> TestServer {
    streaming(|_| async {
        let stream = tokio_stream::iter([Ok("one".to_owned())]).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(stream) as Strings))
    })
}

fn echoes() -> TestServer {
    streaming(|request| async { Ok(Response::new(Box::pin(request.into_inner()) as Strings)) })
}

fn within(timeout: Duration) -> Request<tokio_stream::Pending<String>> {
    let mut request = Request::new(tokio_stream::pending());
    request.set_timeout(timeout);
    request
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_late() {
    let test_server = server(ServerConfig::new("test-svc"), stalls());
    // The server alone; and both ends.
    for peer in [test_server.clone(), in_process(test_server)] {
        let started = Instant::now();
        let mut stream = converse(&peer, within(SECOND)).await.expect("a head");
        assert_eq!(next(&mut stream).await.expect("in time").as_deref(), Some("one"));

        let refusal = next(&mut stream).await.expect_err("late");

        assert_eq!(refusal.code(), Code::DeadlineExceeded);
        let took = started.elapsed().as_millis();
        assert!((999..1_003).contains(&took), "took {took} ms");
        assert_eq!(next(&mut stream).await.expect("over"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_late_is_dropped_though_its_reader_holds_on() {
    let (probe, dropped) = drop_probe();
    let probe = Arc::new(Mutex::new(Some(probe)));
    let test_server = server(
        ServerConfig::new("test-svc"),
        streaming(move |_| {
            let held = probe.lock().expect("not poisoned").take();
            async move {
                let stalled = async_stream(async move {
                    let _held = held;
                    pending::<()>().await;
                });
                Ok(Response::new(stalled))
            }
        }),
    );
    let peer = in_process(test_server);
    let mut stream = converse(&peer, within(SECOND)).await.expect("a head");

    next(&mut stream).await.expect_err("late");

    soon(dropped).await.expect("dropped with the deadline");
    drop(stream);
}

/// A stream that ends with `work`.
fn async_stream(work: impl Future<Output = ()> + Send + 'static) -> Strings {
    let work = futures_util::stream::once(work);
    Box::pin(futures_util::StreamExt::filter_map(work, |()| async { None }))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_always_has_more_is_late_too() {
    let endless = streaming(|_| async {
        let stream = futures_util::stream::repeat_with(|| Ok("more".to_owned()));
        Ok(Response::new(Box::pin(stream) as Strings))
    });
    let test_server = server(ServerConfig::new("test-svc"), endless);
    for peer in [test_server.clone(), in_process(test_server)] {
        let mut stream = converse(&peer, within(SECOND)).await.expect("a head");
        assert!(next(&mut stream).await.expect("in time").is_some());
        advance(2 * SECOND).await;

        // What was read before may still come out of buffers.
        let mut refusal = None;
        for _ in 0..100_000 {
            match next(&mut stream).await {
                Ok(message) => assert!(message.is_some(), "ended without a status"),
                Err(status) => {
                    refusal = Some(status);
                    break;
                }
            }
        }
        let refusal = refusal.expect("late");
        assert_eq!(refusal.code(), Code::DeadlineExceeded);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_makes_calls_of_its_own_hands_the_deadline_on() {
    let says_what_is_left = streaming(|_| async {
        let stream = futures_util::stream::repeat_with(|| Ok(format!("{:?}", deadline::remaining())));
        Ok(Response::new(Box::pin(stream.take(2)) as Strings))
    });
    let peer = server(ServerConfig::new("test-svc"), says_what_is_left);
    let mut stream = converse(&peer, within(SECOND)).await.expect("a head");
    let left = next(&mut stream).await.expect("in time");
    assert_eq!(left.as_deref(), Some("Some(1s)"));
}

#[tokio::test(start_paused = true)]
async fn a_lasting_stream_has_no_deadline() {
    let cfg = ServerConfig::new("test-svc").streaming(LASTING);
    let client = ClientConfig::new("edge", "test-svc").streaming(LASTING);
    let peer = in_process_with(client, server(cfg, echoes()));
    let (sender, receiver) = mpsc::channel(1);
    let mut stream = converse(&peer, Request::new(ReceiverStream::new(receiver))).await.expect("a head");

    for hour in 0..3 {
        advance(HOUR).await;
        sender.send(format!("{hour} o'clock")).await.expect("open");
        let message = next(&mut stream).await.expect("open");
        assert_eq!(message, Some(format!("{hour} o'clock")));
    }
    drop(sender);
    assert_eq!(next(&mut stream).await.expect("a good end"), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_listed_has_the_default_deadline() {
    let test_server = server(ServerConfig::new("test-svc"), echoes());
    for (peer, seconds) in [(test_server.clone(), 10), (in_process(test_server), 5)] {
        let started = Instant::now();
        let request = Request::new(tokio_stream::pending());
        let mut stream = converse(&peer, request).await.expect("a head");
        let refusal = next(&mut stream).await.expect_err("late");
        assert_eq!(refusal.code(), Code::DeadlineExceeded);
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_stream_keeps_a_deadline_that_it_brings_however_long() {
    let cfg = ServerConfig::new("test-svc").streaming(LASTING);
    let client = ClientConfig::new("edge", "test-svc").streaming(LASTING);
    let peer = in_process_with(client, server(cfg, echoes()));
    let started = Instant::now();
    let mut stream = converse(&peer, within(2 * HOUR)).await.expect("a head");
    let refusal = next(&mut stream).await.expect_err("late");
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
    assert_eq!(started.elapsed().as_secs(), 7_200);
}

/// A unary handler that opens a lasting stream to `next` and sends it out by `opened`.
fn opens(next: Peer, opened: mpsc::Sender<tonic::Streaming<String>>) -> Peer {
    let handler = move |_| {
        let (next, opened) = (next.clone(), opened.clone());
        async move {
            assert!(deadline::remaining().is_some());
            let stream = converse(&next, Request::new(tokio_stream::pending())).await?;
            opened.send(stream).await.expect("the test listens");
            Ok(Response::new(String::new()))
        }
    };
    server(ServerConfig::new("test-svc"), unary(handler))
}

#[tokio::test(start_paused = true)]
async fn a_lasting_stream_outlives_the_call_that_opened_it() {
    // In process, its handler runs in the task of a call that has a deadline, and must not see that one as its own.
    let lasting = streaming(|_| async {
        assert_eq!(deadline::remaining(), None);
        let ticks = futures_util::stream::unfold((), |()| async {
            assert_eq!(deadline::remaining(), None);
            tokio::time::sleep(HOUR).await;
            Some((Ok("tick".to_owned()), ()))
        });
        Ok(Response::new(Box::pin(ticks) as Strings))
    });
    let lasting = in_process_with(
        ClientConfig::new("test-svc", "last-svc").streaming(LASTING),
        server(ServerConfig::new("last-svc").streaming(LASTING), lasting),
    );
    let (opened, mut streams) = mpsc::channel(1);
    let peer = in_process(opens(lasting, opened));

    say(&peer, empty()).await.expect("in time");

    let mut stream = streams.recv().await.expect("it was opened");
    for _ in 0..2 {
        assert_eq!(next(&mut stream).await.expect("open").as_deref(), Some("tick"));
    }
}
