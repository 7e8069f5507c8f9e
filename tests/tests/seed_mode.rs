//! "Seed mode": a client that knows only the seed's three frames sends, receives, sees presence, and isn't sent old
//! messages forever. It answers pings by its library, and reads nothing but `message` and `presence`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

use std::time::{Duration, Instant};

use confab_tests::harness::{BOUND, Client, Incoming, Server, wait_for};
use serde_json::{Value, json};

const DIRECT: u64 = 1;
/// The server pings every 30 s; a pong confirms what was written before its ping. Twice that, and some.
const CONFIRM_BOUND: Duration = Duration::from_secs(75);

/// What the seed's client reads: exactly these fields.
fn as_seed(frame: &Value) -> Option<(u64, String)> {
    (frame["type"] == "message").then(|| {
        for field in ["message_id", "content", "created_at"] {
            assert!(frame[field].is_string(), "{field} in {frame}");
        }
        assert!(frame["chat_id"].is_u64() && frame["sender_id"].is_u64(), "{frame}");
        (frame["sender_id"].as_u64().unwrap(), frame["content"].as_str().unwrap().to_owned())
    })
}

async fn send(client: &mut Client, content: &str) {
    client.send(&json!({"type": "message", "chat_id": DIRECT, "content": content, "media_url": null})).await.unwrap();
}

async fn read(client: &mut Client) -> (u64, String) {
    as_seed(&client.expect_message(DIRECT).await.unwrap()).unwrap()
}

/// Everything the server sends up to the answer to a last message, as contents.
async fn all_until(client: &mut Client, other: &mut Client, fence: &str) -> Vec<String> {
    send(other, fence).await;
    let mut contents = Vec::new();
    loop {
        let (_, content) = read(client).await;
        if content == fence {
            return contents;
        }
        contents.push(content);
    }
}

#[tokio::test]
async fn two_clients_with_the_seeds_frames_talk() {
    let server = Server::start().await.unwrap();
    let mut one = server.connect_seed(1).await.unwrap();
    let mut two = server.connect_seed(2).await.unwrap();
    for number in 0..50 {
        send(&mut one, &format!("to two, {number}")).await;
        send(&mut two, &format!("to one, {number}")).await;
    }
    for number in 0..50 {
        assert_eq!(read(&mut two).await, (1, format!("to two, {number}")));
        assert_eq!(read(&mut one).await, (2, format!("to one, {number}")));
    }
    // In seed mode an ack stands for one's own message.
    for _ in 0..50 {
        let ack = one.expect("ack").await.unwrap();
        assert!(ack["seq"].is_u64() && ack["message_id"].is_string(), "{ack}");
    }
    let rest = one.until_pong().await.unwrap();
    assert!(rest.iter().all(|frame| frame["type"] != "message"), "its own message came back: {rest:?}");
}

#[tokio::test]
async fn the_direct_peers_presence_comes_without_asking() {
    let server = Server::start().await.unwrap();
    let mut one = server.connect_seed(1).await.unwrap();
    let is = |status: &'static str| {
        move |frame: &Value| frame["type"] == "presence" && frame["user_id"] == 2 && frame["status"] == status
    };
    let two = server.connect_seed(2).await.unwrap();
    one.expect_where("user 2 online", is("online")).await.unwrap();
    // What was told before user 2 came must not count for what comes now.
    one.forget_backlog();
    two.close().await.unwrap();
    let begun = Instant::now();
    one.expect_where("user 2 offline", is("offline")).await.unwrap();
    println!("offline was told {:.1?} after the close", begun.elapsed());
    let mut two = server.connect_seed(2).await.unwrap();
    one.expect_where("user 2 online again", is("online")).await.unwrap();
    two.expect_where("user 1, who was there before", |frame| frame["user_id"] == 1 && frame["status"] == "online")
        .await
        .unwrap();
}

#[tokio::test]
async fn what_came_while_away_comes_on_the_next_connection_and_again_until_confirmed() {
    let server = Server::start().await.unwrap();
    let mut two = server.connect_seed(2).await.unwrap();
    two.until_pong().await.unwrap();
    two.close().await.unwrap();
    let mut one = server.connect_seed(1).await.unwrap();
    for number in 0..5 {
        send(&mut one, &format!("missed {number}")).await;
        one.expect("ack").await.unwrap();
    }
    for _ in 0..2 {
        // No ping of the server is answered in so short a session, so nothing is confirmed.
        let mut two = server.connect_seed(2).await.unwrap();
        for number in 0..5 {
            assert_eq!(read(&mut two).await, (1, format!("missed {number}")));
        }
        two.close().await.unwrap();
    }
    // Said to be delivered: never again.
    let mut two = server.connect_seed(2).await.unwrap();
    let mut last = Value::Null;
    for _ in 0..5 {
        last = two.expect_message(DIRECT).await.unwrap();
    }
    two.send(&json!({"type": "delivered", "chat_id": DIRECT, "seq": last["seq"]})).await.unwrap();
    // A mark has no answer.
    let marked = || async {
        let chat = server.http(2, "GET", &format!("/v1/chats/{DIRECT}"), None).await.ok()?.json().ok()?;
        (chat["delivered"] == last["seq"]).then_some(())
    };
    wait_for("the mark", BOUND, marked).await.unwrap();
    two.close().await.unwrap();
    let mut two = server.connect_seed(2).await.unwrap();
    assert_eq!(all_until(&mut two, &mut one, "fence").await, Vec::<String>::new());
}

#[tokio::test]
async fn pongs_confirm_so_that_old_messages_do_not_come_forever() {
    let server = Server::start().await.unwrap();
    let mut one = server.connect_seed(1).await.unwrap();
    let mut two = server.connect_seed(2).await.unwrap();
    let mut last = None;
    for number in 0..5 {
        send(&mut one, &format!("old {number}")).await;
        last = one.expect("ack").await.unwrap()["seq"].as_u64();
    }
    for number in 0..5 {
        assert_eq!(read(&mut two).await, (1, format!("old {number}")));
    }
    // The library answers the server's pings while this reads; the confirmation shows as a receipt for the sender.
    let begun = Instant::now();
    let idle = async {
        loop {
            match two.next().await {
                Ok(Incoming::Frame(_)) | Err(_) => {} // an error here is only that nothing came for a while
                Ok(ended) => panic!("the idle session ended: {ended:?}"),
            }
        }
    };
    let confirmed = async {
        loop {
            let frame = match one.next().await {
                Ok(Incoming::Frame(frame)) => frame,
                Ok(ended) => panic!("the sender's session ended: {ended:?}"),
                Err(_) => continue,
            };
            if frame["type"] == "receipt" && frame["user_id"] == 2 && frame["delivered"].as_u64() >= last {
                return;
            }
        }
    };
    tokio::time::timeout(CONFIRM_BOUND, async {
        tokio::select! {
            () = idle => {},
            () = confirmed => {},
        }
    })
    .await
    .expect("a pong should have confirmed the messages");
    println!("confirmed by a pong after {:.1?}", begun.elapsed());
    two.close().await.unwrap();
    let mut two = server.connect_seed(2).await.unwrap();
    assert_eq!(all_until(&mut two, &mut one, "fence").await, Vec::<String>::new(), "confirmed messages came again");
}

#[tokio::test]
async fn nothing_acked_is_lost_for_a_seed_client_over_kill_9() {
    let mut server = Server::start().await.unwrap();
    let mut one = server.connect_seed(1).await.unwrap();
    for number in 0..20 {
        send(&mut one, &format!("before {number}")).await;
        one.expect("ack").await.unwrap();
    }
    server.kill9().unwrap();
    server.restart().await.unwrap();
    let mut two = server.connect_seed(2).await.unwrap();
    for number in 0..20 {
        assert_eq!(read(&mut two).await, (1, format!("before {number}")));
    }
}
