//! The table of what servers say.

use std::time::Duration;

use confab_tests::harness::{Client, Server, Stage};
use serde_json::{Value, json};

use crate::device::{ALL, Device, SOCKETS, Transport};
use crate::{Row, row};

/// Numbers are told at once, or 5 s after the last ones.
const A_CHANGE: Duration = Duration::from_secs(10);

pub(crate) const ROWS: &[Row] = &[
    row!("hello", ALL, hello),
    row!("message ack", ALL, message_and_ack),
    row!("edited deleted reacted", ALL, changes),
    row!("chat", ALL, chat),
    row!("receipt", ALL, receipt),
    row!("presence", ALL, presence),
    row!("typing", ALL, typing),
    row!("history gap synced pong authed", ALL, answers),
    row!("error", ALL, error),
    row!("reconnect", SOCKETS, reconnect),
];

/// The names of a frame's fields, ascending.
fn fields(frame: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = frame.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn is_time(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    assert!(text.len() == 24 && text.ends_with('Z') && &text[19..20] == ".", "RFC 3339 with milliseconds: {value}");
}

async fn hello(stage: &Stage, transport: Transport) {
    let [user] = stage.users();
    let device = Device::open(stage, transport, user, "phone", &[]).await;
    let hello = &device.hello;
    let names = ["device", "heartbeat_ms", "limits", "server_time", "session_id", "type", "user_id"];
    assert_eq!(fields(hello), names);
    assert_eq!(
        (&hello["user_id"], &hello["device"], &hello["heartbeat_ms"]),
        (&json!(user), &json!("phone"), &json!(30_000))
    );
    assert_eq!(fields(&hello["limits"]), ["chats_max", "content_bytes", "frame_bytes", "watch_max"]);
    assert_eq!((&hello["limits"]["content_bytes"], &hello["limits"]["frame_bytes"]), (&json!(16_384), &json!(131_072)));
    is_time(&hello["server_time"]);
    uuid::Uuid::parse_str(hello["session_id"].as_str().unwrap()).unwrap();
}

async fn group<'a>(stage: &'a Stage, transport: Transport) -> (u64, Device<'a>, Device<'a>) {
    let [one, two] = stage.users();
    let chat = stage.group(one, &[two]).await.unwrap();
    let one = Device::open(stage, transport, one, "phone", &[(chat, 1)]).await;
    let two = Device::open(stage, transport, two, "phone", &[(chat, 1)]).await;
    (chat, one, two)
}

async fn message_and_ack(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = group(stage, transport).await;
    one.say(json!({"type": "message", "chat_id": chat, "content": "Hello!", "client_id": "c", "ref": "r"})).await;
    let ack = one.expect("ack").await;
    assert_eq!(fields(&ack), ["chat_id", "client_id", "created_at", "message_id", "ref", "seq", "type"]);
    assert_eq!((&ack["client_id"], &ack["ref"], &ack["seq"]), (&json!("c"), &json!("r"), &json!(2)));
    let message = two.message_at(chat, 2).await;
    let names = ["chat_id", "content", "created_at", "message_id", "n", "sender_id", "seq", "type"];
    assert_eq!(fields(&message), names);
    assert_eq!((&message["sender_id"], &message["content"]), (&json!(one.user), &json!("Hello!")));
    assert_eq!((&message["message_id"], &message["created_at"]), (&ack["message_id"], &ack["created_at"]));
    is_time(&message["created_at"]);
    assert_eq!(uuid::Uuid::parse_str(message["message_id"].as_str().unwrap()).unwrap().get_version_num(), 7);
    // To every device of every member, the sending connection too, and only there with the sender's own key.
    let own = one.message_at(chat, 2).await;
    assert_eq!((&own["client_id"], &own["message_id"]), (&json!("c"), &ack["message_id"]));
}

async fn changes(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = group(stage, transport).await;
    let seq = one.message(chat, "Hello!").await;
    let common = ["chat_id", "created_at", "message_id", "n", "seq", "target", "type", "user_id"];
    let steps = [
        (json!({"type": "edit", "content": "Hello, all!"}), "edited", &["content"][..]),
        (json!({"type": "react", "emoji": "👍"}), "reacted", &["emoji", "removed"]),
        (json!({"type": "delete"}), "deleted", &[]),
    ];
    for (mut frame, kind, more) in steps {
        (frame["chat_id"], frame["target"]) = (json!(chat), json!(seq));
        one.put(frame).await;
        let told = two.expect(kind).await;
        let mut names: Vec<&str> = common.iter().chain(more).copied().collect();
        names.sort_unstable();
        assert_eq!(fields(&told), names, "{told}");
        assert_eq!((&told["target"], &told["user_id"]), (&json!(seq), &json!(one.user)));
        is_time(&told["created_at"]);
        let own = one.expect(kind).await;
        assert!(own["client_id"].is_string() && own["seq"] == told["seq"], "{own}");
    }
}

async fn chat(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = group(stage, transport).await;
    let [three] = stage.users();
    let mut three = Device::open(stage, transport, three, "phone", &[]).await;
    let path = format!("/v1/chats/{chat}");
    let members = format!("{path}/members");
    let member = |user: u64| format!("{members}/{user}");
    let steps = [
        ("POST", members.clone(), Some(json!({"members": [three.user]})), 200, "added"),
        ("PATCH", member(three.user), Some(json!({"role": "admin"})), 204, "role"),
        ("PATCH", path.clone(), Some(json!({"title": "renamed"})), 200, "renamed"),
        ("DELETE", member(two.user), None, 204, "removed"),
        ("DELETE", path.clone(), None, 204, "deleted"),
    ];
    let is = |event: &'static str| {
        move |frame: &Value| frame["type"] == "chat" && frame["event"] == event && frame["chat_id"] == chat
    };
    for (method, path, body, status, event) in steps {
        let answer = stage.http(one.user, method, &path, body).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let told = one.expect_where(event, is(event)).await;
        is_time(&told["created_at"]);
        assert_eq!((&told["by"], &told["kind"]), (&json!(one.user), &json!("group")), "{told}");
        // Who was removed is told that, and nothing more.
        if event != "deleted" {
            assert_eq!(two.expect_where(event, is(event)).await, told);
        }
        assert_eq!(three.expect_where(event, is(event)).await, told);
        let expected = match event {
            "added" => json!([[three.user], 3, null, null]),
            "role" => json!([[three.user], 3, null, "admin"]),
            "renamed" => json!([null, 3, "renamed", null]),
            "removed" => json!([[two.user], 2, null, null]),
            _ => json!([null, 0, null, null]),
        };
        assert_eq!(json!([told["user_ids"], told["members"], told["title"], told["role"]]), expected, "{told}");
    }
    let frames = two.so_far().await;
    assert!(
        !frames.iter().any(|frame| frame["event"] == "deleted"),
        "who was removed is told nothing more: {frames:?}"
    );
    // A new chat begins with `created`.
    let peer = three.user;
    let direct = stage.direct(one.user, peer).await.unwrap();
    let created =
        three.expect_where("created", |frame| frame["event"] == "created" && frame["chat_id"] == direct).await;
    assert_eq!((&created["kind"], &created["seq"], &created["members"]), (&json!("direct"), &json!(1), &json!(2)));
}

async fn receipt(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = group(stage, transport).await;
    let seq = one.message(chat, "Hello!").await;
    two.message_at(chat, seq).await;
    two.say(json!({"type": "read", "chat_id": chat, "seq": seq})).await;
    let told = one.expect("receipt").await;
    assert_eq!(fields(&told), ["chat_id", "delivered", "read", "type", "user_id"]);
    // Over 32 members there are numbers.
    let [first, second] = stage.users();
    let more: Vec<u64> = stage.users::<33>().into();
    let everyone: Vec<u64> = more.iter().copied().chain([second]).collect();
    let large = stage.group(first, &everyone).await.unwrap();
    let mut first = Device::open(stage, transport, first, "phone", &[(large, 1)]).await;
    let mut second = Device::open(stage, transport, second, "phone", &[(large, 1)]).await;
    let seq = first.message(large, "Hello, all!").await;
    second.message_at(large, seq).await;
    second.say(json!({"type": "read", "chat_id": large, "seq": seq})).await;
    // A poll that is between two edges misses what passes just then: it hears of the next change.
    let (mut others, mut readers) = (more.into_iter(), 1);
    let told = loop {
        let counts = |frame: &Value| frame["chat_id"] == large && frame["read_by"] == readers;
        if let Some(told) = first.within(A_CHANGE, counts).await {
            break told;
        }
        assert_eq!(transport, Transport::Poll, "a socket misses nothing");
        let (next, path) = (others.next().unwrap(), format!("/v1/chats/{large}/read"));
        assert_eq!(stage.http(next, "POST", &path, Some(json!({"seq": seq}))).await.unwrap().status, 204);
        readers += 1;
    };
    assert_eq!(fields(&told), ["chat_id", "delivered_by", "members", "read_by", "seq", "type"]);
    assert_eq!((&told["seq"], &told["delivered_by"], &told["members"]), (&json!(seq), &json!(readers), &json!(35)));
    // Who was away asks.
    let path = format!("/v1/chats/{large}/messages/{seq}/receipts");
    let list = stage.http(first.user, "GET", &path, None).await.unwrap().json().unwrap();
    let items = list["items"].as_array().unwrap();
    let of_second = items.iter().find(|item| item["user_id"] == second.user).unwrap();
    assert_eq!(of_second, &json!({"user_id": second.user, "delivered": true, "read": true}));
    assert_eq!(items.len(), 34);
}

async fn presence(stage: &Stage, transport: Transport) {
    let (_chat, mut one, two) = group(stage, transport).await;
    one.say(json!({"type": "watch", "user_ids": [two.user]})).await;
    let is = |status: &'static str| move |frame: &Value| frame["type"] == "presence" && frame["status"] == status;
    let online = one.expect_where("online", is("online")).await;
    assert_eq!(fields(&online), ["status", "type", "user_id"]);
    let user = two.user;
    drop(two);
    let offline = one.until("offline", is("offline")).await;
    assert_eq!((&offline["user_id"], fields(&offline)), (&json!(user), vec!["last_seen", "status", "type", "user_id"]));
    is_time(&offline["last_seen"]);
}

async fn typing(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = group(stage, transport).await;
    one.say(json!({"type": "typing", "chat_id": chat})).await;
    let told = two.expect("typing").await;
    assert_eq!(told, json!({"type": "typing", "chat_id": chat, "user_id": one.user}));
}

async fn answers(stage: &Stage, transport: Transport) {
    let (chat, mut one, two) = group(stage, transport).await;
    assert_eq!(fields(&two.synced), ["chats", "type"]);
    one.say(json!({"type": "history", "chat_id": chat, "ref": "h"})).await;
    let history = one.expect("history").await;
    assert_eq!(fields(&history), ["chat_id", "events", "more", "ref", "type"]);
    one.say(json!({"type": "ping"})).await;
    assert_eq!(one.expect("pong").await, json!({"type": "pong"}));
    one.say(json!({"type": "auth", "token": stage.token(one.user, "phone")})).await;
    assert_eq!(fields(&one.expect("authed").await), ["expires_at", "type"]);
    // More than 1,000 events: a gap, then the newest 1,000.
    one.messages(chat, 1_005).await;
    let mut late = Device::open(stage, transport, two.user, "phone", &[(chat, 1)]).await;
    let gap = late.expect("gap").await;
    assert_eq!(gap, json!({"type": "gap", "chat_id": chat, "from": 2, "to": 6}));
    late.message_at(chat, 7).await;
    late.message_at(chat, 1_006).await;
    assert_eq!(late.synced["chats"][chat.to_string()], 1_006);
}

async fn error(stage: &Stage, transport: Transport) {
    let [user] = stage.users();
    let mut device = Device::open(stage, transport, user, "phone", &[]).await;
    device.say(json!({"type": "message", "chat_id": 999_999, "content": "x", "client_id": "c", "ref": "r"})).await;
    let error = device.expect("error").await;
    let names = ["client_id", "code", "field", "message", "ref", "retry_after_ms", "retryable", "type"];
    assert_eq!(fields(&error), names);
    assert_eq!(
        (&error["code"], &error["field"], &error["client_id"]),
        (&json!("NOT_MEMBER"), &json!("chat_id"), &json!("c"))
    );
    assert_eq!((&error["retryable"], &error["retry_after_ms"]), (&json!(false), &Value::Null));
}

/// The close codes' row has one that leaves; here is what it is served until then.
async fn reconnect(_: &Stage, transport: Transport) {
    let server = Server::start().await.unwrap();
    let [one, two] = [1, 2].map(|user| server.token(user));
    let mut one = Client::connect(server.addr(), &one, transport.mode()).await.unwrap();
    let mut two = Client::connect(server.addr(), &two, transport.mode()).await.unwrap();
    for client in [&mut one, &mut two] {
        client.sync(&[(1, 1)]).await.unwrap();
    }
    server.interrupt().unwrap();
    let after: Vec<u64> = [
        one.expect("reconnect").await.unwrap()["after_ms"].as_u64().unwrap(),
        two.expect("reconnect").await.unwrap()["after_ms"].as_u64().unwrap(),
    ]
    .into();
    assert_ne!(after[0], after[1], "staggered");
    // It is served until its time has come, and half a second more.
    one.say(1, "goodbye").await.unwrap();
    assert_eq!(two.expect_message(1).await.unwrap()["content"], "goodbye");
    assert_eq!(one.expect_close().await.unwrap(), 1001);
}
