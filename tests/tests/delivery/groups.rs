//! Groups and direct chats: made, joined, listed.

use confab_tests::harness::{BOUND, Server, wait_for};
use serde_json::{Value, json};

use super::say_many;

#[tokio::test]
async fn a_group_is_made_and_its_members_talk() {
    let server = Server::start().await.unwrap();
    let mut two = server.synced(12, &[]).await.unwrap();
    let group = server.create_group(11, &[12, 13]).await.unwrap();
    let created = two.expect_where("created", |frame| frame["type"] == "chat").await.unwrap();
    assert_eq!(
        (&created["event"], &created["chat_id"], &created["by"]),
        (&json!("created"), &json!(group), &json!(11))
    );
    assert_eq!(created["seq"], 1, "seqs start at 1, with created");
    let mut one = server.synced(11, &[]).await.unwrap();
    let ack = one.say(group, "hello, group").await.unwrap();
    assert_eq!(two.expect_message(group).await.unwrap()["seq"], ack["seq"]);
    let mut three = server.synced(13, &[(group, 0)]).await.unwrap();
    assert_eq!(three.expect_message(group).await.unwrap()["content"], "hello, group");
}

#[tokio::test]
async fn who_is_added_sees_what_follows_and_the_others_see_added() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    let mut one = server.synced(11, &[(group, 0)]).await.unwrap();
    let mut two = server.synced(12, &[(group, 0)]).await.unwrap();
    let mut new = server.synced(13, &[]).await.unwrap();
    let before = one.say(group, "before the join").await.unwrap()["seq"].as_u64().unwrap();
    let path = format!("/v1/chats/{group}/members");
    let refused = server.http(12, "POST", &path, Some(&json!({"members": [13]}))).await.unwrap();
    assert_eq!(refused.status, 403, "only an admin adds: {}", refused.text());
    let added = server.http(11, "POST", &path, Some(&json!({"members": [13]}))).await.unwrap();
    assert!([200, 201].contains(&added.status), "{} {}", added.status, added.text());
    for client in [&mut one, &mut two, &mut new] {
        let event =
            client.expect_where("added", |frame| frame["type"] == "chat" && frame["event"] == "added").await.unwrap();
        assert_eq!((&event["chat_id"], &event["by"], &event["seq"]), (&json!(group), &json!(11), &json!(before + 1)));
    }
    let after = one.say(group, "after the join").await.unwrap();
    assert_eq!(new.expect_message(group).await.unwrap()["seq"], after["seq"]);
    new.send(&json!({"type": "history", "chat_id": group, "limit": 50})).await.unwrap();
    let page = new.expect("history").await.unwrap();
    let contents: Vec<&Value> = page["events"].as_array().unwrap().iter().map(|event| &event["content"]).collect();
    assert!(!contents.contains(&&json!("before the join")), "what came before the join isn't shown: {page}");
    let members = server.http(13, "GET", &path, None).await.unwrap().json().unwrap();
    assert_eq!(members["items"].as_array().map(Vec::len), Some(3), "{members}");
}

#[tokio::test]
async fn a_direct_chat_is_one_per_pair() {
    let server = Server::start().await.unwrap();
    let open = |user: u64, other: u64| {
        let server = &server;
        async move {
            let body = json!({"kind": "direct", "user_id": other});
            let response = server.http(user, "POST", "/v1/chats", Some(&body)).await.unwrap();
            (response.status, response.json().unwrap()["chat_id"].as_u64().unwrap())
        }
    };
    let first = open(21, 22).await;
    assert_eq!(first.0, 201);
    assert_eq!(open(21, 22).await, (200, first.1));
    assert_eq!(open(22, 21).await, (200, first.1));
    assert_eq!(open(1, 2).await, (200, 1), "a fresh folder has chat 1 with users 1 and 2");
    let together = tokio::join!(open(31, 32), open(32, 31), open(31, 32), open(32, 31));
    let (one, two, three, four) = together;
    assert!([two.1, three.1, four.1].iter().all(|chat| *chat == one.1), "{together:?}");
    assert_eq!([one, two, three, four].iter().filter(|(status, _)| *status == 201).count(), 1, "{together:?}");
}

#[tokio::test]
async fn a_group_is_made_once_per_key_and_another_body_is_a_conflict() {
    let server = Server::start().await.unwrap();
    let make = |title: &str| {
        let body = json!({"kind": "group", "title": title, "members": [12], "client_id": "once"});
        let server = &server;
        async move { server.http(11, "POST", "/v1/chats", Some(&body)).await.unwrap() }
    };
    let first = make("one").await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = make("one").await;
    assert_eq!((again.status, &again.json().unwrap()["chat_id"]), (200, &first.json().unwrap()["chat_id"]));
    let other = make("two").await;
    assert_eq!((other.status, &other.json().unwrap()["code"]), (409, &json!("CONFLICT")));
}

#[tokio::test]
async fn a_group_of_a_thousand_gets_every_message() {
    let server = Server::start().await.unwrap();
    let members: Vec<u64> = (5_001..6_000).collect();
    let group = server.create_group(5_000, &members).await.unwrap();
    let mut sender = server.synced(5_000, &[(group, 0)]).await.unwrap();
    let mut clients = Vec::new();
    for user in members.iter().step_by(20) {
        clients.push(server.synced(*user, &[(group, 0)]).await.unwrap());
    }
    say_many(&mut sender, group, "to all", 20).await;
    for client in &mut clients {
        for number in 0..20 {
            assert_eq!(client.expect_message(group).await.unwrap()["content"], format!("to all {number}"));
        }
    }
    let body = json!({"kind": "group", "title": "too big", "members": (1..=1_000).map(|user| 7_000 + user).collect::<Vec<u64>>()});
    let refused = server.http(5_000, "POST", "/v1/chats", Some(&body)).await.unwrap();
    assert!((400..500).contains(&refused.status), "1,001 with the creator: {} {}", refused.status, refused.text());
    assert_eq!(refused.json().unwrap()["field"], "members");
}

#[tokio::test]
async fn chats_and_messages_over_http() {
    let server = Server::start().await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    let mut two = server.synced(12, &[(group, 0)]).await.unwrap();
    let path = format!("/v1/chats/{group}/messages");
    let posted = server.http(11, "POST", &path, Some(&json!({"content": "by HTTP"}))).await.unwrap();
    assert!([200, 201].contains(&posted.status), "{} {}", posted.status, posted.text());
    let got = two.expect_message(group).await.unwrap();
    assert_eq!((&got["content"], &got["seq"]), (&json!("by HTTP"), &posted.json().unwrap()["seq"]));
    let chats = server.http(12, "GET", "/v1/chats", None).await.unwrap().json().unwrap();
    let mine: Vec<&Value> = chats["items"].as_array().unwrap().iter().map(|chat| &chat["chat_id"]).collect();
    assert_eq!(mine, [&json!(group)], "{chats}");
    assert!(chats["next"].is_null());
    let one = server.http(12, "GET", &format!("/v1/chats/{group}"), None).await.unwrap();
    assert_eq!((one.status, &one.json().unwrap()["chat_id"]), (200, &json!(group)));
}

#[tokio::test]
async fn receipts_of_a_small_group_are_names_and_of_a_large_one_numbers() {
    let server = Server::start().await.unwrap();
    let others: Vec<u64> = (12..50).collect();
    for (members, large) in [(&others[..3], false), (&others[..], true)] {
        let group = server.create_group(11, members).await.unwrap();
        let mut one = server.synced(11, &[(group, 1)]).await.unwrap();
        let mut two = server.synced(12, &[(group, 1)]).await.unwrap();
        let mut three = server.synced(13, &[(group, 1)]).await.unwrap();
        let seq = one.say(group, "read me").await.unwrap()["seq"].as_u64().unwrap();
        for reader in [&mut two, &mut three] {
            reader.expect_message(group).await.unwrap();
            reader.send(&json!({"type": "read", "chat_id": group, "seq": seq})).await.unwrap();
        }
        let path = format!("/v1/chats/{group}/messages/{seq}/receipts");
        let readers = || async {
            let page = server.http(11, "GET", &path, None).await.ok()?.json().ok()?;
            let items = page["items"].as_array()?;
            let read = items.iter().filter(|item| item["read"] == true && item["delivered"] == true);
            let read: Vec<u64> = read.filter_map(|item| item["user_id"].as_u64()).collect();
            (items.len() == members.len() && read == [12, 13]).then_some(())
        };
        wait_for("both in the list of readers", BOUND, readers).await.unwrap();
        let of_group = |frame: &Value| frame["type"] == "receipt" && frame["chat_id"] == group;
        if large {
            let both = |frame: &Value| of_group(frame) && frame["read_by"] == 2;
            let told = one.expect_where("both have read it", both).await.unwrap();
            let beyond = format!("/v1/chats/{group}/messages/{}/receipts", seq + 1);
            assert_eq!(server.http(11, "GET", &beyond, None).await.unwrap().status, 404);
            assert_eq!(server.http(99, "GET", &path, None).await.unwrap().status, 404);
            let expected = json!({
                "type": "receipt", "chat_id": group, "seq": seq, "delivered_by": 2, "read_by": 2, "members": 39,
            });
            assert_eq!(told, expected);
        } else {
            for reader in [12, 13] {
                let told =
                    one.expect_where("a reader", |frame| of_group(frame) && frame["user_id"] == reader).await.unwrap();
                assert_eq!(told["read"], seq);
            }
        }
    }
}
