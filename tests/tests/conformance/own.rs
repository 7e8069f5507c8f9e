//! The table of what users set for themselves.

use confab_tests::harness::{BOUND, Stage, wait_for};
use serde_json::{Value, json};

use crate::device::{ALL, Device, Transport};
use crate::{Row, row};

/// What has no frames of its own.
const ONCE: &[Transport] = &[Transport::Json];

pub(crate) const ROWS: &[Row] =
    &[row!("settings", ALL, settings), row!("blocks", ALL, blocks), row!("mute", ONCE, mute), row!("me", ALL, me)];

async fn ok(stage: &Stage, user: u64, method: &str, path: &str, body: Option<Value>) -> Value {
    let answer = stage.http(user, method, path, body).await.unwrap();
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    if answer.status == 204 { Value::Null } else { answer.json().unwrap() }
}

async fn refused(stage: &Stage, user: u64, method: &str, path: &str, body: Value) -> (u16, Value) {
    let answer = stage.http(user, method, path, Some(body)).await.unwrap();
    (answer.status, answer.json().unwrap())
}

fn offline(user: u64) -> impl Fn(&Value) -> bool {
    move |frame| frame["type"] == "presence" && frame["user_id"] == user && frame["status"] == "offline"
}

fn online(user: u64) -> impl Fn(&Value) -> bool {
    move |frame| frame["type"] == "presence" && frame["user_id"] == user && frame["status"] == "online"
}

async fn settings(stage: &Stage, transport: Transport) {
    let [one, two] = stage.users();
    let path = "/v1/users/me/settings";
    let first = json!({"last_seen": "everyone", "preview": true, "quiet_hours": null});
    assert_eq!(ok(stage, one, "GET", path, None).await, first);
    let quiet = json!({"from": "22:00", "to": "07:00", "time_zone": "Europe/Berlin"});
    let changed = ok(stage, one, "PATCH", path, Some(json!({"preview": false, "quiet_hours": quiet}))).await;
    assert_eq!(changed, json!({"last_seen": "everyone", "preview": false, "quiet_hours": quiet}));
    assert_eq!(ok(stage, one, "PATCH", path, Some(json!({"quiet_hours": null}))).await["quiet_hours"], Value::Null);
    for (body, field) in [
        (json!({"last_seen": "friends"}), "last_seen"),
        (json!({"quiet_hours": {"from": "7", "to": "08:00", "time_zone": "UTC"}}), "quiet_hours.from"),
        (json!({"quiet_hours": {"from": "07:00", "to": "07:00", "time_zone": "UTC"}}), "quiet_hours.to"),
        (json!({"quiet_hours": {"from": "07:00", "to": "08:00", "time_zone": "Mars"}}), "quiet_hours.time_zone"),
    ] {
        let (status, problem) = refused(stage, one, "PATCH", path, body).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{problem}");
    }

    let chat = stage.direct(one, two).await.unwrap();
    let mut watcher = Device::open(stage, transport, two, "phone", &[(chat, 1)]).await;
    let watched = Device::open(stage, Transport::Json, one, "phone", &[(chat, 1)]).await;
    watcher.say(json!({"type": "watch", "user_ids": [one]})).await;
    watcher.expect_where("one is there", online(one)).await;
    ok(stage, one, "PATCH", path, Some(json!({"last_seen": "nobody"}))).await;
    watched.leave().await;
    let gone = watcher.expect_where("one has gone", offline(one)).await;
    assert_eq!(gone["last_seen"], Value::Null, "hidden: {gone}");
    let asked = format!("/v1/users/{one}/presence");
    assert_eq!(ok(stage, two, "GET", &asked, None).await["last_seen"], Value::Null);
    assert!(ok(stage, one, "GET", &asked, None).await["last_seen"].is_string(), "they see it themselves");
    ok(stage, one, "PATCH", path, Some(json!({"last_seen": "everyone"}))).await;
    let shown =
        watcher.expect_where("it is shown", |frame| offline(one)(frame) && frame["last_seen"].is_string()).await;
    assert!(shown["last_seen"].as_str().unwrap().ends_with('Z'), "{shown}");
}

async fn blocks(stage: &Stage, transport: Transport) {
    let [one, two, three] = stage.users();
    let chat = stage.direct(one, two).await.unwrap();
    let group = stage.group(one, &[two, three]).await.unwrap();
    let mut by = Device::open(stage, transport, one, "phone", &[(chat, 1), (group, 1)]).await;
    let mut of = Device::open(stage, transport, two, "phone", &[(chat, 1), (group, 1)]).await;
    of.say(json!({"type": "watch", "user_ids": [one]})).await;
    of.expect_where("one is there", online(one)).await;
    let before = of.message(chat, "before").await;

    let path = format!("/v1/users/me/blocks/{two}");
    assert_eq!(stage.http(one, "GET", &path, None).await.unwrap().status, 404);
    ok(stage, one, "PUT", &path, None).await;
    ok(stage, one, "PUT", &path, None).await;
    assert_eq!(stage.http(one, "GET", &path, None).await.unwrap().status, 204);
    let listed = ok(stage, one, "GET", "/v1/users/me/blocks", None).await;
    assert_eq!(listed, json!({"items": [{"user_id": two}], "next": null}));
    of.expect_where("nobody is there", offline(one)).await;
    for device in [&mut by, &mut of] {
        device.say(json!({"type": "message", "chat_id": chat, "content": "no", "client_id": "n", "ref": "n"})).await;
        let refusal = device.expect_error("n").await;
        assert_eq!((&refusal["code"], &refusal["field"]), (&json!("FORBIDDEN"), &json!("chat_id")), "{refusal}");
        let other = if device.user == one { two } else { one };
        device.say(json!({"type": "watch", "user_ids": [other], "ref": "w"})).await;
        assert_eq!(device.expect_error("w").await["code"], "FORBIDDEN");
        let (status, _) =
            refused(stage, device.user, "POST", "/v1/chats", json!({"kind": "group", "members": [other]})).await;
        assert_eq!(status, 403);
    }
    // Nor does one see whether the other has read it, until there is no block.
    let receipts = format!("/v1/chats/{chat}/messages/{before}/receipts");
    ok(stage, one, "POST", &format!("/v1/chats/{chat}/read"), Some(json!({"seq": before}))).await;
    assert_eq!(ok(stage, two, "GET", &receipts, None).await["items"], json!([]));
    of.say(json!({"type": "edit", "chat_id": chat, "target": before, "content": "no", "ref": "e"})).await;
    assert_eq!(of.expect_error("e").await["code"], "FORBIDDEN");
    of.message(group, "in a group they meet").await;
    by.expect_where("the group's message", |frame| frame["content"] == "in a group they meet").await;
    // The chat that is there can be found, and one that isn't can't be made.
    assert_eq!(
        stage.http(two, "POST", "/v1/chats", Some(json!({"kind": "direct", "user_id": one}))).await.unwrap().status,
        200
    );
    ok(stage, three, "PUT", &format!("/v1/users/me/blocks/{two}"), None).await;
    let (status, problem) = refused(stage, two, "POST", "/v1/chats", json!({"kind": "direct", "user_id": three})).await;
    assert_eq!((status, &problem["code"]), (403, &json!("FORBIDDEN")), "{problem}");

    ok(stage, one, "DELETE", &path, None).await;
    let read = json!([{"user_id": one, "delivered": true, "read": true}]);
    assert_eq!(ok(stage, two, "GET", &receipts, None).await["items"], read);
    of.message(chat, "after").await;
    by.expect_where("what is sent after", |frame| frame["content"] == "after").await;
    of.say(json!({"type": "watch", "user_ids": [one]})).await;
    of.expect_where("one is there again", online(one)).await;
    assert_eq!(stage.http(one, "PUT", &format!("/v1/users/me/blocks/{one}"), None).await.unwrap().status, 400);
}

async fn mute(stage: &Stage, _transport: Transport) {
    let [one, two, stranger] = stage.users();
    let chat = stage.direct(one, two).await.unwrap();
    let path = format!("/v1/chats/{chat}/mute");
    let of_chat = async || {
        let one_chat = ok(stage, one, "GET", &format!("/v1/chats/{chat}"), None).await;
        let listed = ok(stage, one, "GET", "/v1/chats", None).await;
        assert_eq!(listed["items"][0]["muted"], one_chat["muted"]);
        (one_chat["muted"].clone(), one_chat["muted_until"].clone())
    };
    assert_eq!(of_chat().await, (json!(false), Value::Null));
    ok(stage, one, "PUT", &path, None).await;
    assert_eq!(of_chat().await, (json!(true), Value::Null));
    ok(stage, one, "PUT", &path, Some(json!({"until": "2199-01-01T00:00:00Z"}))).await;
    assert_eq!(of_chat().await, (json!(true), json!("2199-01-01T00:00:00.000Z")));
    ok(stage, one, "PUT", &path, Some(json!({"until": "2001-01-01T00:00:00Z"}))).await;
    assert_eq!(of_chat().await, (json!(false), Value::Null), "that time has passed");
    ok(stage, one, "PUT", &path, None).await;
    ok(stage, one, "DELETE", &path, None).await;
    assert_eq!(of_chat().await, (json!(false), Value::Null));
    assert_eq!(ok(stage, two, "GET", &format!("/v1/chats/{chat}"), None).await["muted"], false);
    assert_eq!(refused(stage, stranger, "PUT", &path, json!({})).await.0, 404);
    let (status, problem) = refused(stage, one, "PUT", &path, json!({"until": "soon"})).await;
    assert_eq!((status, &problem["field"]), (400, &json!("until")));
}

async fn me(stage: &Stage, transport: Transport) {
    let [one, two, three] = stage.users();
    let chat = stage.direct(one, two).await.unwrap();
    let group = stage.group(one, &[two, three]).await.unwrap();
    let mut goes = Device::open(stage, Transport::Json, one, "phone", &[(chat, 1), (group, 1)]).await;
    let mut stays = Device::open(stage, transport, two, "phone", &[(chat, 1), (group, 1)]).await;
    let first = goes.message(chat, "a secret").await;
    goes.put(json!({"type": "edit", "chat_id": chat, "target": first, "content": "another secret"})).await;
    let second = goes.message(group, "a third secret").await;
    let others = stays.message(chat, "an answer").await;
    ok(stage, one, "PUT", &format!("/v1/chats/{chat}/mute"), None).await;
    assert_eq!(ok(stage, one, "GET", "/v1/users/me", None).await, json!({"user_id": one, "erasure": null}));

    // A presence-svc that has just started doesn't know all sessions yet: whoever asks is told to ask again.
    let answered = async || {
        let answer = stage.http(one, "DELETE", "/v1/users/me", None).await.unwrap();
        (answer.status != 503).then_some(answer)
    };
    let begun = wait_for("an answer to who asks again", BOUND * 2, answered).await.unwrap();
    assert_eq!(begun.status, 202, "{}", begun.text());
    assert!(begun.json().unwrap()["erasure"]["asked_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(goes.expect_close().await, 4003);
    for (of, target) in [(chat, first), (group, second)] {
        let is_it = |frame: &Value| frame["type"] == "deleted" && frame["chat_id"] == of && frame["target"] == target;
        stays.expect_where("it is deleted", is_it).await;
    }
    let is_admin =
        |frame: &Value| frame["type"] == "chat" && frame["event"] == "role" && frame["user_ids"] == json!([two]);
    stays.expect_where("another admin", is_admin).await;
    let has_left =
        |frame: &Value| frame["type"] == "chat" && frame["event"] == "removed" && frame["user_ids"] == json!([one]);
    stays.expect_where("they leave", has_left).await;
    let done =
        async || ok(stage, one, "GET", "/v1/users/me", None).await["erasure"]["done_at"].as_str().map(str::to_owned);
    wait_for("the erasure's end", BOUND, done).await.unwrap();
    for of in [chat, group] {
        let log = ok(stage, two, "GET", &format!("/v1/chats/{of}/messages"), None).await;
        assert!(!log.to_string().contains("secret"), "{log}");
    }
    let log = ok(stage, two, "GET", &format!("/v1/chats/{chat}/messages"), None).await;
    let of = |seq: u64| log["items"].as_array().unwrap().iter().find(|event| event["seq"] == seq).unwrap().clone();
    assert_eq!((&of(first)["deleted"], &of(others)["content"]), (&json!(true), &json!("an answer")));
    assert_eq!(ok(stage, one, "GET", &format!("/v1/chats/{chat}"), None).await["muted"], false);
    assert_eq!(stage.http(one, "GET", &format!("/v1/chats/{group}"), None).await.unwrap().status, 404);
}
