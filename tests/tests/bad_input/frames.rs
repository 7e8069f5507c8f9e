//! The table of bad frames.

use confab_tests::harness::{Client, Server};
use serde_json::{Value, json};

/// A frame that must be refused.
struct Bad {
    text: String,
    /// Any of these codes.
    codes: &'static [&'static str],
    /// What `field` must be; `None`: anything.
    field: Option<&'static str>,
}

const INVALID: &[&str] = &["INVALID_FRAME"];
const OVER_2_53: u64 = 1 << 53;

/// What can't be read at all.
fn unreadable() -> Vec<Bad> {
    let texts = [
        "",
        "hello",
        "{",
        "{\"type\":",
        "null",
        "[]",
        "42",
        "\"ping\"",
        "{\"type\":\"ping\"} and more",
        "{'type':'ping'}",
    ];
    let mut rows: Vec<Bad> =
        texts.iter().map(|text| Bad { text: (*text).to_owned(), codes: INVALID, field: None }).collect();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let inner = if close == "}" { "1" } else { "" };
        let nested = format!("{}{inner}{}", open.repeat(10_000), close.repeat(10_000));
        let text = format!("{{\"type\":\"message\",\"chat_id\":1,\"content\":{nested}}}");
        rows.push(Bad { text, codes: INVALID, field: None });
    }
    rows
}

fn bad(codes: &'static [&'static str], field: &'static str, frame: &Value) -> Bad {
    Bad { text: frame.to_string(), codes, field: Some(field) }
}

fn wrong_messages(not_mine: u64) -> Vec<Bad> {
    let mut rows = Vec::new();
    let message = |key: &str, value: Value| {
        let mut frame = json!({"type": "message", "chat_id": 1, "content": "x", "media_url": null, "ref": "bad"});
        frame[key] = value;
        frame
    };
    for chat in
        [json!("1"), json!(null), json!(-1), json!(1.5), json!(OVER_2_53), json!(u64::MAX), json!([1]), json!(true)]
    {
        rows.push(bad(INVALID, "chat_id", &message("chat_id", chat)));
    }
    let too_big: Value = serde_json::from_str("1e300").unwrap();
    rows.push(bad(INVALID, "chat_id", &message("chat_id", too_big)));
    rows.push(bad(INVALID, "chat_id", &json!({"type": "message", "content": "x", "ref": "bad"})));
    rows.push(bad(&["NOT_MEMBER"], "chat_id", &message("chat_id", json!(999_999_999))));
    rows.push(bad(&["NOT_MEMBER"], "chat_id", &message("chat_id", json!(OVER_2_53 - 1))));
    rows.push(bad(&["NOT_MEMBER"], "chat_id", &message("chat_id", json!(not_mine))));
    for content in [json!(7), json!(null), json!(""), json!({"text": "x"}), json!(["x"])] {
        rows.push(bad(INVALID, "content", &message("content", content)));
    }
    rows.push(bad(INVALID, "content", &json!({"type": "message", "chat_id": 1, "ref": "bad"})));
    let over = &["INVALID_FRAME", "TOO_LARGE"];
    rows.push(bad(over, "content", &message("content", json!("x".repeat(16 * 1024 + 1)))));
    rows.push(bad(over, "content", &message("content", json!("é".repeat(8 * 1024) + "x"))));
    rows.push(bad(INVALID, "client_id", &message("client_id", json!("c".repeat(65)))));
    rows.push(bad(INVALID, "client_id", &message("client_id", json!(5))));
    rows.push(bad(INVALID, "media_url", &message("media_url", json!("http://example.org/plain.png"))));
    rows.push(bad(INVALID, "media_url", &message("media_url", json!("javascript:alert(1)"))));
    rows.push(bad(
        INVALID,
        "media_url",
        &message("media_url", json!(format!("https://example.org/{}", "u".repeat(2_048)))),
    ));
    rows.push(bad(INVALID, "media_url", &message("media_url", json!(7))));
    rows.push(bad(INVALID, "reply_to", &message("reply_to", json!(-1))));
    rows.push(bad(INVALID, "reply_to", &message("reply_to", json!("1"))));
    rows.push(bad(INVALID, "mentions", &message("mentions", json!("2"))));
    rows.push(bad(INVALID, "mentions", &message("mentions", json!([2.5]))));
    rows
}

fn wrong_others(not_mine: u64) -> Vec<Bad> {
    let mut rows = Vec::new();
    let mut add = |codes, field, frame: Value| rows.push(bad(codes, field, &frame));
    add(INVALID, "type", json!({"ref": "bad"}));
    add(INVALID, "type", json!({"type": 5, "ref": "bad"}));
    add(&["UNKNOWN_TYPE"], "type", json!({"type": "teleport", "ref": "bad"}));
    add(&["UNKNOWN_TYPE"], "type", json!({"type": "ack", "seq": 1, "ref": "bad"}));
    add(INVALID, "ref", json!({"type": "ping", "ref": "r".repeat(65)}));
    add(INVALID, "ref", json!({"type": "ping", "ref": 5}));
    for kind in ["delivered", "read"] {
        add(INVALID, "seq", json!({"type": kind, "chat_id": 1, "ref": "bad"}));
        for seq in [json!(-1), json!(0.5), json!("1"), json!(OVER_2_53)] {
            add(INVALID, "seq", json!({"type": kind, "chat_id": 1, "seq": seq, "ref": "bad"}));
        }
        add(INVALID, "message_id", json!({"type": kind, "chat_id": 1, "message_id": "not a uuid", "ref": "bad"}));
        add(&["NOT_FOUND"], "seq", json!({"type": kind, "chat_id": 1, "seq": 1_000_000, "ref": "bad"}));
        add(&["NOT_MEMBER"], "chat_id", json!({"type": kind, "chat_id": not_mine, "seq": 1, "ref": "bad"}));
    }
    add(INVALID, "chat_id", json!({"type": "typing", "ref": "bad"}));
    add(&["NOT_MEMBER"], "chat_id", json!({"type": "typing", "chat_id": not_mine, "ref": "bad"}));
    for kind in ["edit", "delete", "react"] {
        let frame = |field: &str, value: Value| {
            let mut frame =
                json!({"type": kind, "chat_id": 1, "target": 2, "content": "x", "emoji": "x", "ref": "bad"});
            frame[field] = value;
            frame
        };
        for target in [json!(null), json!(0), json!(-1), json!("2"), json!(OVER_2_53)] {
            add(INVALID, "target", frame("target", target));
        }
        add(INVALID, "chat_id", frame("chat_id", json!(null)));
        add(INVALID, "client_id", frame("client_id", json!("c".repeat(65))));
        add(&["NOT_FOUND"], "target", frame("target", json!(1_000_000)));
        add(&["NOT_MEMBER"], "chat_id", frame("chat_id", json!(not_mine)));
    }
    for content in [json!(null), json!(""), json!(7)] {
        add(INVALID, "content", json!({"type": "edit", "chat_id": 1, "target": 2, "content": content, "ref": "bad"}));
    }
    let long = json!("x".repeat(16 * 1024 + 1));
    add(&["TOO_LARGE"], "content", json!({"type": "edit", "chat_id": 1, "target": 2, "content": long, "ref": "bad"}));
    for emoji in [json!(null), json!(""), json!(7), json!("x".repeat(65))] {
        add(INVALID, "emoji", json!({"type": "react", "chat_id": 1, "target": 2, "emoji": emoji, "ref": "bad"}));
    }
    let remove = json!({"type": "react", "chat_id": 1, "target": 2, "emoji": "x", "remove": 1, "ref": "bad"});
    add(INVALID, "remove", remove);
    for chats in [
        json!([1]),
        json!("1"),
        json!({"one": 1}),
        json!({"1": "1"}),
        json!({"1": -1}),
        json!({"-1": 1}),
        json!({"1": 1.5}),
    ] {
        add(INVALID, "chats", json!({"type": "sync", "chats": chats, "ref": "bad"}));
    }
    for limit in [json!(201), json!(-1), json!(1.5), json!("50")] {
        add(INVALID, "limit", json!({"type": "history", "chat_id": 1, "limit": limit, "ref": "bad"}));
    }
    add(INVALID, "before", json!({"type": "history", "chat_id": 1, "before": -1, "ref": "bad"}));
    add(INVALID, "before", json!({"type": "history", "chat_id": 1, "before": OVER_2_53, "ref": "bad"}));
    add(&["NOT_MEMBER"], "chat_id", json!({"type": "history", "chat_id": not_mine, "limit": 10, "ref": "bad"}));
    for kind in ["watch", "unwatch"] {
        for users in [json!(2), json!(["2"]), json!([-2]), json!([2.5])] {
            add(INVALID, "user_ids", json!({"type": kind, "user_ids": users, "ref": "bad"}));
        }
    }
    add(&["FORBIDDEN"], "user_ids", json!({"type": "watch", "user_ids": [2, 777_777], "ref": "bad"}));
    add(INVALID, "token", json!({"type": "auth", "ref": "bad"}));
    add(INVALID, "token", json!({"type": "auth", "token": 7, "ref": "bad"}));
    rows
}

/// Sends one bad frame on its own connection, then a good one.
async fn refuse(server: &Server, row: &Bad) -> Result<(), String> {
    let explain = |error: anyhow::Error| format!("{error:#}");
    let mut client = server.connect(1).await.map_err(explain)?;
    client.send_raw(row.text.as_str().into()).await.map_err(explain)?;
    let error = client.expect("error").await.map_err(explain)?;
    if !row.codes.iter().any(|code| error["code"] == *code) {
        return Err(format!("expected one of {:?}, got {error}", row.codes));
    }
    if row.field.is_some_and(|field| error["field"] != field) {
        return Err(format!("expected the field {:?}, got {error}", row.field));
    }
    if error["message"].as_str().is_none_or(str::is_empty) {
        return Err(format!("no message in words: {error}"));
    }
    if row.text.contains("\"ref\":\"bad\"") && error["ref"] != "bad" {
        return Err(format!("the ref isn't echoed: {error}"));
    }
    still_good(&mut client).await.map_err(|error| format!("the next frame: {error:#}"))
}

async fn still_good(client: &mut Client) -> anyhow::Result<()> {
    let others = client.until_pong().await?;
    anyhow::ensure!(others.is_empty(), "a second answer to one frame: {others:?}");
    client.say(1, "a good one").await?;
    Ok(())
}

async fn run(server: &Server, rows: Vec<Bad>) {
    let mut wrong = Vec::new();
    let count = rows.len();
    for row in rows {
        if let Err(why) = refuse(server, &row).await {
            let shown: String = row.text.chars().take(120).collect();
            wrong.push(format!("{shown}\n      {why}"));
        }
    }
    println!("{count} bad frames, {} answered wrongly", wrong.len());
    assert!(wrong.is_empty(), "{} of {count} answered wrongly:\n  - {}", wrong.len(), wrong.join("\n  - "));
}

#[tokio::test]
async fn unreadable_frames() {
    let server = Server::start().await.unwrap();
    run(&server, unreadable()).await;
}

#[tokio::test]
async fn wrong_message_frames() {
    let server = Server::start().await.unwrap();
    let not_mine = server.create_group(5, &[6]).await.unwrap();
    run(&server, wrong_messages(not_mine)).await;
}

#[tokio::test]
async fn other_wrong_frames() {
    let server = Server::start().await.unwrap();
    let not_mine = server.create_group(5, &[6]).await.unwrap();
    run(&server, wrong_others(not_mine)).await;
}

#[tokio::test]
async fn frames_of_later_issues_say_unimplemented() {
    let server = Server::start().await.unwrap();
    let frames = [json!({"type": "message", "chat_id": 1, "content": "", "media_id": "m"})];
    let rows = frames.map(|frame| Bad { text: frame.to_string(), codes: &["UNIMPLEMENTED"], field: None });
    run(&server, rows.into()).await;
}

#[tokio::test]
async fn the_largest_good_frames_are_taken() {
    let server = Server::start().await.unwrap();
    let mut client = server.connect(1).await.unwrap();
    let mut other = server.synced(2, &[(1, 0)]).await.unwrap();
    for content in
        ["x".repeat(16 * 1024), "é".repeat(8 * 1024), "\u{0}\u{1f}\u{7f}\u{fffd}😀".to_owned(), " ".to_owned()]
    {
        client.say(1, &content).await.unwrap();
        assert_eq!(other.expect_message(1).await.unwrap()["content"], content.as_str());
    }
    let reference = "r".repeat(64);
    client.send(&json!({"type": "ping", "ref": reference, "unknown": {"fields": ["are", "ignored"]}})).await.unwrap();
    assert_eq!(client.expect("pong").await.unwrap()["ref"], reference.as_str());
    client.say_as(1, "x", &"c".repeat(64)).await.unwrap();
    client.send(&json!({"type": "presence", "user_id": 1, "status": "online"})).await.unwrap();
    assert!(client.until_pong().await.unwrap().is_empty(), "a client's own presence is ignored");
}
