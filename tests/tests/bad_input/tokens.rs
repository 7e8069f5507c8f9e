//! Tokens: none, expired, unsigned, of another key, of another user; in all three places.

use confab_tests::harness::client::{refusal, upgrade};
use confab_tests::harness::token::{Minter, now, unsigned};
use confab_tests::harness::{Client, Server, http};
use serde_json::json;

/// Tokens that must not open a session, and the close code for those who can't see a 401.
fn bad_tokens(server: &Server) -> Vec<(&'static str, String, u16)> {
    let minter = server.minter();
    let good = minter.token(1, None);
    let hour = now() + 3600;
    let (head, tail) = good.rsplit_once('.').unwrap();
    let twisted = format!("{head}.{}", tail.chars().rev().collect::<String>());
    vec![
        ("expired beyond the leeway", minter.sign(&json!({"sub": "1", "exp": now() - 60})), 4001),
        ("alg none", unsigned(&good), 4003),
        ("another key", Minter::with_secret(b"a secret of somebody else, 32 bytes").token(1, None), 4003),
        ("an empty key", Minter::with_secret(b"").token(1, None), 4003),
        ("a twisted signature", twisted, 4003),
        ("no signature", format!("{head}."), 4003),
        ("no exp", minter.sign(&json!({"sub": "1"})), 4003),
        ("exp as text", minter.sign(&json!({"sub": "1", "exp": hour.to_string()})), 4003),
        ("no sub", minter.sign(&json!({"exp": hour})), 4003),
        ("sub as a number", minter.sign(&json!({"sub": 1, "exp": hour})), 4003),
        ("sub not decimal", minter.sign(&json!({"sub": "0x1", "exp": hour})), 4003),
        ("sub negative", minter.sign(&json!({"sub": "-1", "exp": hour})), 4003),
        ("sub over 2^53", minter.sign(&json!({"sub": "9007199254740993", "exp": hour})), 4003),
        ("a device with a space", minter.sign(&json!({"sub": "1", "exp": hour, "device": "my phone"})), 4003),
        ("a device of 65 characters", minter.sign(&json!({"sub": "1", "exp": hour, "device": "d".repeat(65)})), 4003),
        ("no token at all", "garbage".to_owned(), 4003),
    ]
}

#[tokio::test]
async fn a_bad_token_is_401_in_the_query_and_in_the_header_and_over_http() {
    let server = Server::start().await.unwrap();
    let addr = server.addr();
    assert_eq!(refusal(addr, upgrade(addr, "/ws", &[]).unwrap()).await.unwrap(), 401, "no token");
    assert_eq!(refusal(addr, upgrade(addr, "/ws?token=", &[]).unwrap()).await.unwrap(), 401, "an empty token");
    assert_eq!(http::request(addr, "GET", "/v1/chats", None, None).await.unwrap().status, 401, "no token");
    for (name, token, _) in bad_tokens(&server) {
        let query = upgrade(addr, &format!("/ws?token={token}"), &[]).unwrap();
        assert_eq!(refusal(addr, query).await.unwrap(), 401, "in the query: {name}");
        let bearer = format!("Bearer {token}");
        let header = upgrade(addr, "/ws", &[("authorization", bearer.as_str())]).unwrap();
        assert_eq!(refusal(addr, header).await.unwrap(), 401, "in the header: {name}");
        let answer = http::request(addr, "GET", "/v1/chats", Some(&token), None).await.unwrap();
        assert_eq!(answer.status, 401, "over HTTP: {name}");
        assert_eq!(answer.json().unwrap()["code"], "UNAUTHENTICATED", "{name}");
    }
}

#[tokio::test]
async fn a_browser_sees_an_error_frame_and_a_close_code_instead() {
    let server = Server::start().await.unwrap();
    let addr = server.addr();
    let origin = format!("http://{addr}");
    for (name, token, code) in bad_tokens(&server) {
        let protocols = format!("confab.v1.json, bearer.{token}");
        let by_protocol = upgrade(addr, "/ws", &[("sec-websocket-protocol", protocols.as_str())]).unwrap();
        let by_origin = upgrade(addr, &format!("/ws?token={token}"), &[("origin", origin.as_str())]).unwrap();
        for (way, request) in [("bearer.", by_protocol), ("Origin", by_origin)] {
            let mut client =
                Client::connect_raw(addr, request).await.unwrap_or_else(|error| panic!("{way}, {name}: {error:#}"));
            client.expect_error("UNAUTHENTICATED").await.unwrap_or_else(|error| panic!("{way}, {name}: {error:#}"));
            assert_eq!(client.expect_close().await.unwrap(), code, "{way}, {name}");
        }
    }
}

#[tokio::test]
async fn a_good_token_works_in_all_three_places_and_bearer_alone_is_400() {
    let server = Server::start().await.unwrap();
    let addr = server.addr();
    let token = server.minter().token(2, Some("phone.1_x-y"));
    let bearer = format!("Bearer {token}");
    let protocols = format!("confab.v1.json, bearer.{token}");
    for request in [
        upgrade(addr, &format!("/ws?token={token}"), &[]),
        upgrade(addr, "/ws", &[("authorization", bearer.as_str())]),
        upgrade(addr, "/ws", &[("sec-websocket-protocol", protocols.as_str())]),
    ] {
        let client = Client::connect_with(addr, request.unwrap()).await.unwrap();
        assert_eq!(client.user, 2);
        assert_eq!(client.hello["device"], "phone.1_x-y");
    }
    let alone = format!("bearer.{token}");
    let request = upgrade(addr, "/ws", &[("sec-websocket-protocol", alone.as_str())]).unwrap();
    assert_eq!(refusal(addr, request).await.unwrap(), 400);
    assert!(!server.log_tail().contains(&token), "a token is in the log");
}

#[tokio::test]
async fn a_token_within_the_leeway_works_and_its_session_ends_with_4001() {
    let server = Server::start().await.unwrap();
    let late = server.minter().sign(&json!({"sub": "1", "exp": now() - 26}));
    let mut client = Client::connect(server.addr(), &late, confab_tests::harness::Mode::Json).await.unwrap();
    client.say(1, "still in time").await.unwrap();
    assert_eq!(client.expect_close().await.unwrap(), 4001);
}

#[tokio::test]
async fn auth_refreshes_the_session() {
    let server = Server::start().await.unwrap();
    let late = server.minter().sign(&json!({"sub": "1", "exp": now() - 24}));
    let mut client = Client::connect(server.addr(), &late, confab_tests::harness::Mode::Json).await.unwrap();
    client.send(&json!({"type": "auth", "token": server.token(1), "ref": "a"})).await.unwrap();
    let authed = client.expect("authed").await.unwrap();
    assert_eq!(authed["ref"], "a");
    assert!(authed["expires_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{authed}");
    // Past the first token's end: the session lives on the second one.
    let deadline = std::time::Duration::from_secs(10);
    let ended = tokio::time::timeout(deadline, client.expect_close()).await;
    assert!(ended.is_err(), "the session ended though its token was refreshed: {ended:?}");
}

#[tokio::test]
async fn another_sub_in_auth_closes_with_4003() {
    let server = Server::start().await.unwrap();
    let mut client = server.connect(1).await.unwrap();
    client.send(&json!({"type": "auth", "token": server.token(2)})).await.unwrap();
    assert_eq!(client.expect_close().await.unwrap(), 4003);
}

#[tokio::test]
async fn a_bad_token_in_auth_is_refused() {
    let server = Server::start().await.unwrap();
    let mut client = server.connect(1).await.unwrap();
    client.send(&json!({"type": "auth", "token": unsigned(&server.token(1)), "ref": "a"})).await.unwrap();
    assert_eq!(client.expect_error("UNAUTHENTICATED").await.unwrap()["ref"], "a");
}
