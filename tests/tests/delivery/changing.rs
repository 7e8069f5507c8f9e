//! Edits, deletions and reactions: who may, who hears of it, and what is left to read.

use confab_tests::harness::{Client, Server};
use serde_json::{Value, json};

use super::DIRECT;

async fn change(client: &mut Client, mut frame: Value) -> Value {
    let client_id = format!("{}-{}", frame["type"].as_str().unwrap(), uuid::Uuid::new_v4());
    frame["client_id"] = json!(client_id);
    client.send(&frame).await.unwrap();
    client.answer_to(&client_id).await.unwrap()
}

async fn refused(client: &mut Client, frame: Value) -> (String, Value) {
    client.send(&frame).await.unwrap();
    let error = client.expect("error").await.unwrap();
    (error["code"].as_str().unwrap().to_owned(), error["field"].clone())
}

/// What each event of a chat says, newest 50: (type, content, deleted).
async fn read_back(client: &mut Client, chat: u64) -> Vec<Value> {
    client.send(&json!({"type": "history", "chat_id": chat})).await.unwrap();
    client.expect("history").await.unwrap()["events"].as_array().unwrap().clone()
}

fn edit(target: &Value, content: &str) -> Value {
    json!({"type": "edit", "chat_id": DIRECT, "target": target, "content": content})
}

fn delete(target: &Value) -> Value {
    json!({"type": "delete", "chat_id": DIRECT, "target": target})
}

fn react(target: &Value, remove: bool) -> Value {
    json!({"type": "react", "chat_id": DIRECT, "target": target, "emoji": "👍", "remove": remove})
}

#[tokio::test]
async fn each_change_reaches_everyone_and_history_shows_the_last_state_only() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 1)]).await.unwrap();
    let first = one.say(DIRECT, "first words").await.unwrap();
    let second = one.say(DIRECT, "a second message").await.unwrap();
    two.expect_message(DIRECT).await.unwrap();
    let n = two.expect_message(DIRECT).await.unwrap()["n"].clone();

    change(&mut one, edit(&first["seq"], "better words")).await;
    let ack = change(&mut one, edit(&first["seq"], "the best words")).await;
    for content in ["better words", "the best words"] {
        let edited = two.expect("edited").await.unwrap();
        assert_eq!((&edited["target"], &edited["content"]), (&first["seq"], &json!(content)));
        assert_eq!((&edited["user_id"], &edited["n"]), (&json!(1), &n), "an edit doesn't count as unread");
    }
    let reaction = change(&mut two, react(&first["seq"], false)).await;
    let reacted = one.expect("reacted").await.unwrap();
    assert_eq!((&reacted["emoji"], &reacted["removed"], &reacted["user_id"]), (&json!("👍"), &json!(false), &json!(2)));
    assert_eq!(reacted["seq"], reaction["seq"]);
    change(&mut two, react(&first["seq"], true)).await;
    assert_eq!(one.expect_where("taken back", |frame| frame["removed"] == true).await.unwrap()["target"], first["seq"]);
    change(&mut one, delete(&second["seq"])).await;
    let deleted = two.expect("deleted").await.unwrap();
    assert_eq!((&deleted["target"], &deleted["user_id"]), (&second["seq"], &json!(1)));

    let events = read_back(&mut two, DIRECT).await;
    let at = |seq: &Value| events.iter().find(|event| event["seq"] == *seq).unwrap();
    assert_eq!(at(&first["seq"])["content"], "the best words");
    assert_eq!((&at(&second["seq"])["content"], &at(&second["seq"])["deleted"]), (&json!(""), &json!(true)));
    assert_eq!(at(&ack["seq"])["content"], "the best words");
    let text = json!(events).to_string();
    assert!(!text.contains("first words") && !text.contains("better words") && !text.contains("second"), "{text}");

    // A device that was away ends where the others are.
    let mut late = server.synced(2, &[(DIRECT, 1)]).await.unwrap();
    let caught_up = late.until_pong().await.unwrap();
    let of_log = caught_up.iter().filter(|frame| frame["seq"].is_u64()).cloned().collect::<Vec<_>>();
    assert_eq!(of_log, events.iter().filter(|event| event["seq"].as_u64() > Some(1)).cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn an_edit_that_is_sent_again_is_one_and_another_body_is_a_conflict() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let target = one.say(DIRECT, "words").await.unwrap()["seq"].clone();
    let mut frame = edit(&target, "other words");
    frame["client_id"] = json!("once");
    one.send(&frame).await.unwrap();
    let first = one.answer_to("once").await.unwrap();
    // Even after it was overwritten, and its message is gone.
    change(&mut one, edit(&target, "yet others")).await;
    change(&mut one, delete(&target)).await;
    one.send(&frame).await.unwrap();
    let again = one.answer_to("once").await.unwrap();
    assert_eq!((&again["seq"], &again["duplicate"]), (&first["seq"], &json!(true)));
    frame["content"] = json!("a third text");
    assert_eq!(refused(&mut one, frame).await.0, "CONFLICT");
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 1)]).await.unwrap();
    let target = one.say(DIRECT, "mine").await.unwrap()["seq"].clone();
    let named = |code: &str| (code.to_owned(), json!("target"));
    assert_eq!(refused(&mut two, edit(&target, "yours")).await, named("FORBIDDEN"));
    assert_eq!(refused(&mut two, delete(&target)).await, named("FORBIDDEN"));
    assert_eq!(refused(&mut one, edit(&json!(1), "of the chat's first event")).await, named("NOT_FOUND"));
    assert_eq!(refused(&mut one, react(&json!(4_000), false)).await, named("NOT_FOUND"));
    change(&mut one, delete(&target)).await;
    for frame in [edit(&target, "again"), delete(&target), react(&target, false)] {
        assert_eq!(refused(&mut one, frame).await, named("NOT_FOUND"));
    }
    let mut stranger = server.synced(9, &[]).await.unwrap();
    assert_eq!(refused(&mut stranger, edit(&target, "x")).await, ("NOT_MEMBER".to_owned(), json!("chat_id")));
}

#[tokio::test]
async fn an_admin_deletes_what_a_member_has_said_and_a_new_member_changes_nothing_from_before() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    let mut admin = server.synced(11, &[(group, 1)]).await.unwrap();
    let mut member = server.synced(12, &[(group, 1)]).await.unwrap();
    let target = member.say(group, "spam").await.unwrap()["seq"].clone();
    let path = format!("/v1/chats/{group}/members");
    server.http(11, "POST", &path, Some(&json!({"members": [13]}))).await.unwrap();
    let mut new = server.synced(13, &[]).await.unwrap();
    let frame = json!({"type": "react", "chat_id": group, "target": target, "emoji": "👎"});
    assert_eq!(refused(&mut new, frame).await, ("NOT_FOUND".to_owned(), json!("target")));
    change(&mut admin, json!({"type": "delete", "chat_id": group, "target": target})).await;
    let deleted = member.expect("deleted").await.unwrap();
    assert_eq!((&deleted["target"], &deleted["user_id"]), (&target, &json!(11)));
}

#[tokio::test]
async fn changes_outlive_the_process_and_old_messages_can_be_changed() {
    let mut server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let target = one.say(DIRECT, "long ago").await.unwrap()["seq"].clone();
    // More than an owner keeps in memory.
    super::say_many(&mut one, DIRECT, "later", 120).await;
    change(&mut one, edit(&target, "long ago, in other words")).await;
    server.kill9().unwrap();
    server.restart().await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 1)]).await.unwrap();
    let before = target.as_u64().unwrap() + 1;
    two.send(&json!({"type": "history", "chat_id": DIRECT, "before": before, "limit": 1})).await.unwrap();
    let page = two.expect("history").await.unwrap();
    assert_eq!(page["events"][0]["content"], "long ago, in other words");
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    change(&mut one, delete(&target)).await;
}
