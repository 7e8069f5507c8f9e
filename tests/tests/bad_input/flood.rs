//! A thousand bad frames in a row while others talk on; and more than may come in a minute.

use std::time::{Duration, Instant};

use confab_tests::harness::{Client, Server};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const BAD: usize = 1_000;

/// Sends bad frames without waiting, and counts their errors: (plain ones, RATE_LIMITED ones).
async fn flood(server: &Server) -> (usize, usize, Duration) {
    let begun = Instant::now();
    let mut client = server.connect(3).await.unwrap();
    let mut limited = 0;
    let mut plain = 0;
    let mut sent = 0;
    while plain < BAD {
        // A few hundred ahead of the answers: in a row, without filling both sockets.
        while sent < BAD && sent < plain + 200 {
            client.send_raw(Message::text(format!("{{bad frame {sent}"))).await.unwrap();
            sent += 1;
        }
        let error = client.expect("error").await.unwrap();
        match error["code"].as_str() {
            Some("INVALID_FRAME") => plain += 1,
            Some("RATE_LIMITED") => limited += 1,
            other => panic!("{other:?} for a bad frame"),
        }
    }
    let others = client.until_pong().await.unwrap();
    assert!(others.is_empty(), "more answers than frames: {others:?}");
    (plain, limited, begun.elapsed())
}

/// Users 1 and 2 talk, one message at a time, until `stop`; gives the times from send to delivery.
async fn talk(one: &mut Client, two: &mut Client, stop: &tokio::sync::watch::Receiver<bool>) -> Vec<Duration> {
    let mut times = Vec::new();
    while !*stop.borrow() {
        let begun = Instant::now();
        let content = format!("message {}", times.len());
        let ack = one.say(1, &content).await.unwrap();
        let came = two.expect_message(1).await.unwrap();
        assert_eq!((&came["seq"], &came["content"]), (&ack["seq"], &Value::from(content)));
        times.push(begun.elapsed());
        one.forget_backlog();
        two.forget_backlog();
        tokio::time::sleep(Duration::from_millis(10)).await; // the pace of the talk
    }
    times.sort_unstable();
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_bad_frames_in_a_row_cost_the_others_nothing() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(1, 0)]).await.unwrap();
    let mut two = server.synced(2, &[(1, 0)]).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let talking = tokio::spawn(async move { talk(&mut one, &mut two, &stopped).await });
    let (plain, limited, took) = flood(&server).await;
    stop.send_replace(true);
    let times = talking.await.unwrap();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{plain} bad frames answered in {took:.1?} ({limited} RATE_LIMITED); meanwhile {} messages: p50 {:.1?}, p95 {:.1?}, max {:.1?}",
        times.len(),
        at(50),
        at(95),
        at(100)
    );
    assert_eq!(plain, BAD);
    assert_eq!(limited, 1, "RATE_LIMITED comes once");
    assert!(took > Duration::from_millis(20) * u32::try_from(BAD - 20).unwrap(), "no pauses: {took:.1?}");
    assert!(times.len() >= 50, "only {} messages", times.len());
    assert!(at(50) < Duration::from_millis(100) && at(95) < Duration::from_millis(500), "the others' talk suffered");
}

#[tokio::test]
async fn over_two_thousand_bad_frames_a_minute_close_with_4009() {
    let server = Server::start().await.unwrap();
    let mut client = server.connect(3).await.unwrap();
    let mut good = server.connect(1).await.unwrap();
    let mut sent = 0;
    let mut answered = 0;
    let code = loop {
        while sent < answered + 200 {
            if client.send_raw(Message::text("{bad")).await.is_err() {
                break;
            }
            sent += 1;
        }
        match client.next().await.unwrap() {
            confab_tests::harness::Incoming::Frame(frame) => {
                assert_eq!(frame["type"], "error", "{frame}");
                answered += 1;
            }
            confab_tests::harness::Incoming::Closed(code) => break code,
            other @ confab_tests::harness::Incoming::Lost(_) => panic!("{other:?} after {answered} answers"),
        }
        assert!(answered < 2_300, "{answered} bad frames and still open");
    };
    println!("closed with {code} after {answered} answers");
    assert_eq!(code, 4009);
    assert!(answered >= 2_000, "closed after only {answered} answers");
    good.send(&json!({"type": "ping"})).await.unwrap();
    good.expect("pong").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_are_far_too_large_in_a_row_cost_the_others_nothing() {
    let server = Server::start().await.unwrap();
    let mut one = server.synced(1, &[(1, 0)]).await.unwrap();
    let mut two = server.synced(2, &[(1, 0)]).await.unwrap();
    let mut big = server.connect(1).await.unwrap();
    let content = "x".repeat(120 * 1024);
    for number in 0..60 {
        big.send(&json!({"type": "message", "chat_id": 1, "content": content, "client_id": format!("big-{number}")}))
            .await
            .unwrap();
    }
    for number in 0..20 {
        let ack = one.say(1, &format!("message {number}")).await.unwrap();
        assert_eq!(two.expect_message(1).await.unwrap()["seq"], ack["seq"]);
    }
    for number in 0..60 {
        let client_id = format!("big-{number}");
        let error = big.expect_where(&client_id, |frame| frame["client_id"] == *client_id).await.unwrap();
        assert_eq!((&error["code"], &error["field"]), (&json!("TOO_LARGE"), &json!("content")));
    }
}
