//! Where a user is connected, and the end of it.

use confab_tests::harness::{BOUND, Client, Mode, Poller, Server, wait_for};
use serde_json::Value;

async fn listed(server: &Server, user: u64) -> Vec<Value> {
    let answer = server.http(user, "GET", "/v1/sessions", None).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()["items"].as_array().unwrap().clone()
}

async fn connect(server: &Server, user: u64, device: &str) -> Client {
    let token = server.minter().token(user, Some(device));
    Client::connect(server.addr(), &token, Mode::Json).await.unwrap()
}

#[tokio::test]
async fn sessions_are_listed_and_revoked() {
    let server = Server::start().await.unwrap();
    let mut phone = connect(&server, 1, "phone").await;
    let mut tablet = connect(&server, 1, "tablet").await;
    let mut other = connect(&server, 2, "phone").await;
    let poller = Poller::open(server.addr(), &server.minter().token(1, Some("watch")), &[]).await.unwrap();
    let all_there = || async { (listed(&server, 1).await.len() == 3).then_some(()) };
    wait_for("all sessions", BOUND, all_there).await.unwrap();
    let sessions = listed(&server, 1).await;
    let of = |device: &str| sessions.iter().find(|session| session["device"] == device).unwrap();
    assert_eq!(of("phone")["session_id"], phone.hello["session_id"]);
    assert_eq!(of("watch")["session_id"], poller.session.as_str());
    assert!(of("tablet")["connected_at"].as_str().unwrap().ends_with('Z'), "{sessions:?}");

    let id = tablet.hello["session_id"].as_str().unwrap().to_owned();
    assert_eq!(server.http(2, "DELETE", &format!("/v1/sessions/{id}"), None).await.unwrap().status, 204);
    assert!(tablet.until_pong().await.unwrap().is_empty(), "another user's is not theirs to end");
    assert_eq!(server.http(1, "DELETE", &format!("/v1/sessions/{id}"), None).await.unwrap().status, 204);
    assert_eq!(tablet.expect_close().await.unwrap(), 4003);
    assert_eq!(server.http(1, "DELETE", "/v1/sessions?device=phone", None).await.unwrap().status, 204);
    assert_eq!(phone.expect_close().await.unwrap(), 4003);
    assert_eq!(server.http(1, "DELETE", "/v1/sessions", None).await.unwrap().status, 204);
    let gone = || async { (poller.ask(server.addr(), &poller.cursor, 0).await.ok()?.status == 410).then_some(()) };
    wait_for("the poll's end", BOUND, gone).await.unwrap();
    let none = || async { listed(&server, 1).await.is_empty().then_some(()) };
    wait_for("no sessions", BOUND, none).await.unwrap();
    other.until_pong().await.unwrap();
    assert_eq!(server.http(1, "DELETE", "/v1/sessions/mine", None).await.unwrap().status, 400);
}
