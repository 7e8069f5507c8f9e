//! More than one user, or one address, may ask: it is refused with the time to wait, and nothing else is harmed.

use std::time::{Duration, Instant};

use confab_tests::harness::client::{message, upgrade};
use confab_tests::harness::{Client, Mode, Server, http};
use serde_json::json;

const DIRECT: u64 = 1;

async fn start(limits: &[(&str, &str)], args: &[&str]) -> (tempfile::TempDir, Server) {
    let own = tempfile::tempdir().unwrap();
    let env: Vec<(String, &str)> =
        limits.iter().map(|(name, value)| (format!("CONFAB_EDGE__LIMITS__{name}"), *value)).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let server = Server::start_on(&own.path().join("data"), &env, args).await.unwrap();
    (own, server)
}

#[tokio::test]
async fn messages_above_the_burst_wait_as_told_and_others_go_on() {
    let (_own, server) = start(&[("MESSAGES_PER_SECOND", "5"), ("MESSAGES_BURST", "10")], &[]).await;
    let mut one = server.synced(1, &[(DIRECT, 1)]).await.unwrap();
    let mut two = server.synced(2, &[(DIRECT, 1)]).await.unwrap();
    let begun = Instant::now();
    for number in 0..40 {
        one.send(&message(DIRECT, "hello", &format!("m{number}"))).await.unwrap();
    }
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    for number in 0..40 {
        let id = format!("m{number}");
        let answer = one.expect_where("an answer", |frame| frame["client_id"] == *id && frame["type"] != "message");
        let answer = answer.await.unwrap();
        if answer["type"] == "ack" { acked.push(id) } else { refused.push(answer) }
    }
    let (acked, most) = (acked.len() as u64, 10 + 5 * (begun.elapsed().as_secs() + 1));
    assert!(acked >= 10 && acked <= most, "{acked} of at most {most}");
    for answer in &refused {
        assert_eq!((&answer["code"], &answer["retryable"]), (&json!("RATE_LIMITED"), &json!(true)), "{answer}");
    }
    let wait = refused.last().unwrap()["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&wait), "{wait} ms");
    two.say(DIRECT, "nobody else is harmed").await.unwrap();
    tokio::time::sleep(Duration::from_millis(wait)).await;
    one.say(DIRECT, "there is room again").await.unwrap();
    let messages = format!("/v1/chats/{DIRECT}/messages");
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(server.http(1, "POST", &messages, Some(&json!({"content": "by HTTP"}))).await.unwrap().status);
    }
    assert!(answers.contains(&429), "the same by HTTP: {answers:?}");
}

#[tokio::test]
async fn connects_and_requests_of_a_user_are_bounded() {
    let limits = [("CONNECTS_PER_SECOND", "1"), ("CONNECTS_BURST", "3"), ("HTTP_PER_SECOND", "1"), ("HTTP_BURST", "3")];
    let (_own, server) = start(&limits, &[]).await;
    let mut connected = Vec::new();
    // However slow this machine is: more than flows in meanwhile.
    let refused = loop {
        let path = format!("/ws?token={}", server.token(1));
        match Client::connect_with(server.addr(), upgrade(server.addr(), &path, &[]).unwrap()).await {
            Ok(client) => connected.push(client),
            Err(error) => break format!("{error:#}"),
        }
        assert!(connected.len() < 50, "there is no bound");
    };
    assert!(connected.len() >= 3 && refused.contains("429"), "{} connected, then {refused}", connected.len());
    connected.push(server.connect(2).await.unwrap());
    let mut asked = 0;
    let last = loop {
        let answer = server.http(1, "GET", "/v1/chats", None).await.unwrap();
        if answer.status != 200 {
            break answer;
        }
        asked += 1;
        assert!(asked < 200, "there is no bound");
    };
    assert!(asked >= 3, "after {asked}");
    assert_eq!((last.status, &last.json().unwrap()["code"]), (429, &json!("RATE_LIMITED")));
    assert!(
        last.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|s| (1..=2).contains(&s)))
    );
    assert_eq!(server.http(2, "GET", "/v1/chats", None).await.unwrap().status, 200);
    for client in &mut connected {
        client.send(&json!({"type": "ping"})).await.unwrap();
        client.expect("pong").await.unwrap();
    }
}

#[tokio::test]
async fn an_address_is_the_one_that_the_proxy_names() {
    let limits =
        [("ADDRESS_CONNECTS_PER_SECOND", "1"), ("ADDRESS_CONNECTS_BURST", "2"), ("ADDRESS_HTTP_PER_SECOND", "1")];
    let limits = [&limits[..], &[("ADDRESS_HTTP_BURST", "2")]].concat();
    let (_own, server) = start(&limits, &["--behind-proxy", "127.0.0.1"]).await;
    let path = format!("/ws?token={}", server.token(1));
    let connect = async |forwarded: &str| {
        let request = upgrade(server.addr(), &path, &[("x-forwarded-for", forwarded)]).unwrap();
        Client::connect_with(server.addr(), request).await.map(drop).map_err(|error| format!("{error:#}"))
    };
    // The header as a client writes it, and the proxy adds to it.
    let named = ["192.0.2.7", "6.6.6.6, 192.0.2.7", "7.7.7.7, 192.0.2.7"];
    let mut connected = 0;
    let refused = loop {
        match connect(named[connected % named.len()]).await {
            Ok(()) => connected += 1,
            Err(error) => break error,
        }
        assert!(connected < 50, "what a client writes itself counts");
    };
    assert!(connected >= 2 && refused.contains("429"), "{connected} connected, then {refused}");
    connect("192.0.2.8").await.unwrap();
    // Who comes without a proxy's word is this machine.
    for _ in 0..5 {
        Client::connect(server.addr(), &server.token(2), Mode::Json).await.unwrap();
    }
    let get = format!(
        "GET /v1/chats HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.9\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token(1)
    );
    let mut asked = 0;
    while http::raw(server.addr(), get.as_bytes()).await.unwrap().status != 429 {
        asked += 1;
        assert!(asked < 200, "there is no bound");
    }
    assert!(asked >= 2, "after {asked}");
}
