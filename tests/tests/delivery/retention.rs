//! `message.retention_days`: what is too old says nothing any more.

use std::time::{Duration, Instant};

use confab_tests::harness::{BOUND, Server, wait_for};
use serde_json::{Value, json};

use super::DIRECT;

/// Some four seconds.
const DAYS: &str = "0.00005";

async fn log(server: &Server) -> Vec<Value> {
    let answer = server.http(1, "GET", &format!("/v1/chats/{DIRECT}/messages"), None).await.unwrap();
    answer.json().unwrap()["items"].as_array().unwrap().clone()
}

async fn at(server: &Server, seq: u64) -> Value {
    log(server).await.into_iter().find(|event| event["seq"] == seq).unwrap()
}

#[tokio::test]
async fn what_is_too_old_is_as_if_deleted_and_what_is_not_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_on(folder.path(), &[("CONFAB_MESSAGE__RETENTION_DAYS", DAYS)], &[]).await.unwrap();
    let mut one = server.synced(1, &[]).await.unwrap();
    let old = one.say_as(DIRECT, "old words", "a key").await.unwrap()["seq"].as_u64().unwrap();
    let edit = json!({"type": "edit", "chat_id": DIRECT, "target": old, "content": "newer words", "client_id": "e"});
    one.send(&edit).await.unwrap();
    let edit = one.answer_to("e").await.unwrap()["seq"].as_u64().unwrap();
    assert_eq!(at(&server, old).await["content"], "newer words", "not yet");
    let expired = async || at(&server, old).await["deleted"].as_bool();
    wait_for("the old message's end", BOUND, expired).await.unwrap();
    wait_for("its edit's", BOUND, async || at(&server, edit).await["content"].is_null().then_some(())).await.unwrap();
    let again = one.say_as(DIRECT, "old words", "a key").await.unwrap();
    assert_eq!((&again["seq"], &again["duplicate"]), (&json!(old), &json!(true)), "its key is still known");
    one.send(&json!({"type": "react", "chat_id": DIRECT, "target": old, "emoji": "+", "ref": "r"})).await.unwrap();
    assert_eq!(one.expect_error("NOT_FOUND").await.unwrap()["ref"], "r");

    // However young its edit is, it goes with its message.
    let of_old = one.say(DIRECT, "edited late").await.unwrap()["seq"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let edit =
        json!({"type": "edit", "chat_id": DIRECT, "target": of_old, "content": "late words", "client_id": "late"});
    one.send(&edit).await.unwrap();
    let edit = one.answer_to("late").await.unwrap()["seq"].as_u64().unwrap();
    let edited = Instant::now();
    let silent = async || {
        let log = log(&server).await;
        let of = |seq: u64| log.iter().find(|event| event["seq"] == seq).unwrap();
        of(of_old)["deleted"].as_bool().map(|_| of(edit)["content"].clone())
    };
    assert!(wait_for("the edited message's end", BOUND, silent).await.unwrap().is_null());
    assert!(edited.elapsed() < Duration::from_secs(4), "the edit's own time had come");

    // A restart goes on where it was, and what is said anew is there until its own time has come.
    server.kill9().unwrap();
    server.restart().await.unwrap();
    let mut one = server.synced(1, &[]).await.unwrap();
    let fresh = one.say(DIRECT, "fresh words").await.unwrap()["seq"].as_u64().unwrap();
    assert_eq!(at(&server, fresh).await["content"], "fresh words");
    assert!(!log(&server).await.iter().any(|event| event.to_string().contains("newer words")));
    let expired = async || at(&server, fresh).await["deleted"].as_bool();
    wait_for("the fresh message's end", BOUND + Duration::from_secs(5), expired).await.unwrap();
}
