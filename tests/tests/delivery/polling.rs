//! Long polls: the same frames as by a WebSocket, in pages.

use std::time::{Duration, Instant};

use confab_tests::harness::client::message;
use confab_tests::harness::{BOUND, Poller, Server, wait_for};
use serde_json::{Value, json};

use super::DIRECT;

fn is_message(frame: &Value) -> bool {
    frame["type"] == "message"
}

async fn open(server: &Server, user: u64, positions: &[(u64, u64)]) -> Poller {
    Poller::open(server.addr(), &server.token(user), positions).await.unwrap()
}

#[tokio::test]
async fn a_poll_gets_what_it_missed_then_what_comes_and_each_once() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    for number in 0..3 {
        one.say(DIRECT, &format!("before {number}")).await.unwrap();
    }
    let mut two = open(&server, 2, &[(DIRECT, 2)]).await;
    let hello = two.backlog.pop_front().unwrap();
    assert_eq!((&hello["user_id"], &hello["session_id"]), (&json!(2), &json!(two.session)));
    let synced = two.expect(server.addr(), "synced").await.unwrap();
    assert_eq!(synced["chats"], json!({"1": 4}));
    let missed: Vec<Value> = two.backlog.drain(..).filter(is_message).map(|frame| frame["seq"].clone()).collect();
    assert_eq!(missed, [3, 4]);

    for number in 0..20 {
        one.say(DIRECT, &format!("after {number}")).await.unwrap();
        let next = two.expect_where(server.addr(), "a message", is_message).await.unwrap();
        assert_eq!((&next["content"], &next["seq"]), (&json!(format!("after {number}")), &json!(5 + number)));
    }
    let begun = Instant::now();
    assert_eq!(two.poll(server.addr(), 1).await.unwrap(), 0, "{:?}", two.backlog);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(!two.backlog.iter().any(is_message), "twice: {:?}", two.backlog);
}

#[tokio::test]
async fn the_cursor_confirms_and_the_one_before_gives_the_same_again() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let mut two = open(&server, 2, &[(DIRECT, 1)]).await;
    two.expect(server.addr(), "synced").await.unwrap();
    let seq = one.say(DIRECT, "hello").await.unwrap()["seq"].clone();
    let before = two.cursor.clone();
    let page = two.ask(server.addr(), &before, 5).await.unwrap().json().unwrap();
    assert!(page["frames"].as_array().unwrap().iter().any(is_message), "{page}");
    // It may have got lost on its way.
    assert_eq!(two.ask(server.addr(), &before, 5).await.unwrap().json().unwrap(), page);
    let receipts = one.until_pong().await.unwrap();
    assert!(!receipts.iter().any(|frame| frame["type"] == "receipt" && frame["delivered"] == seq), "{receipts:?}");

    let next = page["cursor"].as_str().unwrap();
    assert_eq!(two.ask(server.addr(), next, 0).await.unwrap().status, 200);
    let delivered = |frame: &Value| frame["type"] == "receipt" && frame["delivered"] == seq;
    one.expect_where("the receipt", delivered).await.unwrap();
    let old = two.ask(server.addr(), &before, 0).await.unwrap();
    assert_eq!((old.status, &old.json().unwrap()["field"]), (400, &json!("cursor")));
}

#[tokio::test]
async fn a_newer_poll_ends_an_older_one() {
    let server = Server::start().await.unwrap();
    let mut two = open(&server, 2, &[(DIRECT, 1)]).await;
    two.expect(server.addr(), "synced").await.unwrap();
    while two.poll(server.addr(), 1).await.unwrap() > 0 {}
    let (older, newer) = tokio::join!(two.ask(server.addr(), &two.cursor, 10), async {
        // Whichever comes second ends the other.
        two.ask(server.addr(), &two.cursor, 1).await
    });
    let mut statuses = [older.unwrap().status, newer.unwrap().status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test]
async fn frames_are_sent_in_order_and_each_answered() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let mut two = open(&server, 2, &[(DIRECT, 1)]).await;
    let frames = [
        message(DIRECT, "first", "a"),
        message(DIRECT, "second", "b"),
        message(DIRECT, "first", "a"),
        json!({"type": "message", "chat_id": DIRECT, "ref": "r"}),
        json!({"type": "message", "chat_id": 99, "content": "x", "client_id": "c"}),
        json!({"type": "edit", "chat_id": DIRECT, "target": 2, "content": "changed", "client_id": "d"}),
        json!({"type": "ping", "ref": "p"}),
        json!({"type": "dance"}),
        json!({"type": "read", "chat_id": DIRECT, "seq": 99, "ref": "far"}),
        json!({"type": "read", "chat_id": DIRECT, "seq": 2}),
        json!({"type": "typing", "chat_id": DIRECT}),
        json!({"type": "presence", "user_id": 2, "status": "online"}),
    ];
    let answers = two.send(server.addr(), &frames).await.unwrap();
    let told: Vec<(&str, &str)> = answers
        .iter()
        .map(|answer| (answer["type"].as_str().unwrap(), answer["code"].as_str().unwrap_or_default()))
        .collect();
    let error = |code: &'static str| ("error", code);
    let expected = [
        ("ack", ""),
        ("ack", ""),
        ("ack", ""),
        error("INVALID_FRAME"),
        error("NOT_MEMBER"),
        ("ack", ""),
        ("pong", ""),
        error("UNKNOWN_TYPE"),
        error("NOT_FOUND"),
    ];
    assert_eq!(told, expected, "{answers:?}");
    assert_eq!([&answers[0]["seq"], &answers[1]["seq"], &answers[2]["seq"]], [2, 3, 2]);
    assert_eq!((&answers[2]["duplicate"], &answers[0]["client_id"]), (&json!(true), &json!("a")));
    assert_eq!((&answers[3]["field"], &answers[3]["ref"]), (&json!("content"), &json!("r")));
    assert_eq!((&answers[4]["client_id"], &answers[6]["ref"]), (&json!("c"), &json!("p")));
    assert_eq!(answers[8]["ref"], "far");

    for content in ["first", "second"] {
        assert_eq!(one.expect_message(DIRECT).await.unwrap()["content"], content);
    }
    one.expect("edited").await.unwrap();
    one.expect("typing").await.unwrap();
    let read = |frame: &Value| frame["type"] == "receipt" && frame["read"] == 2;
    one.expect_where("the receipt", read).await.unwrap();
    // What it has sent itself comes, too, as to any connection.
    let own = two.expect_where(server.addr(), "its own", is_message).await.unwrap();
    assert_eq!((&own["content"], &own["client_id"]), (&json!("first"), &json!("a")));
}

#[tokio::test]
async fn longer_answers_come_by_the_next_poll() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    one.say(DIRECT, "hello").await.unwrap();
    let mut two = open(&server, 2, &[(DIRECT, 2)]).await;
    two.expect(server.addr(), "synced").await.unwrap();
    let frames = [
        json!({"type": "history", "chat_id": DIRECT, "ref": "h"}),
        json!({"type": "watch", "user_ids": [1, 77], "ref": "w"}),
        json!({"type": "sync", "chats": {}, "ref": "s"}),
    ];
    assert!(two.send(server.addr(), &frames).await.unwrap().is_empty());
    let history = two.expect(server.addr(), "history").await.unwrap();
    assert_eq!((&history["ref"], history["events"].as_array().unwrap().len()), (&json!("h"), 2));
    let refused = |reference: &'static str| move |frame: &Value| frame["type"] == "error" && frame["ref"] == reference;
    assert_eq!(two.expect_where(server.addr(), "w", refused("w")).await.unwrap()["code"], "FORBIDDEN");
    assert_eq!(two.expect_where(server.addr(), "s", refused("s")).await.unwrap()["code"], "CONFLICT");
    let online = |frame: &Value| frame["type"] == "presence" && frame["user_id"] == 1;
    assert_eq!(two.expect_where(server.addr(), "presence", online).await.unwrap()["status"], "online");
}

#[tokio::test]
async fn who_fetches_no_answers_gets_no_more_of_them() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    for _ in 0..100 {
        one.say(DIRECT, &"x".repeat(1_000)).await.unwrap();
    }
    let mut two = open(&server, 2, &[(DIRECT, 101)]).await;
    two.expect(server.addr(), "synced").await.unwrap();
    let ask = |reference: &str| json!({"type": "history", "chat_id": DIRECT, "limit": 200, "ref": reference});
    let many: Vec<Value> = (0..8).map(|number| ask(&format!("{number}"))).collect();
    assert!(two.send(server.addr(), &many).await.unwrap().is_empty());
    let refused = async || two.send(server.addr(), &[ask("more")]).await.unwrap().pop();
    let refused = wait_for("a refusal", BOUND, refused).await.unwrap();
    assert_eq!((&refused["code"], &refused["ref"]), (&json!("UNAVAILABLE"), &json!("more")), "{refused}");
    for number in 0..8 {
        let history = two.expect(server.addr(), "history").await.unwrap();
        // A long answer ends where it is long enough.
        let events = history["events"].as_array().unwrap().len();
        assert!((40..100).contains(&events) && history["more"] == true, "answer {number}: {events} events");
    }
    assert!(two.send(server.addr(), &[ask("again")]).await.unwrap().is_empty());
    let again = |frame: &Value| frame["type"] == "history" && frame["ref"] == "again";
    two.expect_where(server.addr(), "an answer, once there is room", again).await.unwrap();
}

#[tokio::test]
async fn a_session_is_its_users_until_it_ends() {
    let server = Server::start().await.unwrap();
    let mut two = open(&server, 2, &[(DIRECT, 1)]).await;
    two.expect(server.addr(), "synced").await.unwrap();
    let path = format!("/poll?session={}&cursor={}&wait=0", two.session, two.cursor);
    let sends = format!("/poll/send?session={}", two.session);
    for (user, status) in [(1, 403), (2, 200)] {
        assert_eq!(server.http(user, "GET", &path, None).await.unwrap().status, status);
        assert_eq!(server.http(user, "POST", &sends, Some(&json!([]))).await.unwrap().status, status);
    }
    assert_eq!(server.http(1, "DELETE", &format!("/poll?session={}", two.session), None).await.unwrap().status, 403);
    assert_eq!(two.end(server.addr()).await.unwrap(), 204);
    let gone = two.ask(server.addr(), &two.cursor, 0).await.unwrap();
    assert_eq!((gone.status, &gone.json().unwrap()["code"]), (410, &json!("SESSION_GONE")));
    assert_eq!(two.end(server.addr()).await.unwrap(), 410);
}

#[tokio::test]
async fn a_client_goes_from_polls_to_a_socket_and_back() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let mut seen = vec![1];
    for round in 0..3 {
        let said = |what: &str| format!("{round}: {what}");
        let last = *seen.last().unwrap();
        let mut poller = open(&server, 2, &[(DIRECT, last)]).await;
        one.say(DIRECT, &said("to a poll")).await.unwrap();
        let by_poll = poller.expect_where(server.addr(), "a message", is_message).await.unwrap();
        seen.push(by_poll["seq"].as_u64().unwrap());
        // What comes while nobody asks.
        one.say(DIRECT, &said("to nobody")).await.unwrap();
        let mut socket = server.connect(2).await.unwrap();
        socket.sync(&[(DIRECT, *seen.last().unwrap())]).await.unwrap();
        one.say(DIRECT, &said("to a socket")).await.unwrap();
        for _ in 0..2 {
            seen.push(socket.expect_message(DIRECT).await.unwrap()["seq"].as_u64().unwrap());
        }
        socket.close().await.unwrap();
    }
    assert_eq!(seen, (1..=10).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_poll_that_nobody_asks_for_goes_on_when_somebody_does() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    one.send(&json!({"type": "watch", "user_ids": [2]})).await.unwrap();
    let mut two = open(&server, 2, &[(DIRECT, 1)]).await;
    two.expect(server.addr(), "synced").await.unwrap();
    while two.poll(server.addr(), 0).await.unwrap() > 0 {}
    two.backlog.clear();
    let status = |status: &'static str| {
        move |frame: &Value| frame["type"] == "presence" && frame["user_id"] == 2 && frame["status"] == status
    };
    one.expect_where("online", status("online")).await.unwrap();
    one.forget_backlog();
    // Its answer comes while nobody asks.
    let asked = json!({"type": "history", "chat_id": DIRECT, "ref": "before it rests"});
    assert!(two.send(server.addr(), &[asked]).await.unwrap().is_empty());
    // A poller is online while its polls go on: it rests after 20 s, and there is a grace.
    let begun = Instant::now();
    while !one.until_pong().await.unwrap().iter().any(status("offline")) {
        assert!(begun.elapsed() < 3 * BOUND, "still online");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    one.say(DIRECT, "while it rests").await.unwrap();
    let next = two.expect_where(server.addr(), "the message", is_message).await.unwrap();
    assert_eq!(next["content"], "while it rests");
    let answer = two.expect(server.addr(), "history").await.unwrap();
    assert_eq!(answer["ref"], "before it rests");
    one.expect_where("online again", status("online")).await.unwrap();
    assert!(
        !two.backlog.iter().any(|frame| frame["type"] == "synced" || frame["type"] == "hello"),
        "{:?}",
        two.backlog
    );
}
