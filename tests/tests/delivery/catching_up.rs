//! `sync`, `synced`, `gap`, `history`, and the device's confirmed position.

use std::sync::Arc;
use std::time::Duration;

use confab_tests::checker::{Device, History};
use confab_tests::harness::{Client, Mode, Server, seed};
use confab_tests::roam::{Field, roam};
use serde_json::{Value, json};

use super::{DIRECT, head, say_many};

fn seqs(frames: &[Value], kind: &str) -> Vec<u64> {
    frames.iter().filter(|frame| frame["type"] == kind).map(|frame| frame["seq"].as_u64().unwrap()).collect()
}

/// By the checker's own client, as the fault tests rely on it: nothing of a long absence is missing, whatever way it came.
#[tokio::test]
async fn a_device_that_was_away_for_long_gets_a_gap_and_the_rest_by_history() {
    const MISSED: usize = 1_500;
    const PATIENCE: Duration = Duration::from_secs(60);
    let server = Server::start().await.unwrap();
    let chat = server.create_group(11, &[12]).await.unwrap();
    let field = Arc::new(Field::new([server.addr()], seed(), 10_000..10_001, &[chat], 2));
    let start = |user: u64, messages: usize| {
        let (field, token) = (Arc::clone(&field), server.token(user));
        let device = Device { user, name: "default".to_owned() };
        tokio::spawn(async move { roam(&field, device, token, &[chat], messages, PATIENCE).await })
    };
    let sender = start(11, MISSED);
    field.reaches(MISSED as u64, "what it misses", PATIENCE).await.unwrap();
    let late = start(12, 10);
    let mut history = History::new(field.seed);
    for roamer in [sender, late] {
        history.absorb(roamer.await.unwrap().unwrap());
    }
    let report = history.judge();
    report.assert_clean();
    assert_eq!((report.counts.gaps, report.counts.acked), (1, MISSED + 10));
}

#[tokio::test]
async fn nothing_comes_before_sync_and_then_all_that_was_missed_once() {
    let server = Server::start().await.unwrap();
    let mut one = server.connect(1).await.unwrap();
    let mut two = server.connect(2).await.unwrap();
    say_many(&mut one, DIRECT, "early", 30).await;
    assert!(two.until_pong().await.unwrap().is_empty(), "events came before sync");
    let synced = two.sync(&[(DIRECT, 0)]).await.unwrap();
    let at = synced["chats"][DIRECT.to_string()].as_u64().unwrap();
    let caught_up = two.until_pong().await.unwrap();
    let all: Vec<u64> = caught_up.iter().filter_map(|frame| frame["seq"].as_u64()).collect();
    assert_eq!(all, (1..=at).collect::<Vec<_>>(), "each event once, ascending, up to what synced says");
    let live = one.say(DIRECT, "live").await.unwrap();
    assert_eq!(two.expect_message(DIRECT).await.unwrap()["seq"], live["seq"]);
}

#[tokio::test]
async fn positions_decide_and_a_second_sync_is_a_conflict() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    say_many(&mut one, DIRECT, "m", 10).await;
    let mut two = server.connect(2).await.unwrap();
    two.sync(&[(DIRECT, start + 7)]).await.unwrap();
    assert_eq!(seqs(&two.until_pong().await.unwrap(), "message"), [start + 8, start + 9, start + 10]);
    two.send(&json!({"type": "sync", "chats": {}, "ref": "again"})).await.unwrap();
    assert_eq!(two.expect_error("CONFLICT").await.unwrap()["ref"], "again");
    one.say(DIRECT, "live").await.unwrap();
    assert_eq!(two.expect_message(DIRECT).await.unwrap()["seq"], start + 11);
}

#[tokio::test]
async fn a_chat_left_out_starts_at_what_was_confirmed_and_a_new_device_at_the_head() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    say_many(&mut one, DIRECT, "m", 10).await;
    let phone = server.minter().token(2, Some("phone"));
    let mut device = Client::connect(server.addr(), &phone, Mode::Json).await.unwrap();
    device.sync(&[(DIRECT, 0)]).await.unwrap();
    device.send(&json!({"type": "delivered", "chat_id": DIRECT, "seq": start + 4})).await.unwrap();
    device.until_pong().await.unwrap();
    device.close().await.unwrap();

    let mut device = Client::connect(server.addr(), &phone, Mode::Json).await.unwrap();
    device.sync(&[]).await.unwrap();
    let missed = seqs(&device.until_pong().await.unwrap(), "message");
    assert_eq!(missed, (start + 5..=start + 10).collect::<Vec<_>>());

    let new = server.minter().token(2, Some("new"));
    let mut device = Client::connect(server.addr(), &new, Mode::Json).await.unwrap();
    device.sync(&[]).await.unwrap();
    assert!(seqs(&device.until_pong().await.unwrap(), "message").is_empty());
    one.say(DIRECT, "live").await.unwrap();
    assert_eq!(device.expect_message(DIRECT).await.unwrap()["seq"], start + 11);
}

#[tokio::test]
async fn delivered_by_message_id_confirms_as_well() {
    let server = Server::start().await.unwrap();
    let mut one = server.connect(1).await.unwrap();
    let first = one.say(DIRECT, "first").await.unwrap();
    one.say(DIRECT, "second").await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 0)]).await.unwrap();
    two.send(&json!({"type": "delivered", "chat_id": DIRECT, "message_id": first["message_id"]})).await.unwrap();
    two.until_pong().await.unwrap();
    two.close().await.unwrap();
    let mut two = server.synced(2, &[]).await.unwrap();
    let missed = two.until_pong().await.unwrap();
    // What it confirmed may still come back to it as a receipt: a device sees its own user's marks.
    let messages = missed.iter().filter(|frame| frame["type"] == "message");
    let contents: Vec<&Value> = messages.map(|frame| &frame["content"]).collect();
    assert_eq!(contents, ["second"], "{missed:?}");
}

#[tokio::test]
async fn over_a_thousand_missed_is_a_gap_and_the_newest_thousand() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    say_many(&mut one, DIRECT, "m", 1_250).await;
    let end = start + 1_250;
    let mut two = server.connect(2).await.unwrap();
    let synced = two.sync(&[(DIRECT, start)]).await.unwrap();
    assert_eq!(synced["chats"][DIRECT.to_string()], end);
    let frames = two.until_pong().await.unwrap();
    let gap = frames.iter().position(|frame| frame["type"] == "gap").unwrap();
    assert!(frames[..gap].iter().all(|frame| frame["type"] != "message"), "the gap comes before what is behind it");
    assert_eq!(frames[gap], json!({"type": "gap", "chat_id": DIRECT, "from": start + 1, "to": start + 250}));
    assert_eq!(seqs(&frames, "message"), (start + 251..=end).collect::<Vec<_>>());

    let mut rest = Vec::new();
    let mut before = start + 251;
    while before > start + 1 {
        two.send(&json!({"type": "history", "chat_id": DIRECT, "before": before, "limit": 200})).await.unwrap();
        let page = two.expect("history").await.unwrap();
        let events = page["events"].as_array().unwrap();
        let page_seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert!(page_seqs.is_sorted() && page_seqs.len() <= 200 && !page_seqs.is_empty(), "{page_seqs:?}");
        before = page_seqs[0];
        rest.extend(page_seqs);
    }
    rest.sort_unstable();
    rest.retain(|seq| *seq > start);
    assert_eq!(rest, (start + 1..=start + 250).collect::<Vec<_>>());
}

#[tokio::test]
async fn exactly_a_thousand_missed_is_no_gap() {
    let server = Server::start().await.unwrap();
    let start = head(&server, DIRECT, 1).await;
    let mut one = server.connect(1).await.unwrap();
    say_many(&mut one, DIRECT, "m", 1_000).await;
    let mut two = server.synced(2, &[(DIRECT, start)]).await.unwrap();
    let frames = two.until_pong().await.unwrap();
    assert!(frames.iter().all(|frame| frame["type"] != "gap"));
    assert_eq!(seqs(&frames, "message").len(), 1_000);
}

#[tokio::test]
async fn history_pages_back_to_the_start() {
    let server = Server::start().await.unwrap();
    let mut one = server.connect(1).await.unwrap();
    say_many(&mut one, DIRECT, "m", 25).await;
    let end = head(&server, DIRECT, 1).await;
    let mut before = end + 1;
    let mut seen = Vec::new();
    loop {
        one.send(&json!({"type": "history", "chat_id": DIRECT, "before": before, "limit": 10, "ref": "h"}))
            .await
            .unwrap();
        let page = one.expect("history").await.unwrap();
        assert_eq!((&page["ref"], &page["chat_id"]), (&json!("h"), &json!(DIRECT)));
        let events = page["events"].as_array().unwrap().clone();
        let mut page_seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert!(
            page_seqs.is_sorted() && page_seqs.iter().all(|seq| *seq < before),
            "ascending, exclusive: {page_seqs:?}"
        );
        before = page_seqs.first().copied().unwrap_or(0);
        page_seqs.extend(&seen);
        seen = page_seqs;
        if page["more"] == false {
            break;
        }
        assert_eq!(events.len(), 10);
    }
    assert_eq!(seen, (1..=end).collect::<Vec<_>>());
    for (begin, ascending) in [("", false), ("&after=0", true)] {
        let mut all: Vec<u64> = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("/v1/chats/{DIRECT}/messages?limit=5{begin}{next}");
            let response = server.http(2, "GET", &path, None).await.unwrap();
            assert_eq!(response.status, 200, "{}", response.text());
            let page = response.json().unwrap();
            let seqs = page["items"].as_array().unwrap().iter().filter_map(|event| event["seq"].as_u64());
            if ascending {
                all.extend(seqs);
            } else {
                all.splice(0..0, seqs);
            }
            let Some(cursor) = page["next"].as_str() else { break };
            next = format!("&next={cursor}");
        }
        assert_eq!(all, (1..=end).collect::<Vec<_>>(), "by {begin:?}");
    }
}

#[tokio::test]
async fn a_chat_that_was_made_while_a_known_device_was_away_comes_from_its_beginning() {
    let server = Server::start().await.unwrap();
    let mut phone = server.synced(12, &[]).await.unwrap();
    let group = server.create_group(11, &[12]).await.unwrap();
    phone.expect_where("created", |frame| frame["type"] == "chat").await.unwrap();
    phone.send(&json!({"type": "delivered", "chat_id": group, "seq": 1})).await.unwrap();
    phone.until_pong().await.unwrap();
    phone.close().await.unwrap();
    let later = server.create_group(11, &[12]).await.unwrap();
    let mut one = server.synced(11, &[]).await.unwrap();
    say_many(&mut one, later, "while away", 3).await;
    for positions in [&[(group, 1)][..], &[]] {
        let mut phone = server.connect(12).await.unwrap();
        phone.sync(positions).await.unwrap();
        let came: Vec<u64> =
            phone.until_pong().await.unwrap().iter().filter_map(|frame| frame["seq"].as_u64()).collect();
        assert_eq!(came, [1, 2, 3, 4], "with positions {positions:?}");
        phone.close().await.unwrap();
    }
}
