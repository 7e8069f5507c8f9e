//! The HTTP section: the description that is served is the API that there is, and browsers' pages may use it that should.

use confab_tests::harness::Server;
use confab_tests::harness::http::{self, Response};
use serde_json::Value;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Each path and method that is described is there, and no other method is.
#[tokio::test]
async fn what_is_described_is_what_there_is() {
    let server = Server::start().await.unwrap();
    let served = http::request(server.addr(), "GET", "/v1/openapi.json", None, None).await.unwrap();
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    let described = served.json().unwrap();
    let paths = described["paths"].as_object().unwrap();
    assert!(paths.len() > 8, "{paths:?}");
    let mut wrong = Vec::new();
    for (path, operations) in paths {
        let real = path.replace("{id}", "1").replace("{user}", "1").replace("{seq}", "1");
        for method in METHODS {
            let answer = http::request(server.addr(), method, &real, None, None).await.unwrap();
            let is_described = operations.get(method.to_lowercase()).is_some();
            // Who asks comes before what they ask.
            let expected = if is_described { 401 } else { 405 };
            if answer.status != expected {
                wrong.push(format!("{method} {path}: {} in place of {expected}", answer.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let references = served.text().matches("\"$ref\"").count();
    let dangling: Vec<String> =
        references_of(&described).into_iter().filter(|at| described.pointer(at).is_none()).collect();
    assert!(references > 50 && dangling.is_empty(), "{dangling:?}");
}

/// As JSON pointers.
fn references_of(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#')).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references_of)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references_of).collect(),
        _ => Vec::new(),
    }
}

async fn asked_by(server: &Server, origin: &str, method: &str, path: &str, more: &str) -> Response {
    let addr = server.addr();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nOrigin: {origin}\r\n{more}\r\n");
    http::raw(addr, head.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn pages_of_its_own_origin_of_loopback_and_of_the_list_may_use_it() {
    let folder = tempfile::tempdir().unwrap();
    let listed = [("CONFAB_EDGE__ORIGINS", "https://app.example.org")];
    let server = Server::start_on(folder.path(), &listed, &[]).await.unwrap();
    let own = format!("http://{}", server.addr());
    let bearer = format!("Authorization: Bearer {}\r\n", server.token(1));
    let preflight = "Access-Control-Request-Method: PATCH\r\nAccess-Control-Request-Headers: authorization\r\n";
    for origin in [own.as_str(), "http://localhost:3000", "https://app.example.org"] {
        let answer = asked_by(&server, origin, "OPTIONS", "/v1/chats/1", preflight).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert!(answer.header("access-control-allow-methods").unwrap().contains("PATCH"), "{answer:?}");
        assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"), "{answer:?}");
        for path in ["/v1/chats", "/v1/nothing", "/poll"] {
            let answer = asked_by(&server, origin, "GET", path, &bearer).await;
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{path}: {answer:?}");
            let exposed = answer.header("access-control-expose-headers").unwrap();
            assert!(
                ["location", "retry-after", "etag", "upload-offset"].iter().all(|name| exposed.contains(name)),
                "{exposed}"
            );
        }
    }
    let stranger = "https://evil.example";
    assert_eq!(
        asked_by(&server, stranger, "GET", "/v1/chats", &bearer).await.header("access-control-allow-origin"),
        None
    );
    let answer = asked_by(&server, stranger, "OPTIONS", "/v1/chats", preflight).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // The page holds tokens: nobody else's page may read it.
    assert_eq!(
        asked_by(&server, "http://localhost:3000", "GET", "/", "").await.header("access-control-allow-origin"),
        None
    );
}

#[tokio::test]
async fn a_strangers_page_may_not_connect() {
    let server = Server::start().await.unwrap();
    let path = format!("/ws?token={}", server.token(1));
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = |origin: &str| {
        let addr = server.addr();
        format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nOrigin: {origin}\r\n{upgrade}\r\n")
    };
    for (origin, status) in [("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 101)] {
        let answer = http::raw(server.addr(), head(origin).as_bytes()).await.unwrap();
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
    }
}
