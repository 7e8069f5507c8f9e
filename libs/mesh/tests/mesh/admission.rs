//! The bound on calls in flight.

use confab_mesh::{Peer, ServerConfig, server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::kit::{Strings, converse, in_process, next, raw, send, streaming};

/// Echoes, with at most two calls in flight.
fn two_at_once() -> Peer {
    let mut cfg = ServerConfig::new("test-svc");
    cfg.in_flight_max = 2;
    let echo = streaming(|request| async { Ok(Response::new(Box::pin(request.into_inner()) as Strings)) });
    server(cfg, echo)
}

/// The head has come; the body goes on until the sender is dropped.
async fn open(peer: &Peer) -> Result<(mpsc::Sender<String>, Streaming<String>), Status> {
    let (sender, receiver) = mpsc::channel(1);
    let stream = converse(peer, Request::new(ReceiverStream::new(receiver))).await?;
    Ok((sender, stream))
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_a_call_is_refused_at_once_by_an_answer_that_names_it() {
    let peer = two_at_once();
    let _one = open(&peer).await.expect("the first");
    let _two = open(&peer).await.expect("the second");
    let started = tokio::time::Instant::now();

    let refusal = send(&peer, raw(&[])).await;

    assert_eq!(refusal.code(), Code::Unavailable);
    for word in ["test-svc", "2 calls", "in_flight_max"] {
        assert!(refusal.message().contains(word), "{refusal}");
    }
    assert_eq!(started.elapsed(), std::time::Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_kept_until_the_body_is_dropped() {
    let peer = in_process(two_at_once());
    let one = open(&peer).await.expect("the first");
    let _two = open(&peer).await.expect("the second");
    let refusal = open(&peer).await.expect_err("one too many");
    assert_eq!(refusal.code(), Code::Unavailable);

    drop(one);

    open(&peer).await.expect("the permit is back");
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_given_back_when_the_body_ends_though_it_is_held() {
    let peer = in_process(two_at_once());
    let (sender, mut stream) = open(&peer).await.expect("the first");
    let _two = open(&peer).await.expect("the second");

    drop(sender);
    assert_eq!(next(&mut stream).await.expect("a good end"), None);

    open(&peer).await.expect("the permit is back");
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_late_gives_its_permit_back() {
    let peer = in_process(two_at_once());
    for _ in 0..5 {
        let (_sender, mut stream) = open(&peer).await.expect("there are permits");
        let refusal = next(&mut stream).await.expect_err("late");
        assert_eq!(refusal.code(), Code::DeadlineExceeded);
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_the_servers_not_a_clones() {
    let peer = two_at_once();
    let _one = open(&peer.clone()).await.expect("the first");
    let _two = open(&peer.clone()).await.expect("the second");
    let refusal = open(&peer.clone()).await.expect_err("one too many");
    assert_eq!(refusal.code(), Code::Unavailable);
}
