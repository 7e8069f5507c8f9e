//! What a service says goes through both stacks as it is.

use confab_mesh::{ClientConfig, Peer, ServerConfig, client, server};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use crate::kit::{Strings, converse, empty, in_process, say, streaming, unary};

fn refusal() -> Status {
    let mut status = Status::with_details(
        Code::FailedPrecondition,
        "chat 7 has moved: ask “b”",
        bytes::Bytes::from_static(b"\x08\x01"),
    );
    let metadata = status.metadata_mut();
    metadata.insert("x-owner", "b".parse().expect("ascii"));
    status
}

fn assert_is_the_refusal(status: &Status) {
    assert_eq!(status.code(), refusal().code());
    assert_eq!(status.message(), refusal().message());
    assert_eq!(status.details(), refusal().details());
    assert_eq!(status.metadata().get("x-owner"), refusal().metadata().get("x-owner"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_and_a_refusal_come_through() {
    let picky = unary(|request: Request<String>| async move {
        match request.get_ref().as_str() {
            "please" => Ok(Response::new("here".to_owned())),
            _ => Err(refusal()),
        }
    });
    let peer = in_process(server(ServerConfig::new("test-svc"), picky));

    let answer = say(&peer, Request::new("please".to_owned())).await;
    assert_eq!(answer.expect("an answer").get_ref(), "here");
    let status = say(&peer, empty()).await;
    assert_is_the_refusal(&status.expect_err("refused"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_midway_says_so_after_what_it_said() {
    let fails = streaming(|_| async {
        let stream = tokio_stream::iter([Ok("one".to_owned()), Err(refusal())]);
        Ok(Response::new(Box::pin(stream) as Strings))
    });
    let peer = in_process(server(ServerConfig::new("test-svc"), fails));
    let request = Request::new(tokio_stream::empty());
    let mut stream = converse(&peer, request).await.expect("a head");
    assert_eq!(stream.next().await.expect("one").expect("ok"), "one");
    let status = stream.next().await.expect("a status");
    assert_is_the_refusal(&status.expect_err("refused"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_reached_is_a_status_too() {
    let gone = Peer::new(service_fn(|_| async {
        Err::<http::Response<tonic::body::Body>, _>(Status::unavailable("no endpoint"))
    }));
    let peer = client(ClientConfig::new("edge", "test-svc"), gone);
    let status = say(&peer, empty()).await.expect_err("gone");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "no endpoint"));
}
