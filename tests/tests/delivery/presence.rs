//! Presence, `watch`, receipts, several devices and connections.

use std::time::{Duration, Instant};

use confab_tests::harness::{Client, Mode, Server};
use serde_json::json;

use super::{DIRECT, head};

#[tokio::test]
async fn watch_tells_the_state_at_once_and_then_its_changes() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[]).await.unwrap();
    one.send(&json!({"type": "watch", "user_ids": [2]})).await.unwrap();
    let now = one.expect("presence").await.unwrap();
    assert_eq!((&now["user_id"], &now["status"]), (&json!(2), &json!("offline")));
    let first = server.connect(2).await.unwrap();
    assert_eq!(one.expect("presence").await.unwrap()["status"], "online");
    let second = server.connect(2).await.unwrap();
    first.close().await.unwrap();
    let others = one.until_pong().await.unwrap();
    assert!(
        others.iter().all(|frame| frame["type"] != "presence"),
        "still online by the second connection: {others:?}"
    );
    second.close().await.unwrap();
    let gone = one.expect("presence").await.unwrap();
    assert_eq!((&gone["user_id"], &gone["status"]), (&json!(2), &json!("offline")));
    assert!(gone["last_seen"].as_str().is_some_and(|time| time.ends_with('Z')), "{gone}");
}

#[tokio::test]
async fn unwatch_ends_it_and_strangers_are_forbidden() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[]).await.unwrap();
    one.send(&json!({"type": "watch", "user_ids": [99], "ref": "w"})).await.unwrap();
    assert_eq!(one.expect_error("FORBIDDEN").await.unwrap()["ref"], "w");
    one.send(&json!({"type": "watch", "user_ids": [2]})).await.unwrap();
    one.expect("presence").await.unwrap();
    one.send(&json!({"type": "unwatch", "user_ids": [2]})).await.unwrap();
    one.until_pong().await.unwrap();
    let two = server.connect(2).await.unwrap();
    // A second watcher shows that the change has travelled.
    let mut other = server.synced(1, &[]).await.unwrap();
    other.send(&json!({"type": "watch", "user_ids": [2]})).await.unwrap();
    assert_eq!(other.expect("presence").await.unwrap()["status"], "online");
    let frames = one.until_pong().await.unwrap();
    assert!(frames.iter().all(|frame| frame["type"] != "presence"), "{frames:?}");
    two.close().await.unwrap();
}

#[tokio::test]
async fn typing_is_passed_on_to_the_others_once_in_three_seconds() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.synced(1, &[(DIRECT, start)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, start)]).await.unwrap();
    let typing = json!({"type": "typing", "chat_id": DIRECT});
    one.send(&typing).await.unwrap();
    let told = two.expect("typing").await.unwrap();
    assert_eq!(told, json!({"type": "typing", "chat_id": DIRECT, "user_id": 1}));
    let first = Instant::now();
    // Another's typing has its own time.
    two.send(&typing).await.unwrap();
    assert_eq!(one.expect("typing").await.unwrap()["user_id"], 2);

    let again = tokio::spawn(async move {
        two.expect("typing").await.unwrap();
        first.elapsed()
    });
    while !again.is_finished() {
        one.send(&typing).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = again.await.unwrap();
    assert!(after > Duration::from_millis(2_500) && after < Duration::from_secs(6), "{after:?}");
    // One's own devices hear nothing of it.
    assert!(one.until_pong().await.unwrap().iter().all(|frame| frame["type"] != "typing"));
}

#[tokio::test]
async fn receipts_go_to_the_sender_of_a_direct_chat() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.synced(1, &[(DIRECT, start)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, start)]).await.unwrap();
    let seq = one.say(DIRECT, "read me").await.unwrap()["seq"].as_u64().unwrap();
    two.expect_message(DIRECT).await.unwrap();
    two.send(&json!({"type": "delivered", "chat_id": DIRECT, "seq": seq})).await.unwrap();
    let receipt = one
        .expect_where("delivered", |frame| {
            frame["type"] == "receipt" && frame["user_id"] == 2 && frame["delivered"] == seq
        })
        .await
        .unwrap();
    assert_eq!(receipt["chat_id"], DIRECT);
    assert!(receipt["read"].as_u64().is_none_or(|read| read < seq), "not read yet: {receipt}");
    two.send(&json!({"type": "read", "chat_id": DIRECT, "seq": seq})).await.unwrap();
    one.expect_where("read", |frame| frame["type"] == "receipt" && frame["user_id"] == 2 && frame["read"] == seq)
        .await
        .unwrap();
    let next = one.say(DIRECT, "and me").await.unwrap()["seq"].as_u64().unwrap();
    two.send(&json!({"type": "read", "chat_id": DIRECT, "seq": next})).await.unwrap();
    let both =
        |frame: &serde_json::Value| frame["type"] == "receipt" && frame["read"] == next && frame["delivered"] == next;
    one.expect_where("read implies delivered", both).await.unwrap();
}

#[tokio::test]
async fn every_device_and_connection_of_a_member_gets_all() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut sender = server.synced(1, &[(DIRECT, start)]).await.unwrap();
    let mut listeners = Vec::new();
    for (user, device) in [(1, "default"), (1, "tablet"), (2, "default"), (2, "default"), (2, "phone"), (2, "web")] {
        let token = server.minter().token(user, Some(device));
        let mut client = Client::connect(server.addr(), &token, Mode::Json).await.unwrap();
        client.sync(&[(DIRECT, start)]).await.unwrap();
        listeners.push(client);
    }
    for number in 0..10 {
        let seq = sender.say(DIRECT, &format!("to all {number}")).await.unwrap()["seq"].clone();
        for client in listeners.iter_mut().chain([&mut sender]) {
            assert_eq!(client.expect_message(DIRECT).await.unwrap()["seq"], seq);
        }
    }
}

#[tokio::test]
async fn the_ninth_connection_of_a_device_ends_the_oldest_with_4004() {
    let server = Server::start().await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.connect(2).await.unwrap());
    }
    for client in &mut clients {
        client.send(&json!({"type": "ping"})).await.unwrap();
        client.expect("pong").await.unwrap();
    }
    let token = server.minter().token(2, Some("another"));
    let mut another_device = Client::connect(server.addr(), &token, Mode::Json).await.unwrap();
    let mut ninth = server.connect(2).await.unwrap();
    assert_eq!(clients[0].expect_close().await.unwrap(), 4004);
    for client in clients.iter_mut().skip(1).chain([&mut ninth, &mut another_device]) {
        client.send(&json!({"type": "ping"})).await.unwrap();
        client.expect("pong").await.unwrap();
    }
}
