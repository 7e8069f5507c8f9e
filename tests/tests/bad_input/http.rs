//! HTTP: slow and oversized headers, no upgrade, bad bodies and paths.

use std::time::{Duration, Instant};

use confab_tests::harness::client::{refusal, upgrade};
use confab_tests::harness::{Server, http};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

/// How long the server may wait for a request's head.
const HEAD_BOUND: Duration = Duration::from_secs(16);

/// Writes `first`, then a byte of a header every half second, until the server ends the connection.
async fn drip(server: &Server, first: &str, drips: bool) -> Duration {
    let begun = Instant::now();
    let (mut read, mut write) = TcpStream::connect(server.addr()).await.unwrap().into_split();
    write.write_all(first.as_bytes()).await.unwrap();
    let writing = async {
        if drips {
            let mut tick = interval(Duration::from_millis(500));
            while write.write_all(b"x").await.is_ok() {
                tick.tick().await;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut answer = Vec::new();
        // An answer (408) or a reset: the end is what counts.
        let _end = read.read_to_end(&mut answer).await;
    };
    let ended = async {
        tokio::select! {
            () = reading => {},
            () = writing => {},
        }
    };
    timeout(HEAD_BOUND, ended).await.unwrap_or_else(|_| panic!("still open after {HEAD_BOUND:?}: {first:?}"));
    begun.elapsed()
}

#[tokio::test]
async fn slow_heads_are_cut_off_and_cost_nobody_else_anything() {
    let server = Server::start().await.unwrap();
    let probe = async {
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(http::request(server.addr(), "GET", "/healthz", None, None).await.unwrap().status, 200);
            assert!(begun.elapsed() < Duration::from_secs(2), "/healthz took {:.1?}", begun.elapsed());
        }
    };
    let (silent, dripping, upgrading, ()) = tokio::join!(
        drip(&server, "", false),
        drip(&server, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", true),
        drip(&server, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX-Slow: ", true),
        probe
    );
    println!("cut off: silent after {silent:.1?}, dripping after {dripping:.1?}, upgrading after {upgrading:.1?}");
}

#[tokio::test]
async fn a_body_is_read_only_of_who_may_send_one_and_only_if_it_comes_in_time() {
    let timeouts = [("CONFAB_EDGE__HEADER_TIMEOUT_SECONDS", "1")];
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(folder.path(), &timeouts, &[]).await.unwrap();
    let addr = server.addr();
    let half = |path: &str, token: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: 60000\r\n\r\n{{\"sync\":"
        )
    };
    for path in ["/poll", "/poll/send", "/v1/chats", "/v1/chats/1/messages"] {
        let begun = Instant::now();
        let refused = http::raw(addr, half(path, "no token").as_bytes()).await.unwrap();
        assert_eq!(refused.status, 401, "{path}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{path}: its body was waited for");
    }
    let token = server.token(1);
    for path in ["/poll", "/v1/chats"] {
        let cut = http::raw(addr, half(path, &token).as_bytes()).await.unwrap();
        let problem = cut.json().unwrap();
        assert_eq!(
            (cut.status, &problem["code"], &problem["field"]),
            (408, &json!("DEADLINE"), &json!("body")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn oversized_heads_are_431() {
    let server = Server::start().await.unwrap();
    let addr = server.addr();
    let one = format!("GET /healthz HTTP/1.1\r\nHost: {addr}\r\nX-Big: {}\r\n\r\n", "b".repeat(512 * 1024));
    assert_eq!(http::raw(addr, one.as_bytes()).await.unwrap().status, 431);
    let many: String = (0..1_000).map(|number| format!("X-{number}: v\r\n")).collect();
    let many = format!("GET /healthz HTTP/1.1\r\nHost: {addr}\r\n{many}\r\n");
    assert_eq!(http::raw(addr, many.as_bytes()).await.unwrap().status, 431);
    let line = format!("GET /{} HTTP/1.1\r\nHost: {addr}\r\n\r\n", "p".repeat(512 * 1024));
    let status = http::raw(addr, line.as_bytes()).await.unwrap().status;
    assert!([414, 431].contains(&status), "a request line of 512 KiB: {status}");
}

#[tokio::test]
async fn ws_without_a_proper_upgrade_is_refused() {
    let server = Server::start().await.unwrap();
    let addr = server.addr();
    let token = server.token(1);
    let plain = http::request(addr, "GET", &format!("/ws?token={token}"), None, None).await.unwrap();
    assert!([400, 426].contains(&plain.status), "no upgrade: {} {}", plain.status, plain.text());
    let head =
        format!("GET /ws?token={token} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
    for (name, rest) in [
        ("no key", "Sec-WebSocket-Version: 13\r\n"),
        ("no version", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        ("version 8", "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    ] {
        let response = http::raw(addr, format!("{head}{rest}\r\n").as_bytes()).await.unwrap();
        assert!([400, 426].contains(&response.status), "{name}: {}", response.status);
    }
    let posted = http::request(addr, "POST", &format!("/ws?token={token}"), None, Some(&json!({}))).await.unwrap();
    assert!([400, 405, 426].contains(&posted.status), "POST: {}", posted.status);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = Server::start().await.unwrap();
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[0; 64]]
    {
        match http::raw(server.addr(), bytes).await {
            Ok(response) => assert!((400..600).contains(&response.status), "{bytes:?}: {}", response.status),
            Err(error) => assert!(!format!("{error:#}").contains("in time"), "{bytes:?}: {error:#}"),
        }
    }
    assert_eq!(http::request(server.addr(), "GET", "/healthz", None, None).await.unwrap().status, 200);
}

#[tokio::test]
async fn bad_bodies_and_paths_are_answered_in_json() {
    let server = Server::start().await.unwrap();
    let not_mine = server.create_group(5, &[6]).await.unwrap();
    let mine = server.create_group(1, &[6]).await.unwrap();
    let nobody = uuid::Uuid::new_v4();
    let group = |members: serde_json::Value| json!({"kind": "group", "title": "t", "members": members});
    let post = "/v1/chats".to_owned();
    let cases = [
        ("POST", post.clone(), Some(json!([])), 400),
        ("POST", post.clone(), Some(json!({})), 400),
        ("POST", post.clone(), Some(json!({"kind": "party"})), 400),
        ("POST", post.clone(), Some(json!({"kind": "direct"})), 400),
        ("POST", post.clone(), Some(json!({"kind": "direct", "user_id": "3"})), 400),
        ("POST", post.clone(), Some(json!({"kind": "direct", "user_id": -3})), 400),
        ("POST", post.clone(), Some(group(json!("3"))), 400),
        ("POST", post.clone(), Some(group(json!([1.5]))), 400),
        ("GET", format!("/v1/chats/{not_mine}"), None, 403),
        ("GET", format!("/v1/chats/{not_mine}/messages"), None, 403),
        ("GET", format!("/v1/chats/{not_mine}/members"), None, 403),
        ("POST", format!("/v1/chats/{not_mine}/members"), Some(json!({"members": [1]})), 403),
        ("POST", format!("/v1/chats/{not_mine}/messages"), Some(json!({"content": "x"})), 403),
        ("GET", "/v1/chats/minus-one".to_owned(), None, 400),
        ("GET", "/v1/chats?limit=201".to_owned(), None, 400),
        ("GET", "/v1/chats/1/messages?limit=-1".to_owned(), None, 400),
        ("POST", "/v1/chats/1/messages".to_owned(), Some(json!({"content": ""})), 400),
        ("GET", "/v1/nothing".to_owned(), None, 404),
        ("PUT", "/v1/chats".to_owned(), Some(json!({})), 405),
        ("PATCH", "/v1/chats/1".to_owned(), Some(json!({})), 400),
        ("PATCH", "/v1/chats/1".to_owned(), Some(json!({"title": 7})), 400),
        ("PATCH", format!("/v1/chats/{mine}"), Some(json!({"title": "x".repeat(129)})), 400),
        ("DELETE", "/v1/chats/one".to_owned(), None, 400),
        ("PATCH", format!("/v1/chats/{not_mine}"), Some(json!({"title": "x"})), 403),
        ("DELETE", format!("/v1/chats/{not_mine}"), None, 403),
        ("PATCH", format!("/v1/chats/{mine}/members/1"), Some(json!({"role": "owner"})), 400),
        ("PATCH", format!("/v1/chats/{mine}/members/0"), Some(json!({"role": "admin"})), 400),
        ("PATCH", format!("/v1/chats/{mine}/members/99"), Some(json!({"role": "admin"})), 404),
        ("DELETE", format!("/v1/chats/{mine}/members/me"), None, 400),
        ("DELETE", format!("/v1/chats/{not_mine}/members/1"), None, 403),
        ("PUT", "/v1/chats/1/members/2".to_owned(), None, 405),
        ("POST", format!("/v1/chats/{mine}/read"), Some(json!({"seq": 0})), 400),
        ("POST", format!("/v1/chats/{mine}/read"), Some(json!({"seq": 99})), 404),
        ("POST", format!("/v1/chats/{not_mine}/read"), Some(json!({"seq": 1})), 403),
        ("GET", "/v1/users/99/presence".to_owned(), None, 403),
        ("GET", "/v1/users/me/presence".to_owned(), None, 400),
        ("POST", "/poll".to_owned(), Some(json!({"sync": {"one": 1}})), 400),
        ("POST", "/poll".to_owned(), Some(json!({"sync": {"1": 9_007_199_254_740_992_u64}})), 400),
        ("GET", "/poll".to_owned(), None, 400),
        ("GET", "/poll?session=7&cursor=1".to_owned(), None, 400),
        ("GET", format!("/poll?session={nobody}"), None, 400),
        ("GET", format!("/poll?session={nobody}&cursor=1&wait=56"), None, 400),
        ("GET", format!("/poll?session={nobody}&cursor=1"), None, 410),
        ("DELETE", format!("/poll?session={nobody}"), None, 410),
        ("POST", format!("/poll/send?session={nobody}"), Some(json!([])), 410),
        ("POST", format!("/poll/send?session={nobody}"), Some(json!({})), 400),
        ("PUT", "/poll".to_owned(), None, 405),
    ];
    let mut wrong = Vec::new();
    for (method, path, body, status) in cases {
        let response = server.http(1, method, &path, body.as_ref()).await.unwrap();
        let told = response.json().is_ok_and(|json| json["code"].is_string() && json["message"].is_string());
        // What isn't there for a user may be 404 as well as 403.
        let fits = response.status == status || (status == 403 && response.status == 404);
        if !fits || !told {
            wrong.push(format!(
                "{method} {path} {body:?}: expected {status}, got {} {}",
                response.status,
                response.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let head = format!("POST /v1/chats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", server.token(1));
    let huge =
        format!("{head}Content-Type: application/json\r\nContent-Length: 8000000\r\n\r\n{}", "[".repeat(8_000_000));
    assert_eq!(http::raw(server.addr(), huge.as_bytes()).await.unwrap().status, 413, "a body of 8 MB");
    let nested = format!("{head}Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n{}", "[".repeat(10_000));
    assert_eq!(http::raw(server.addr(), nested.as_bytes()).await.unwrap().status, 400, "nested 10,000 deep");
}

#[tokio::test]
async fn beyond_the_bound_a_connection_is_refused_until_another_goes() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_on(data.path(), &[("CONFAB_EDGE__CONNECTIONS_MAX", "3")], &[]).await.unwrap();
    let kept = server.connect(1).await.unwrap();
    let mut two = server.connect(2).await.unwrap();
    two.say(1, "it is there").await.unwrap();
    let third = server.connect(3).await.unwrap();
    let ask = || upgrade(server.addr(), &format!("/ws?token={}", server.token(4)), &[]).unwrap();
    assert_eq!(refusal(server.addr(), ask()).await.unwrap(), 503);
    third.close().await.unwrap();
    let begun = std::time::Instant::now();
    while server.connect(4).await.is_err() {
        assert!(begun.elapsed() < confab_tests::harness::BOUND, "no room after one went");
        tokio::task::yield_now().await;
    }
    kept.close().await.unwrap();
}

#[tokio::test]
async fn the_page_holds_tokens_here_and_none_behind_a_proxy() {
    let server = Server::start().await.unwrap();
    let page = |more: &'static str| {
        let addr = server.addr();
        async move {
            let head = format!("GET / HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{more}\r\n");
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut page = String::new();
            timeout(HEAD_BOUND, stream.read_to_string(&mut page)).await.unwrap().unwrap();
            assert!(page.starts_with("HTTP/1.1 200"), "{page}");
            page
        }
    };
    // A token's beginning: the base64 of {"
    assert!(page("").await.contains("eyJ"));
    assert!(!page("X-Forwarded-For: 192.0.2.1\r\n").await.contains("eyJ"));
    assert!(!page("Via: 1.1 proxy\r\n").await.contains("eyJ"));
}
