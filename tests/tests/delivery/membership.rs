//! Groups that change: who is removed, leaves and comes back, who is an admin, titles, and the end.

use confab_tests::harness::{BOUND, Client, Server, wait_for};
use serde_json::{Value, json};

/// An event of a chat other than a message.
async fn told(client: &mut Client, event: &str) -> Value {
    let is_it = |frame: &Value| frame["type"] == "chat" && frame["event"] == event;
    client.expect_where(event, is_it).await.unwrap()
}

async fn ask(server: &Server, by: u64, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let response = server.http(by, method, path, body.as_ref()).await.unwrap();
    (response.status, response.json().unwrap_or_default())
}

async fn read_back(client: &mut Client, chat: u64) -> Vec<Value> {
    client.send(&json!({"type": "history", "chat_id": chat})).await.unwrap();
    client.expect("history").await.unwrap()["events"].as_array().unwrap().clone()
}

fn contents(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["content"].as_str()).collect()
}

async fn refused(client: &mut Client, chat: u64) -> Value {
    client.send(&json!({"type": "message", "chat_id": chat, "content": "let me in"})).await.unwrap();
    client.expect("error").await.unwrap()["code"].clone()
}

#[tokio::test]
async fn who_is_removed_is_told_sees_nothing_after_it_and_nothing_before_when_they_come_back() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12, 13]).await.unwrap();
    let (chat, members) = (format!("/v1/chats/{group}"), format!("/v1/chats/{group}/members"));
    let mut admin = server.synced(11, &[(group, 1)]).await.unwrap();
    let mut gone = server.synced(12, &[(group, 1)]).await.unwrap();
    admin.say(group, "before").await.unwrap();
    gone.expect_message(group).await.unwrap();

    assert_eq!(ask(&server, 13, "DELETE", &format!("{members}/12"), None).await.0, 403, "only an admin removes");
    assert_eq!(ask(&server, 11, "DELETE", &format!("{members}/12"), None).await.0, 204);
    for client in [&mut admin, &mut gone] {
        let removed = told(client, "removed").await;
        assert_eq!((&removed["user_ids"], &removed["by"], &removed["members"]), (&json!([12]), &json!(11), &json!(2)));
    }
    assert_eq!(ask(&server, 11, "DELETE", &format!("{members}/12"), None).await.0, 204, "again: nothing is left to do");
    admin.say(group, "between").await.unwrap();
    assert_eq!(refused(&mut gone, group).await, "NOT_MEMBER");
    let frames = gone.until_pong().await.unwrap();
    assert!(!frames.iter().any(|frame| frame["chat_id"] == group), "after the removal: {frames:?}");
    let seen = read_back(&mut gone, group).await;
    assert_eq!((contents(&seen), &seen.last().unwrap()["event"]), (vec!["before"], &json!("removed")));
    assert_eq!(ask(&server, 12, "GET", &chat, None).await.0, 404);
    assert_eq!(ask(&server, 12, "GET", &members, None).await.0, 404);
    let chats = ask(&server, 12, "GET", "/v1/chats", None).await.1;
    assert_eq!(chats["items"], json!([]), "no chat of theirs any more");
    let there = ask(&server, 11, "GET", &members, None).await.1;
    assert_eq!(there["items"].as_array().map(Vec::len), Some(2), "{there}");

    assert_eq!(ask(&server, 11, "POST", &members, Some(json!({"members": [12]}))).await.0, 200);
    assert_eq!(told(&mut gone, "added").await["user_ids"], json!([12]));
    admin.say(group, "after").await.unwrap();
    assert_eq!(gone.expect_message(group).await.unwrap()["content"], "after");
    assert_eq!(contents(&read_back(&mut gone, group).await), ["after"], "what was before the join is not shown");
    gone.say(group, "thank you").await.unwrap();
    let unread = ask(&server, 13, "GET", &chat, None).await.1["unread"].clone();
    assert_eq!(unread, 4, "messages, and not those who come and go");
}

#[tokio::test]
async fn a_device_that_was_away_learns_that_its_user_was_removed_once() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    let mut admin = server.synced(11, &[(group, 1)]).await.unwrap();
    let seq = admin.say(group, "while you are away").await.unwrap()["seq"].as_u64().unwrap();
    assert_eq!(ask(&server, 11, "DELETE", &format!("/v1/chats/{group}/members/12"), None).await.0, 204);
    admin.say(group, "among us").await.unwrap();

    let mut late = server.connect(12).await.unwrap();
    let synced = late.sync(&[(group, 1)]).await.unwrap();
    assert_eq!(synced["chats"][group.to_string()], json!(seq + 1), "{synced}");
    assert_eq!(late.expect_message(group).await.unwrap()["content"], "while you are away");
    assert_eq!(told(&mut late, "removed").await["seq"], json!(seq + 1));
    late.send(&json!({"type": "delivered", "chat_id": group, "seq": seq + 1})).await.unwrap();
    let frames = late.until_pong().await.unwrap();
    assert!(!frames.iter().any(|frame| frame["type"] == "error"), "{frames:?}");
    late.close().await.unwrap();

    let forgotten = || async {
        let mut again = server.connect(12).await.ok()?;
        let synced = again.sync(&[]).await.ok()?;
        (synced["chats"] == json!({})).then_some(())
    };
    wait_for("what it has confirmed not to come again", BOUND, forgotten).await.unwrap();
}

#[tokio::test]
async fn the_last_admin_stays_while_others_are_there() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    let members = format!("/v1/chats/{group}/members");
    let mut two = server.synced(12, &[(group, 1)]).await.unwrap();
    let (me, other) = (format!("{members}/11"), format!("{members}/12"));
    let (status, problem) = ask(&server, 11, "DELETE", &me, None).await;
    assert_eq!((status, &problem["code"]), (409, &json!("CONFLICT")), "{problem}");
    assert!(problem["message"].as_str().unwrap().contains("last admin"), "{problem}");
    let down = || Some(json!({"role": "member"}));
    assert_eq!(ask(&server, 11, "PATCH", &me, down()).await.0, 409);
    assert_eq!(ask(&server, 12, "PATCH", &other, Some(json!({"role": "admin"}))).await.0, 403);
    assert_eq!(ask(&server, 11, "PATCH", &format!("{members}/99"), down()).await.0, 404);

    assert_eq!(ask(&server, 11, "PATCH", &other, Some(json!({"role": "admin"}))).await.0, 204);
    let role = told(&mut two, "role").await;
    assert_eq!((&role["user_ids"], &role["role"], &role["by"]), (&json!([12]), &json!("admin"), &json!(11)));
    let there = ask(&server, 12, "GET", &members, None).await.1;
    assert!(there["items"].as_array().unwrap().iter().all(|member| member["role"] == "admin"), "{there}");
    assert_eq!(ask(&server, 11, "PATCH", &me, down()).await.0, 204, "there is another admin");
    assert_eq!(ask(&server, 11, "DELETE", &me, None).await.0, 204, "whoever is no admin may go");
    assert_eq!(told(&mut two, "removed").await["by"], 11);
    assert_eq!(ask(&server, 12, "DELETE", &other, None).await.0, 204, "and who is alone");
    assert_eq!(told(&mut two, "removed").await["members"], 0);
}

#[tokio::test]
async fn a_group_is_renamed_and_deleted_by_an_admin() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    let chat = format!("/v1/chats/{group}");
    let mut two = server.synced(12, &[(group, 1)]).await.unwrap();
    two.say(group, "a secret").await.unwrap();
    let named = || Some(json!({"title": "Fridays"}));
    assert_eq!(ask(&server, 12, "PATCH", &chat, named()).await.0, 403);
    let (status, renamed) = ask(&server, 11, "PATCH", &chat, named()).await;
    assert_eq!((status, &renamed["title"]), (200, &json!("Fridays")), "{renamed}");
    assert_eq!(told(&mut two, "renamed").await["title"], "Fridays");
    assert_eq!(ask(&server, 12, "GET", &chat, None).await.1["title"], "Fridays");
    assert_eq!(ask(&server, 11, "PATCH", &chat, named()).await.0, 200);

    assert_eq!(ask(&server, 12, "DELETE", &chat, None).await.0, 403);
    assert_eq!(ask(&server, 11, "DELETE", &chat, None).await.0, 204);
    let deleted = told(&mut two, "deleted").await;
    assert_eq!((&deleted["by"], &deleted["members"]), (&json!(11), &json!(0)));
    assert_eq!(deleted["seq"], 4, "the same title again is no event");
    assert_eq!(refused(&mut two, group).await, "NOT_MEMBER");
    let left = read_back(&mut two, group).await;
    assert_eq!(left.iter().map(|event| &event["event"]).collect::<Vec<_>>(), ["deleted"], "nothing else is to be read");
    assert_eq!(ask(&server, 11, "GET", &chat, None).await.0, 404);
    let direct = ask(&server, 1, "PATCH", "/v1/chats/1", named()).await;
    assert_eq!((direct.0, &direct.1["field"]), (403, &json!("chat_id")), "a direct chat stays as it is");
}
