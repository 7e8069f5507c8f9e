//! Stopping: nothing new, and nothing under way lost.

use std::time::Duration;

use confab_mesh::{
    Drain, Peer, ServerConfig,
    drain::{self, Unfinished},
    server,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response};

use crate::kit::{Strings, converse, in_process, next, raw, send, streaming};

const SECOND: Duration = Duration::from_secs(1);

fn echo(drain: Drain) -> Peer {
    let echo = streaming(|request| async { Ok(Response::new(Box::pin(request.into_inner()) as Strings)) });
    server(ServerConfig::new("test-svc").drain(drain), echo)
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_tasks_that_end() {
    let (drainer, drain) = drain::channel();
    assert!(!drain.is_started());
    let seen = drain.clone();
    let task = drain.spawn(async move {
        seen.started().await;
        tokio::time::sleep(SECOND).await;
        "ended well"
    });

    assert_eq!(drainer.drain(2 * SECOND).await, Ok(()));

    assert!(drain.is_started());
    assert!(task.is_finished());
    assert_eq!(task.await.expect("no panic"), "ended well");
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_how_many_have_not_ended_and_can_wait_again() {
    let (drainer, drain) = drain::channel();
    for seconds in [1, 3, 4] {
        drain.spawn(tokio::time::sleep(seconds * SECOND));
    }
    let unfinished = drainer.drain(2 * SECOND).await;
    assert_eq!(unfinished, Err(Unfinished { count: 2 }));
    assert_eq!(drainer.drain(3 * SECOND).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_refuses_new_calls_and_ends_running_ones() {
    let (drainer, drain) = drain::channel();
    let test_server = echo(drain.clone());
    let peer = in_process(test_server.clone());
    let (sender, receiver) = mpsc::channel(1);
    let request = Request::new(ReceiverStream::new(receiver));
    let mut running = converse(&peer, request).await.expect("not draining yet");
    let draining = tokio::spawn(async move { drainer.drain(2 * SECOND).await });
    drain.started().await;

    let refusal = send(&test_server, raw(&[])).await;
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("test-svc is draining"), "{refusal}");

    sender.send("still here".to_owned()).await.expect("open");
    let message = next(&mut running).await.expect("open");
    assert_eq!(message.as_deref(), Some("still here"));
    assert!(!draining.is_finished(), "the running call holds the drain");
    drop(sender);
    assert_eq!(next(&mut running).await.expect("a good end"), None);
    assert_eq!(draining.await.expect("no panic"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_end_is_counted() {
    let (drainer, drain) = drain::channel();
    let peer = in_process(echo(drain));
    let request = Request::new(tokio_stream::pending());
    let running = converse(&peer, request).await.expect("not draining yet");
    let unfinished = drainer.drain(SECOND).await;
    assert_eq!(unfinished, Err(Unfinished { count: 1 }));
    drop(running);
    assert_eq!(drainer.drain(SECOND).await, Ok(()));
}
