//! Serving over real connections.

use std::{sync::Arc, time::Duration};

use confab_mesh::{
    Identity, ListenConfig, Peer, PeerCertificates, ServerConfig,
    drain::{self, Drainer},
    route, serve, server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response};

use crate::{
    certificates::Certificates,
    kit::{Strings, converse, empty, next, raw, say, send, streaming, unary},
    loopback::{Loopback, only, pool_of, promptly, quick},
};

fn echo() -> Peer {
    server(
        ServerConfig::new("test-svc"),
        streaming(|request: Request<tonic::Streaming<String>>| async {
            Ok(Response::new(Box::pin(request.into_inner()) as Strings))
        }),
    )
}

fn says(what: &'static str) -> Peer {
    server(ServerConfig::new("test-svc"), unary(move |_| async move { Ok(Response::new(what.to_owned())) }))
}

/// A stream that is open until the sender is dropped, and has carried a word.
async fn open_stream(peer: &Peer) -> (mpsc::Sender<String>, tonic::Streaming<String>) {
    let (sender, receiver) = mpsc::channel(1);
    sender.send("one".to_owned()).await.expect("open");
    let mut stream = converse(peer, Request::new(ReceiverStream::new(receiver))).await.expect("a head");
    assert_eq!(next(&mut stream).await.expect("open").as_deref(), Some("one"));
    (sender, stream)
}

async fn carries(sender: &mpsc::Sender<String>, stream: &mut tonic::Streaming<String>) {
    sender.send("still here".to_owned()).await.expect("open");
    assert_eq!(next(stream).await.expect("open").as_deref(), Some("still here"));
}

#[tokio::test]
async fn services_are_told_apart_by_their_names() {
    let routed = route([("confab.test.v1.Test", says("test")), ("confab.test.v1.Other", says("other"))]);
    let loopback = Loopback::start(routed, ListenConfig::default()).await;
    let pool = pool_of(&[loopback.address], quick()).await;
    let peer = only(&pool).await;

    assert_eq!(say(&peer, empty()).await.expect("an answer").into_inner(), "test");
    for unknown in ["/confab.test.v1.Tes/Say", "/confab.test.v1/Test/Say", "/healthz", "/"] {
        let mut request = raw(&[]);
        *request.uri_mut() = unknown.parse().expect("a path");
        let refusal = send(&peer, request).await;
        assert_eq!(refusal.code(), Code::Unimplemented, "{unknown}: {refusal}");
    }
}

#[tokio::test]
async fn a_drain_ends_with_the_last_call_that_was_under_way() {
    let loopback = Loopback::start(echo(), ListenConfig::default()).await;
    let pool = pool_of(&[loopback.address], quick()).await;
    let peer = only(&pool).await;
    let (sender, mut stream) = open_stream(&peer).await;

    let Loopback { drainer, served, address } = loopback;
    let _ = drainer.drain(Duration::ZERO).await;
    // The listener closes, and the connections take no more calls.
    crate::loopback::when(&pool, |members| !members[0].up).await;
    assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    carries(&sender, &mut stream).await;
    assert!(!served.is_finished(), "a call is under way");

    drop(sender);
    assert_eq!(next(&mut stream).await.expect("a good end"), None);
    promptly(served).await.expect("no panic");
}

#[tokio::test]
async fn an_old_connection_takes_no_new_calls_and_keeps_its_streams() {
    let cfg = ListenConfig { connection_age_max: Duration::from_millis(100), ..ListenConfig::default() };
    let loopback = Loopback::start(echo(), cfg).await;
    let mut cfg = quick();
    cfg.connections = 1;
    let pool = pool_of(&[loopback.address], cfg).await;
    let peer = only(&pool).await;
    let (sender, mut stream) = open_stream(&peer).await;
    crate::loopback::when(&pool, |members| !members[0].up).await;
    crate::loopback::when(&pool, |members| members[0].up).await;
    carries(&sender, &mut stream).await;
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_and_there_is_room_again_when_one_ends() {
    let cfg = ListenConfig { connections_max: 1, ..ListenConfig::default() };
    let loopback = Loopback::start(echo(), cfg).await;
    let mut first = TcpStream::connect(loopback.address).await.expect("it listens");
    // The server's side of it says something: so it was accepted, and holds the one place.
    first.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("open");
    promptly(first.read_u8()).await.expect("a settings frame");

    let mut second = TcpStream::connect(loopback.address).await.expect("it listens");
    let read = promptly(second.read(&mut [0; 16])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "not closed: {read:?}");

    drop(first);
    let pool = pool_of(&[loopback.address], quick()).await;
    only(&pool).await;
}

#[tokio::test]
async fn a_client_that_does_not_begin_holds_up_nobody_and_is_closed() {
    for tls in [false, true] {
        let mut cfg = ListenConfig { handshake_timeout: Duration::from_millis(300), ..ListenConfig::default() };
        let certificates = Certificates::make();
        cfg.tls = tls.then(|| certificates.server());
        let loopback = Loopback::start(echo(), cfg).await;
        let mut silent = TcpStream::connect(loopback.address).await.expect("it listens");

        let mut cfg = quick();
        cfg.tls = tls.then(|| certificates.client(None));
        let pool = pool_of(&[loopback.address], cfg).await;
        let peer = only(&pool).await;
        open_stream(&peer).await;
        let read = promptly(silent.read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "not closed: {read:?}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stalls_no_other_call() {
    // Reads nothing of what streams send it, but answers heads.
    let stuck = server(
        ServerConfig::new("test-svc").streaming(&["Converse"]),
        streaming(|request: Request<tonic::Streaming<String>>| async move {
            let unread = request.into_inner();
            let stream = futures_util::stream::once(async move {
                let () = std::future::pending().await;
                drop(unread);
                Ok(String::new())
            });
            Ok(Response::new(Box::pin(stream) as Strings))
        }),
    );
    let routed = route([("confab.test.v1.Test", stuck), ("confab.test.v1.Other", says("other"))]);
    let loopback = Loopback::start(routed, ListenConfig::default()).await;
    let mut cfg = quick();
    cfg.connections = 1;
    let pool = pool_of(&[loopback.address], cfg).await;
    let peer = only(&pool).await;
    let mut streams = Vec::new();
    for _ in 0..200 {
        let words = tokio_stream::iter(std::iter::repeat_with(|| "a".repeat(16 * 1024)));
        streams.push(converse(&peer, Request::new(words)).await.expect("a head"));
    }
    let mut request = raw(&[]);
    *request.uri_mut() = "/confab.test.v1.Other/Say".parse().expect("a path");
    assert_eq!(promptly(send(&peer, request)).await.code(), Code::Ok);
}

#[tokio::test]
async fn with_tls_the_clients_certificate_reaches_the_service_and_new_ones_need_no_restart() {
    let shows = server(
        ServerConfig::new("test-svc"),
        unary(|request: Request<String>| async move {
            let shown = request.extensions().get::<PeerCertificates>();
            let length = shown.map_or(0, |chain| chain.chain()[0].len());
            let name = Identity::of(&request).map_or_else(|| "nobody".to_owned(), ToString::to_string);
            Ok(Response::new(format!("{name} {length}")))
        }),
    );
    let certificates = Certificates::make();
    let cfg = ListenConfig { tls: Some(certificates.server()), ..ListenConfig::default() };
    let loopback = Loopback::start(shows, cfg).await;
    let current = Arc::new(std::sync::Mutex::new(None));
    for shown in [None, Some(Certificates::make())] {
        let expected = shown
            .as_ref()
            .map_or_else(|| "nobody 0".to_owned(), |own| format!("test-svc/1 {}", own.certificate().len()));
        *current.lock().expect("not poisoned") = shown.map(|own| Arc::new(own.pair()));
        let mut cfg = quick();
        cfg.tls = Some(certificates.client(Some(Arc::clone(&current))));
        let pool = pool_of(&[loopback.address], cfg).await;
        let peer = only(&pool).await;
        let answer = say(&peer, empty()).await.expect("an answer").into_inner();
        assert_eq!(answer, expected);
    }

    // A server whose certificate is another's is not connected to.
    let mut cfg = quick();
    cfg.tls = Some(Certificates::make().client(None));
    let pool = pool_of(&[loopback.address], cfg).await;
    let refusal = say(&pool.members()[0].peer, empty()).await.expect_err("no connection");
    assert_eq!(refusal.code(), Code::Unavailable);
}

#[tokio::test]
async fn when_serving_is_dropped_its_connections_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (_drainer, drain): (Drainer, _) = drain::channel();
    let serving = tokio::spawn(async move { serve(listener, echo(), ListenConfig::default(), &drain).await });
    let pool = pool_of(&[address], quick()).await;
    let peer = only(&pool).await;
    let (_sender, mut stream) = open_stream(&peer).await;
    serving.abort();
    let broken = promptly(next(&mut stream)).await.expect_err("lost");
    assert_eq!(broken.code(), Code::Unavailable);
    assert!(broken.message().contains("test-svc") && broken.message().contains(&address.to_string()), "{broken}");
}
