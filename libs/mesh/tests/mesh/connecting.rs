//! Connections to instances that come, go and hang.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use confab_mesh::{ListenConfig, Peer, ServerConfig, server, unsent};
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response};
use tower::ServiceExt;

use crate::{
    kit::{Strings, converse, empty, raw, say, streaming, unary},
    loopback::{Loopback, only, pool_of, promptly, quick, when},
    proxy::Proxy,
};

fn says_hello() -> Peer {
    server(ServerConfig::new("test-svc"), unary(|_| async { Ok(Response::new("hello".to_owned())) }))
}

fn holds() -> Peer {
    let echo = streaming(|request: Request<tonic::Streaming<String>>| async {
        Ok(Response::new(Box::pin(request.into_inner()) as Strings))
    });
    server(ServerConfig::new("test-svc"), echo)
}

/// A port where nothing listens: it was free a moment ago.
async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("bound")
}

#[tokio::test]
async fn without_a_connection_a_call_fails_at_once_names_whom_and_gives_the_request_back() {
    let address = nowhere().await;
    let pool = pool_of(&[address], quick()).await;
    let member = pool.members()[0].clone();
    assert!(!member.up);
    assert_eq!(*member.id, address.to_string());

    let mut request = raw(&[]);
    request.headers_mut().insert("x-mark", "mine".parse().expect("a value"));
    let refusal = member.peer.oneshot(request).await.expect_err("nobody there");
    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(refusal.message(), format!("test-svc: no connection to {address}"));
    let back = unsent::take(&refusal).expect("it was not sent");
    assert_eq!(back.headers()["x-mark"], "mine");
}

#[tokio::test]
async fn an_instance_that_dies_is_down_and_up_again_when_it_is_back() {
    let loopback = Loopback::start(says_hello(), ListenConfig::default()).await;
    let address = loopback.address;
    let pool = pool_of(&[address], quick()).await;
    let peer = only(&pool).await;
    assert_eq!(say(&peer, empty()).await.expect("an answer").into_inner(), "hello");

    loopback.kill().await;
    when(&pool, |members| !members[0].up).await;
    assert_eq!(say(&peer, empty()).await.expect_err("dead").code(), Code::Unavailable);

    let _again = Loopback::start_at(address, says_hello(), ListenConfig::default()).await;
    when(&pool, |members| members[0].up).await;
    assert_eq!(say(&peer, empty()).await.expect("an answer").into_inner(), "hello");
}

#[tokio::test]
async fn who_accepts_connections_and_says_nothing_is_not_up() {
    // As a process that hangs: its kernel accepts for it.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut cfg = quick();
    cfg.connections = 1;
    cfg.connect_timeout = Duration::from_millis(100);
    let pool = pool_of(&[address], cfg).await;
    let watch = pool.watch();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(promptly(listener.accept()).await.expect("it tries again"));
    }
    assert!(!watch.has_changed().expect("the pool is there"), "it was up");
    assert!(!pool.members()[0].up);
}

#[tokio::test]
async fn an_instance_that_hangs_is_down_after_the_keepalive_and_its_calls_end() {
    // Everything goes through, until it is cut without a word: nothing is closed.
    let loopback = Loopback::start(
        server(ServerConfig::new("test-svc"), unary(|_| std::future::pending())),
        ListenConfig::default(),
    )
    .await;
    let proxy = Proxy::start(loopback.address).await;
    let mut cfg = quick();
    cfg.connections = 1;
    cfg.keepalive_interval = Duration::from_millis(100);
    cfg.keepalive_timeout = Duration::from_millis(100);
    let pool = pool_of(&[proxy.address], cfg).await;
    let peer = only(&pool).await;
    let call = tokio::spawn(async move { say(&peer, empty()).await });
    let uncut = Instant::now();
    while uncut.elapsed() < Duration::from_millis(500) {
        // The control: pings are answered.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(pool.members()[0].up && !call.is_finished());
    }
    proxy.swallow();
    when(&pool, |members| !members[0].up).await;
    let broken = promptly(call).await.expect("no panic").expect_err("lost");
    assert_eq!(broken.code(), Code::Unavailable, "{broken}");
    assert!(broken.message().contains(&format!("test-svc: the call to {} broke", proxy.address)), "{broken}");
}

#[tokio::test]
async fn streams_are_spread_over_the_connections() {
    let loopback = Loopback::start(holds(), ListenConfig::default()).await;
    let proxy = Proxy::start(loopback.address).await;
    let pool = pool_of(&[proxy.address], quick()).await;
    let peer = only(&pool).await;
    // Until both connections were there when the streams began.
    promptly(async {
        loop {
            when(&pool, |members| members[0].up).await;
            let mut streams = Vec::new();
            for _ in 0..10 {
                streams.push(converse(&peer, Request::new(tokio_stream::pending())).await.expect("a head"));
            }
            proxy.cut();
            if broken(&mut streams).await == 5 {
                return;
            }
        }
    })
    .await;
}

/// How many are, once one of them is: those of one connection break in one moment.
async fn broken(streams: &mut [tonic::Streaming<String>]) -> usize {
    let ends = streams.iter_mut().map(|stream| Box::pin(stream.message()));
    let (_, _, others) = promptly(futures_util::future::select_all(ends)).await;
    let mut broken = 1;
    for mut other in others {
        broken += usize::from(futures_util::poll!(&mut other).is_ready());
    }
    broken
}

#[tokio::test]
async fn the_calls_to_an_instance_are_bounded() {
    let loopback = Loopback::start(holds(), ListenConfig::default()).await;
    let mut cfg = quick();
    cfg.in_flight_max = 10;
    let pool = pool_of(&[loopback.address], cfg).await;
    let peer = only(&pool).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(converse(&peer, Request::new(tokio_stream::pending())).await.expect("a head"));
    }
    let refusal = converse(&peer, Request::new(tokio_stream::pending())).await.expect_err("too many");
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("in_flight_max"), "{refusal}");

    // A stream that ends makes room.
    streams.pop();
    converse(&peer, Request::new(tokio_stream::pending())).await.expect("room");
}

#[tokio::test]
async fn an_instance_is_up_only_if_it_says_that_it_serves() {
    let loopback = Loopback::start(says_hello(), ListenConfig::default()).await;
    let serves = Arc::new(AtomicBool::new(false));
    let (asked, mut questions) = mpsc::channel(100);
    let says = Arc::clone(&serves);
    let mut cfg = quick();
    cfg.health_interval = Duration::from_millis(20);
    cfg.health = Some(Arc::new(move |peer| {
        let (says, asked) = (Arc::clone(&says), asked.clone());
        Box::pin(async move {
            let answer = say(&peer, empty()).await;
            let _ = asked.try_send(());
            answer.is_ok() && says.load(Ordering::SeqCst)
        })
    }));
    let pool = pool_of(&[loopback.address], cfg).await;
    for _ in 0..3 {
        promptly(questions.recv()).await.expect("it is asked");
        assert!(!pool.members()[0].up);
    }
    serves.store(true, Ordering::SeqCst);
    when(&pool, |members| members[0].up).await;
    serves.store(false, Ordering::SeqCst);
    when(&pool, |members| !members[0].up).await;
}

#[tokio::test]
async fn with_the_pool_its_connections_end_and_its_streams_in_time() {
    let loopback = Loopback::start(holds(), ListenConfig::default()).await;
    let mut cfg = quick();
    cfg.leave_timeout = Duration::from_millis(500);
    let pool = pool_of(&[loopback.address], cfg).await;
    let peer = only(&pool).await;
    let (sender, receiver) = mpsc::channel(1);
    let mut stream = converse(&peer, Request::new(ReceiverStream::new(receiver))).await.expect("a head");
    drop(pool);

    sender.send("still here".to_owned()).await.expect("open");
    assert_eq!(promptly(stream.message()).await.expect("open").as_deref(), Some("still here"));
    promptly(stream.message()).await.expect_err("it is over now");
    let refusal = say(&peer, empty()).await.expect_err("closed");
    assert_eq!(refusal.code(), Code::Unavailable);
}
