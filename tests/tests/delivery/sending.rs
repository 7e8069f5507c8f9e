//! Acks and idempotency.

use confab_tests::harness::Server;
use confab_tests::harness::client::message;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{DIRECT, head};

#[tokio::test]
async fn acks_come_in_the_order_of_the_sends_and_say_what_is_delivered() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.synced(1, &[(DIRECT, start)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, start)]).await.unwrap();
    for number in 0..200 {
        let id = number.to_string();
        one.send(&message(DIRECT, &format!("message {number}"), &id)).await.unwrap();
    }
    for number in 0..200_u64 {
        let ack = one.expect("ack").await.unwrap();
        assert_eq!(ack["client_id"], number.to_string(), "acks in the order of the sends");
        assert_eq!(ack["seq"], start + 1 + number);
        assert_eq!(ack["chat_id"], DIRECT);
        let id = Uuid::parse_str(ack["message_id"].as_str().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 7, "{ack}");
        assert!(ack.get("duplicate").is_none_or(|duplicate| *duplicate == false), "{ack}");
        for (client, own) in [(&mut one, true), (&mut two, false)] {
            let got = client.expect_message(DIRECT).await.unwrap();
            assert_eq!(got["content"], format!("message {number}"));
            for field in ["seq", "message_id", "created_at"] {
                assert_eq!(got[field], ack[field], "{field}");
            }
            assert_eq!(got["sender_id"], 1);
            let client_id = if own { json!(number.to_string()) } else { Value::Null };
            assert_eq!(got["client_id"], client_id, "client_id is for own devices only");
        }
        let time = ack["created_at"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "RFC 3339 UTC with milliseconds: {time}");
    }
}

#[tokio::test]
async fn a_message_may_carry_media_a_reply_and_mentions() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 0)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 0)]).await.unwrap();
    let first = one.say(DIRECT, "first").await.unwrap();
    let mut frame = message(DIRECT, "", "with-media");
    frame["media_url"] = json!("https://example.org/cat.png");
    frame["reply_to"] = first["seq"].clone();
    frame["mentions"] = json!([2]);
    one.send(&frame).await.unwrap();
    one.answer_to("with-media").await.unwrap();
    two.expect_message(DIRECT).await.unwrap();
    let got = two.expect_message(DIRECT).await.unwrap();
    for field in ["media_url", "reply_to", "mentions", "content"] {
        assert_eq!(got[field], frame[field], "{field}");
    }
}

#[tokio::test]
async fn a_repeat_gets_the_first_result_and_another_body_a_conflict() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 0)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 0)]).await.unwrap();
    let first = one.say_as(DIRECT, "once", "key").await.unwrap();
    let again = one.say_as(DIRECT, "once", "key").await.unwrap();
    assert_eq!(again["duplicate"], true);
    for field in ["seq", "message_id", "created_at"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    one.send(&message(DIRECT, "something else", "key")).await.unwrap();
    let error = one.expect_error("CONFLICT").await.unwrap();
    assert_eq!(error["client_id"], "key");
    assert_eq!(error["retryable"], false);
    // The key is within (sender, device, chat): others may use it.
    let others = two.say_as(DIRECT, "once", "key").await.unwrap();
    assert_ne!(others["seq"], first["seq"]);
    let tablet = server.minter().token(1, Some("tablet"));
    let mut tablet = connect(&server, &tablet).await;
    let from_tablet = tablet.say_as(DIRECT, "once", "key").await.unwrap();
    assert_ne!(from_tablet["seq"], first["seq"]);
    let group = server.create_group(1, &[2]).await.unwrap();
    assert!(one.say_as(group, "once", "key").await.unwrap()["duplicate"] != true);
    // What was repeated is there once: user 2 gets three messages, without a hole.
    let seqs: Vec<u64> = contents(&mut two, 3).await;
    assert_eq!(seqs.windows(2).filter(|pair| pair[1] == pair[0] + 1).count(), 2, "{seqs:?}");
}

async fn connect(server: &Server, token: &str) -> confab_tests::harness::Client {
    confab_tests::harness::Client::connect(server.addr(), token, confab_tests::harness::Mode::Json).await.unwrap()
}

async fn contents(client: &mut confab_tests::harness::Client, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    for _ in 0..count {
        let got = client.expect_message(DIRECT).await.unwrap();
        assert_eq!(got["content"], "once");
        seqs.push(got["seq"].as_u64().unwrap());
    }
    seqs
}

#[tokio::test]
async fn repeats_in_one_go_are_one_message() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    let mut second = server.connect(1).await.unwrap();
    for _ in 0..50 {
        one.send(&message(DIRECT, "same", "key")).await.unwrap();
        second.send(&message(DIRECT, "same", "key")).await.unwrap();
    }
    let mut first_hand = 0;
    for client in [&mut one, &mut second] {
        for _ in 0..50 {
            let ack = client.answer_to("key").await.unwrap();
            assert_eq!(ack["seq"], start + 1);
            first_hand += usize::from(ack["duplicate"] != true);
        }
    }
    assert_eq!(first_hand, 1, "one of the acks is of the first try");
    assert_eq!(head(&server, DIRECT, 1).await, start + 1);
}

#[tokio::test]
async fn idempotency_and_the_log_survive_kill_9() {
    let mut server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    let mut acks = Vec::new();
    for number in 0..20 {
        acks.push(one.say_as(DIRECT, &format!("message {number}"), &number.to_string()).await.unwrap());
    }
    server.kill9().unwrap();
    server.restart().await.unwrap();
    let mut one = server.connect(1).await.unwrap();
    for (number, first) in acks.iter().enumerate() {
        let again = one.say_as(DIRECT, &format!("message {number}"), &number.to_string()).await.unwrap();
        assert_eq!(again["duplicate"], true, "{again}");
        assert_eq!((&again["seq"], &again["message_id"]), (&first["seq"], &first["message_id"]));
    }
    one.send(&message(DIRECT, "something else", "7")).await.unwrap();
    one.expect_error("CONFLICT").await.unwrap();
    let next = one.say(DIRECT, "new").await.unwrap();
    assert_eq!(next["seq"], start + 21, "a new one goes on where the log ended");
}

#[tokio::test]
async fn without_a_client_id_each_send_is_a_message() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    for number in 1..=3_u64 {
        one.send(&json!({"type": "message", "chat_id": DIRECT, "content": "same", "media_url": null, "ref": "r"}))
            .await
            .unwrap();
        let ack = one.expect("ack").await.unwrap();
        assert_eq!((&ack["seq"], &ack["ref"]), (&json!(start + number), &json!("r")));
    }
}
