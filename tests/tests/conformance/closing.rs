//! The table of close codes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use confab_tests::harness::client::upgrade;
use confab_tests::harness::{Client, Server, Stage};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use crate::device::{JSON, SOCKETS, Transport};
use crate::{Row, row};

pub(crate) const ROWS: &[Row] = &[
    row!("1000 1001", SOCKETS, normal),
    row!("1007 1009", SOCKETS, unfit),
    row!("4001", SOCKETS, expired),
    row!("4002", SOCKETS, violates),
    row!("4003", SOCKETS, revoked),
    row!("4004", SOCKETS, the_ninth),
    row!("4008", SOCKETS, silent),
    row!("4009", JSON, too_many_bad_frames),
];

async fn connect(stage: &Stage, transport: Transport) -> Client {
    let [user] = stage.users();
    Client::connect(stage.edge(), &stage.token(user, "default"), transport.mode()).await.unwrap()
}

async fn normal(stage: &Stage, transport: Transport) {
    connect(stage, transport).await.close().await.unwrap();

    // A server of its own leaves.
    let mut server = Server::start().await.unwrap();
    let mut client = Client::connect(server.addr(), &server.token(1), transport.mode()).await.unwrap();
    server.interrupt().unwrap();
    let reconnect = client.expect("reconnect").await.unwrap();
    assert!(reconnect["after_ms"].is_u64(), "{reconnect}");
    assert_eq!(client.expect_close().await.unwrap(), 1001);
    drop(client);
    server.wait_exit(Duration::from_secs(30)).await.unwrap();
}

async fn unfit(stage: &Stage, transport: Transport) {
    if transport == Transport::Json {
        let mut client = connect(stage, transport).await;
        let text = Frame::message(b"\xff\xfe".to_vec(), OpCode::Data(Data::Text), true);
        client.send_raw(Message::Frame(text)).await.unwrap();
        assert_eq!(client.expect_close().await.unwrap(), 1007);
    }
    let mut client = connect(stage, transport).await;
    let huge = vec![b'x'; 1024 * 1024 + 1];
    // The server may close before it has read all of it.
    let _cut_off = client.send_raw(Message::binary(huge)).await;
    assert_eq!(client.expect_close().await.unwrap(), 1009);
}

async fn expired(stage: &Stage, transport: Transport) {
    let [user] = stage.users();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // It has expired, but for the leeway of 30 s.
    let token = stage.minter().sign(&json!({"sub": user.to_string(), "exp": now - 28}));
    let mut client = Client::connect(stage.edge(), &token, transport.mode()).await.unwrap();
    assert_eq!(client.expect_close().await.unwrap(), 4001);

    let token = stage.minter().sign(&json!({"sub": user.to_string(), "exp": now - 60}));
    // By the way that browsers have: the upgrade completes.
    let subprotocol = match transport {
        Transport::Proto => "confab.v1.proto",
        _ => "confab.v1.json",
    };
    let offered = format!("{subprotocol}, bearer.{token}");
    let request = upgrade(stage.edge(), "/ws", &[("sec-websocket-protocol", &offered)]).unwrap();
    let mut client = Client::connect_raw(stage.edge(), request).await.unwrap();
    client.expect_error("UNAUTHENTICATED").await.unwrap();
    assert_eq!(client.expect_close().await.unwrap(), 4001);
}

async fn violates(stage: &Stage, transport: Transport) {
    let mut client = connect(stage, transport).await;
    let header = FrameHeader { opcode: OpCode::Data(Data::Reserved(5)), ..FrameHeader::default() };
    client.send_raw(Message::Frame(Frame::from_payload(header, "x".into()))).await.unwrap();
    assert_eq!(client.expect_close().await.unwrap(), 4002);
}

async fn revoked(stage: &Stage, transport: Transport) {
    let mut client = connect(stage, transport).await;
    let [another] = stage.users();
    client.send(&json!({"type": "auth", "token": stage.token(another, "default"), "ref": "a"})).await.unwrap();
    assert_eq!(client.expect_error("UNAUTHENTICATED").await.unwrap()["ref"], "a");
    assert_eq!(client.expect_close().await.unwrap(), 4003);
}

async fn the_ninth(stage: &Stage, transport: Transport) {
    let [user] = stage.users();
    let token = stage.token(user, "phone");
    let edge = stage.edge();
    let mut clients = Vec::new();
    for _ in 0..9 {
        clients.push(Client::connect(edge, &token, transport.mode()).await.unwrap());
    }
    assert_eq!(clients[0].expect_close().await.unwrap(), 4004);
    assert!(clients[1].until_pong().await.unwrap().is_empty());
    // Another device has eight of its own.
    let mut tablet = Client::connect(edge, &stage.token(user, "tablet"), transport.mode()).await.unwrap();
    tablet.until_pong().await.unwrap();
}

async fn silent(_: &Stage, transport: Transport) {
    let folder = tempfile::tempdir().unwrap();
    let soon = [("CONFAB_EDGE__PING_INTERVAL_SECONDS", "1"), ("CONFAB_EDGE__SILENCE_SECONDS", "2")];
    let server = Server::start_on(folder.path(), &soon, &[]).await.unwrap();
    let mut client = Client::connect(server.addr(), &server.token(1), transport.mode()).await.unwrap();
    // Who doesn't read doesn't answer pings, either.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(client.expect_close().await.unwrap(), 4008);
}

/// It takes 40 s, each frame's pause: a cluster's edge is the same.
async fn too_many_bad_frames(stage: &Stage, transport: Transport) {
    if stage.is_cluster() {
        return;
    }
    let client = connect(stage, transport).await;
    let (mut sink, mut stream) = client.into_socket().split();
    let sending = async {
        // It closes before it has read all of them.
        for _ in 0..2_100 {
            if sink.send(Message::text("{")).await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        let mut warned = 0;
        loop {
            match stream.next().await {
                Some(Ok(Message::Text(text))) => warned += usize::from(text.contains("RATE_LIMITED")),
                Some(Ok(Message::Close(close))) => return (warned, close.map(|close| u16::from(close.code))),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    };
    let (_, (warned, code)) = tokio::join!(sending, reading);
    assert_eq!((warned, code), (1, Some(4009)));
}
