//! The table of what clients say.

use confab_tests::harness::Stage;
use serde_json::{Value, json};

use crate::device::{ALL, Device, Transport};
use crate::{Row, row};

/// Not in protobuf: seed clients speak JSON.
const TEXT: &[Transport] = &[Transport::Json, Transport::Poll];

pub(crate) const ROWS: &[Row] = &[
    row!("message", ALL, message),
    row!("delivered", ALL, delivered),
    row!("read", ALL, read),
    row!("sync", ALL, sync),
    row!("history", ALL, history),
    row!("edit delete react", ALL, changes),
    row!("typing", ALL, typing),
    row!("watch unwatch", ALL, watch),
    row!("ping", ALL, ping),
    row!("auth", ALL, auth),
    row!("presence", TEXT, presence),
];

/// Two users with a direct chat, and a device of each.
async fn pair(stage: &Stage, transport: Transport) -> (u64, Device<'_>, Device<'_>) {
    let [one, two] = stage.users();
    let chat = stage.direct(one, two).await.unwrap();
    let one = Device::open(stage, transport, one, "phone", &[(chat, 1)]).await;
    let two = Device::open(stage, transport, two, "phone", &[(chat, 1)]).await;
    (chat, one, two)
}

async fn message(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = pair(stage, transport).await;
    let frame = |content: Value, client_id: &str| json!({"type": "message", "chat_id": chat, "content": content, "client_id": client_id});
    let answer = |client_id: &'static str| {
        move |frame: &Value| matches!(frame["type"].as_str(), Some("ack" | "error")) && frame["client_id"] == client_id
    };
    one.say(frame(json!("Hello!"), "a")).await;
    let first = one.expect_where("the ack", answer("a")).await;
    assert_eq!((&first["type"], &first["seq"], &first["duplicate"]), (&json!("ack"), &json!(2), &Value::Null));
    // A repeat gets the first result; with another body it is a conflict.
    one.say(frame(json!("Hello!"), "a")).await;
    let again = one.expect_where("the ack", answer("a")).await;
    assert_eq!(
        (&again["message_id"], &again["seq"], &again["duplicate"]),
        (&first["message_id"], &json!(2), &json!(true))
    );
    one.say(frame(json!("Goodbye!"), "a")).await;
    assert_eq!(one.expect_where("the refusal", answer("a")).await["code"], "CONFLICT");
    // Bounds: 16 KiB of UTF-8, and not empty without media.
    one.say(frame(json!("x".repeat(16 * 1024)), "b")).await;
    assert_eq!(one.expect_where("the ack", answer("b")).await["seq"], 3);
    one.say(frame(json!("x".repeat(16 * 1024 + 1)), "c")).await;
    let refused = one.expect_where("the refusal", answer("c")).await;
    assert_eq!((&refused["code"], &refused["field"]), (&json!("TOO_LARGE"), &json!("content")));
    one.say(frame(json!(""), "d")).await;
    let refused = one.expect_where("the refusal", answer("d")).await;
    assert_eq!((&refused["code"], &refused["field"]), (&json!("INVALID_FRAME"), &json!("content")));
    let mut with_media = frame(json!(""), "e");
    with_media["media_url"] = json!("https://example.org/picture");
    one.say(with_media).await;
    assert_eq!(one.expect_where("the ack", answer("e")).await["seq"], 4);
    let mut unfit = frame(json!("x"), "f");
    unfit["media_url"] = json!("http://example.org/picture");
    one.say(unfit).await;
    assert_eq!(one.expect_where("the refusal", answer("f")).await["field"], "media_url");
    // What it may name.
    let mut reply = frame(json!("indeed"), "g");
    (reply["reply_to"], reply["mentions"]) = (json!(2), json!([two.user]));
    one.say(reply).await;
    assert_eq!(one.expect_where("the ack", answer("g")).await["seq"], 5);
    let mut beyond = frame(json!("x"), "h");
    beyond["reply_to"] = json!(99);
    one.say(beyond).await;
    assert_eq!(one.expect_where("the refusal", answer("h")).await["field"], "reply_to");
    let mut elsewhere = frame(json!("x"), "i");
    elsewhere["chat_id"] = json!(999_999);
    one.say(elsewhere).await;
    assert_eq!(one.expect_where("the refusal", answer("i")).await["code"], "NOT_MEMBER");

    let hello = two.message_at(chat, 2).await;
    assert_eq!((&hello["content"], &hello["client_id"]), (&json!("Hello!"), &Value::Null));
    assert_eq!(two.message_at(chat, 4).await["media_url"], "https://example.org/picture");
    let reply = two.message_at(chat, 5).await;
    assert_eq!((&reply["reply_to"], &reply["mentions"]), (&json!(2), &json!([two.user])));
    let frames = two.so_far().await;
    assert!(!frames.iter().any(|frame| frame["type"] == "message" && frame["seq"] != 3), "{frames:?}");
}

fn receipt(chat: u64, delivered: u64, read: u64) -> impl Fn(&Value) -> bool {
    move |frame: &Value| {
        let is = |name: &str, value: u64| frame[name] == value;
        frame["type"] == "receipt" && is("chat_id", chat) && is("delivered", delivered) && is("read", read)
    }
}

async fn delivered(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = pair(stage, transport).await;
    one.message(chat, "first").await;
    let second = one.message(chat, "second").await;
    let message = two.message_at(chat, second).await;
    two.say(json!({"type": "delivered", "chat_id": chat, "message_id": message["message_id"]})).await;
    // By a poll the sender's own receipt is the same, for asking again confirms.
    let theirs = |frame: &Value| frame["user_id"] == two.user && receipt(chat, second, 0)(frame);
    one.expect_where("the receipt", theirs).await;
    // Cumulative: a lower one changes nothing. Beyond the head there is nothing.
    two.say(json!({"type": "delivered", "chat_id": chat, "seq": 2})).await;
    two.say(json!({"type": "delivered", "chat_id": chat, "seq": 99, "ref": "far"})).await;
    assert_eq!(two.expect_error("far").await["code"], "NOT_FOUND");
    two.say(json!({"type": "delivered", "chat_id": chat, "ref": "what"})).await;
    assert_eq!(two.expect_error("what").await["field"], "seq");
    // What it has confirmed does not come again to this device, but does to another one's.
    let mut again = Device::open(stage, transport, two.user, "phone", &[]).await;
    let frames = again.so_far().await;
    assert!(!frames.iter().any(|frame| frame["type"] == "message"), "{frames:?}");
}

async fn read(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = pair(stage, transport).await;
    let mut tablet = Device::open(stage, transport, two.user, "tablet", &[(chat, 1)]).await;
    tablet.say(json!({"type": "delivered", "chat_id": chat, "seq": 1})).await;
    let seq = one.message(chat, "hello").await;
    two.message_at(chat, seq).await;
    two.say(json!({"type": "read", "chat_id": chat, "seq": seq})).await;
    // It implies delivered; one's own devices see it, too.
    one.expect_where("the receipt", receipt(chat, seq, seq)).await;
    let own = tablet.expect_where("its own", receipt(chat, seq, seq)).await;
    assert_eq!(own["user_id"], two.user);
    let shown = stage.http(two.user, "GET", &format!("/v1/chats/{chat}"), None).await.unwrap().json().unwrap();
    assert_eq!((&shown["read"], &shown["unread"]), (&json!(seq), &json!(0)));
}

async fn sync(stage: &Stage, transport: Transport) {
    let (chat, mut one, two) = pair(stage, transport).await;
    for number in 0..5 {
        one.message(chat, &format!("message {number}")).await;
    }
    let (user, synced) = (two.user, two.synced.clone());
    drop(two);
    assert_eq!(synced["chats"][chat.to_string()], 1);
    let mut late = Device::open(stage, transport, user, "phone", &[(chat, 3)]).await;
    assert_eq!(late.synced["chats"][chat.to_string()], 6);
    let frames = late.so_far().await;
    let seqs: Vec<&Value> =
        frames.iter().filter(|frame| frame["type"] == "message").map(|frame| &frame["seq"]).collect();
    assert_eq!(seqs, [4, 5, 6]);
    late.say(json!({"type": "sync", "chats": {}, "ref": "again"})).await;
    assert_eq!(late.expect_error("again").await["code"], "CONFLICT");
}

async fn history(stage: &Stage, transport: Transport) {
    let (chat, mut one, _two) = pair(stage, transport).await;
    for number in 0..5 {
        one.message(chat, &format!("message {number}")).await;
    }
    one.say(json!({"type": "history", "chat_id": chat, "before": 5, "limit": 2, "ref": "h"})).await;
    let page = one.expect("history").await;
    let seqs: Vec<&Value> = page["events"].as_array().unwrap().iter().map(|event| &event["seq"]).collect();
    assert_eq!((seqs, &page["more"], &page["ref"]), (vec![&json!(3), &json!(4)], &json!(true), &json!("h")));
    one.say(json!({"type": "history", "chat_id": chat, "before": 3, "limit": 200})).await;
    let page = one.expect("history").await;
    assert_eq!((page["events"].as_array().unwrap().len(), &page["more"]), (2, &json!(false)));
    assert_eq!(page["events"][0]["event"], "created");
    one.say(json!({"type": "history", "chat_id": chat, "limit": 201, "ref": "much"})).await;
    assert_eq!(one.expect_error("much").await["field"], "limit");
    one.say(json!({"type": "history", "chat_id": 999_999, "ref": "whose"})).await;
    assert_eq!(one.expect_error("whose").await["code"], "NOT_MEMBER");
}

async fn changes(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = pair(stage, transport).await;
    let (first, second) = (one.message(chat, "first").await, one.message(chat, "second").await);
    let edit =
        |target: u64, content: &str| json!({"type": "edit", "chat_id": chat, "target": target, "content": content});
    let edited = one.put(edit(first, "changed")).await;
    let told = two.expect("edited").await;
    assert_eq!((&told["seq"], &told["target"], &told["content"]), (&json!(edited), &json!(first), &json!("changed")));
    assert_eq!(told["user_id"], one.user);
    two.put(json!({"type": "react", "chat_id": chat, "target": first, "emoji": "👍"})).await;
    two.put(json!({"type": "react", "chat_id": chat, "target": first, "emoji": "👍", "remove": true})).await;
    for removed in [false, true] {
        let told = one.expect("reacted").await;
        assert_eq!(
            (&told["emoji"], &told["removed"], &told["user_id"]),
            (&json!("👍"), &json!(removed), &json!(two.user))
        );
    }
    one.put(json!({"type": "delete", "chat_id": chat, "target": second})).await;
    assert_eq!(two.expect("deleted").await["target"], second);
    // Each its refusal.
    let refusals = [
        (edit(999, "x"), "NOT_FOUND"),
        (edit(second, "x"), "NOT_FOUND"),
        (edit(first, ""), "INVALID_FRAME"),
        (json!({"type": "react", "chat_id": chat, "target": first, "emoji": "x".repeat(65)}), "INVALID_FRAME"),
        (json!({"type": "react", "chat_id": chat, "target": second, "emoji": "x"}), "NOT_FOUND"),
    ];
    for (at, (mut frame, code)) in refusals.into_iter().enumerate() {
        frame["ref"] = json!(format!("r{at}"));
        one.say(frame.clone()).await;
        assert_eq!(one.expect_error(&format!("r{at}")).await["code"], code, "{frame}");
    }
    for (at, mut frame) in
        [edit(first, "mine"), json!({"type": "delete", "chat_id": chat, "target": first})].into_iter().enumerate()
    {
        frame["ref"] = json!(format!("o{at}"));
        two.say(frame).await;
        assert_eq!(two.expect_error(&format!("o{at}")).await["code"], "FORBIDDEN");
    }
    // Read later, messages are as they are then.
    let mut late = Device::open(stage, transport, two.user, "tablet", &[(chat, 1)]).await;
    assert_eq!(late.message_at(chat, first).await["content"], "changed");
    let gone = late.message_at(chat, second).await;
    assert_eq!((&gone["deleted"], &gone["content"]), (&json!(true), &json!("")));
}

async fn typing(stage: &Stage, transport: Transport) {
    let (chat, mut one, mut two) = pair(stage, transport).await;
    one.say(json!({"type": "typing", "chat_id": chat})).await;
    one.say(json!({"type": "typing", "chat_id": chat})).await;
    let told = two.expect("typing").await;
    assert_eq!((&told["chat_id"], &told["user_id"]), (&json!(chat), &json!(one.user)));
    one.say(json!({"type": "typing", "chat_id": 999_999, "ref": "t"})).await;
    assert_eq!(one.expect_error("t").await["code"], "NOT_MEMBER");
    // By a poll it may come again, as its current state.
    if transport != Transport::Poll {
        let again = two.so_far().await;
        assert!(!again.iter().any(|frame| frame["type"] == "typing"), "at most once per 3 s: {again:?}");
    }
}

fn is_presence(user: u64, status: &'static str) -> impl Fn(&Value) -> bool {
    move |frame: &Value| frame["type"] == "presence" && frame["user_id"] == user && frame["status"] == status
}

async fn watch(stage: &Stage, transport: Transport) {
    let (_chat, mut one, two) = pair(stage, transport).await;
    let [stranger] = stage.users();
    one.say(json!({"type": "watch", "user_ids": [two.user, stranger], "ref": "w"})).await;
    let refused = one.expect_error("w").await;
    assert_eq!((&refused["code"], &refused["field"]), (&json!("FORBIDDEN"), &json!("user_ids")));
    one.expect_where("the state at once", is_presence(two.user, "online")).await;
    let many: Vec<u64> = (1..=201).collect();
    for kind in ["watch", "unwatch"] {
        one.say(json!({"type": kind, "user_ids": many, "ref": kind})).await;
        assert_eq!(one.expect_error(kind).await["code"], "TOO_LARGE");
    }
    // A second time, though only some of them may be watched, changes nothing for the others.
    one.say(json!({"type": "watch", "user_ids": [two.user, stranger], "ref": "again"})).await;
    assert_eq!(one.expect_error("again").await["code"], "FORBIDDEN");
    one.expect_where("the state again", is_presence(two.user, "online")).await;
    one.say(json!({"type": "unwatch", "user_ids": [two.user]})).await;
    one.say(json!({"type": "watch", "user_ids": [0], "ref": "nobody"})).await;
    assert_eq!(one.expect_error("nobody").await["field"], "user_ids");
}

async fn ping(stage: &Stage, transport: Transport) {
    let (_chat, mut one, _two) = pair(stage, transport).await;
    one.say(json!({"type": "ping", "ref": "p"})).await;
    assert_eq!(one.expect("pong").await["ref"], "p");
}

async fn auth(stage: &Stage, transport: Transport) {
    let (_chat, mut one, _two) = pair(stage, transport).await;
    let token = stage.token(one.user, "phone");
    one.say(json!({"type": "auth", "token": token, "ref": "a"})).await;
    let authed = one.expect("authed").await;
    assert!(authed["ref"] == "a" && authed["expires_at"].as_str().unwrap().ends_with('Z'), "{authed}");
    one.say(json!({"type": "auth", "token": "nonsense", "ref": "b"})).await;
    assert_eq!(one.expect_error("b").await["code"], "UNAUTHENTICATED");
}

async fn presence(stage: &Stage, transport: Transport) {
    let (_chat, mut one, _two) = pair(stage, transport).await;
    one.say(json!({"type": "presence", "user_id": 1, "status": "online"})).await;
    let frames = one.so_far().await;
    assert!(!frames.iter().any(|frame| frame["type"] == "error"), "ignored: {frames:?}");
}
