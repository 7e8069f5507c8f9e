//! Below the frames: text, binary, fragments, sizes, and what violates WebSocket.

use confab_tests::harness::{Client, Incoming, Server};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

fn part(bytes: &[u8], opcode: Data, last: bool) -> Message {
    Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(opcode), last))
}

async fn client(server: &Server) -> Client {
    server.connect(1).await.unwrap()
}

#[tokio::test]
async fn binary_in_a_json_session_is_refused_and_the_connection_kept() {
    let server = Server::start().await.unwrap();
    let mut client = client(&server).await;
    client.send_raw(Message::binary(br#"{"type":"ping"}"#.to_vec())).await.unwrap();
    client.expect_error("INVALID_FRAME").await.unwrap();
    client.say(1, "a good one").await.unwrap();
}

#[tokio::test]
async fn fragments_make_one_frame_also_around_a_ping() {
    let server = Server::start().await.unwrap();
    let mut client = client(&server).await;
    let text = json!({"type": "ping", "ref": "in three parts, é cut in two"}).to_string();
    let cut = text.find('é').unwrap() + 1;
    client.send_raw(part(&text.as_bytes()[..5], Data::Text, false)).await.unwrap();
    client.send_raw(Message::Ping("between".into())).await.unwrap();
    client.send_raw(part(&text.as_bytes()[5..cut], Data::Continue, false)).await.unwrap();
    client.send_raw(part(&text.as_bytes()[cut..], Data::Continue, true)).await.unwrap();
    assert_eq!(client.expect("pong").await.unwrap()["ref"], "in three parts, é cut in two");
    client.say(1, "a good one").await.unwrap();
}

#[tokio::test]
async fn a_frame_over_128_kib_is_too_large_and_the_connection_kept() {
    let server = Server::start().await.unwrap();
    let mut client = client(&server).await;
    let limit = usize::try_from(client.hello["limits"]["frame_bytes"].as_u64().unwrap()).unwrap();
    assert_eq!(limit, 128 * 1024);
    let sized = |len: usize| {
        let bare = json!({"type": "ping", "pad": ""}).to_string().len();
        json!({"type": "ping", "pad": "p".repeat(len - bare)}).to_string()
    };
    client.send_raw(Message::text(sized(limit))).await.unwrap();
    client.expect("pong").await.unwrap();
    client.send_raw(Message::text(sized(limit + 1))).await.unwrap();
    client.expect_error("TOO_LARGE").await.unwrap();
    client.send_raw(Message::text(sized(1024 * 1024 - 1))).await.unwrap();
    client.expect_error("TOO_LARGE").await.unwrap();
    let whole = sized(limit + 100);
    let (one, two) = whole.split_at(limit / 2);
    client.send_raw(part(one.as_bytes(), Data::Text, false)).await.unwrap();
    client.send_raw(part(two.as_bytes(), Data::Continue, true)).await.unwrap();
    client.expect_error("TOO_LARGE").await.unwrap();
    client.say(1, "a good one").await.unwrap();
}

#[tokio::test]
async fn over_the_hard_limit_closes_with_1009_whole_or_in_fragments() {
    let server = Server::start().await.unwrap();
    let mut whole = client(&server).await;
    // The server may close before it has read all of it.
    let _cut_off = whole.send_raw(Message::text("x".repeat(1024 * 1024 + 1))).await;
    assert_eq!(whole.expect_close().await.unwrap(), 1009);

    let mut parts = client(&server).await;
    parts.send_raw(part(&[b'x'; 1000], Data::Text, false)).await.unwrap();
    for _ in 0..20 {
        if parts.send_raw(part(&[b'x'; 64 * 1024], Data::Continue, false)).await.is_err() {
            break;
        }
    }
    assert_eq!(parts.expect_close().await.unwrap(), 1009);
}

#[tokio::test]
async fn invalid_utf8_closes_with_1007() {
    let server = Server::start().await.unwrap();
    for bytes in [&b"{\"type\":\"\xff\xfe\"}"[..], b"\xed\xa0\x80", b"cut \xf0\x9f\x98"] {
        let mut client = client(&server).await;
        client.send_raw(part(bytes, Data::Text, true)).await.unwrap();
        assert_eq!(client.expect_close().await.unwrap(), 1007, "{bytes:?}");
    }
}

#[tokio::test]
async fn what_violates_websocket_closes_with_4002() {
    let server = Server::start().await.unwrap();
    let odd = |opcode: OpCode, bytes: usize, is_final: bool| {
        let header = FrameHeader { opcode, is_final, ..FrameHeader::default() };
        Message::Frame(Frame::from_payload(header, vec![0; bytes].into()))
    };
    let big_ping = odd(OpCode::Control(Control::Ping), 126, true);
    let cut_ping = odd(OpCode::Control(Control::Ping), 5, false);
    let reserved = odd(OpCode::Data(Data::Reserved(5)), 5, true);
    for (name, messages) in [
        ("a continuation of nothing", vec![part(b"x", Data::Continue, true)]),
        ("a new message inside a fragmented one", vec![part(b"x", Data::Text, false), part(b"y", Data::Text, true)]),
        ("a ping over 125 bytes", vec![big_ping]),
        ("a fragmented ping", vec![cut_ping]),
        ("a reserved opcode", vec![reserved]),
    ] {
        let mut client = client(&server).await;
        for message in messages {
            client.send_raw(message).await.unwrap();
        }
        assert_eq!(client.expect_close().await.unwrap_or_else(|error| panic!("{name}: {error:#}")), 4002, "{name}");
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_code() {
    let server = Server::start().await.unwrap();
    let client = client(&server).await;
    client.close().await.unwrap();
    let mut again = server.connect(1).await.unwrap();
    again.send_raw(Message::Close(None)).await.unwrap();
    assert!(!matches!(again.next().await.unwrap(), Incoming::Frame(_)));
}
