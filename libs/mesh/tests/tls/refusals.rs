//! Over TLS on loopback: whoever may not call is named in the log, and told nothing but that.

use std::time::{SystemTime, UNIX_EPOCH};

use confab_mesh::{
    Identity, Peer, Policy, ServerConfig,
    identity::{
        tls::{ClientAuth, server_name},
        tokens::ServiceTokens,
    },
    server,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tempfile::TempDir;
use tonic::{Code, Request, Response, Status};

use crate::{
    authority::{Authority, Issued, yesterday},
    handshakes::{localhost, showing},
    kit::{empty, say, unary},
    log,
    loopback::{listen, reach},
};

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";
const SAY: &str = "/confab.test.v1.Test/Say";

/// Lets in the role `edge` and the service `billing`, and answers with whom it sees, and whether it saw their token.
struct Server {
    authority: Authority,
    address: std::net::SocketAddr,
    _folder: TempDir,
}

impl Server {
    async fn start(service: &'static str, client_auth: ClientAuth) -> Self {
        let authority = Authority::new("ours");
        let (folder, credentials) = authority.credentials("test-svc/t1");
        let policy = Policy::new().allow("edge", &[SAY]).allow("service:billing", &[SAY]);
        let tokens = ServiceTokens::new().hs256(SECRET).expect("a key");
        let handler = |request: Request<String>| async move {
            let token = request.metadata().contains_key("authorization");
            let identity = Identity::of(&request).expect("the policy lets nobody else in").to_string();
            Ok(Response::new(format!("{identity} {token}")))
        };
        let stack = server(ServerConfig::new(service).policy(policy).tokens(tokens), unary(handler));
        let address = listen(credentials, client_auth, stack).await;
        Self { authority, address, _folder: folder }
    }

    /// A caller with a certificate.
    fn role(&self, name: &str) -> Peer {
        let (_folder, credentials) = self.authority.credentials(name);
        reach(self.address, server_name(), credentials.client_config("test-svc"))
    }

    /// A caller without one.
    fn anonymous(&self) -> Peer {
        reach(self.address, localhost(), showing(&self.authority, None))
    }
}

fn token(sub: &str, aud: &str, seconds: i64, secret: &[u8]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let exp = i64::try_from(now).expect("before the end of time") + seconds;
    let claims = json!({ "sub": sub, "aud": aud, "exp": exp });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret)).expect("a token")
}

fn bearing(token: &str) -> Request<String> {
    let mut request = empty();
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    request
}

fn assert_tells_nothing(refusal: &Status, code: Code) {
    let message = if code == Code::PermissionDenied { "not allowed" } else { "who calls is not known" };
    assert_eq!((refusal.code(), refusal.message(), refusal.details()), (code, message, &[][..]));
}

#[tokio::test]
async fn a_role_and_a_service_that_may_are_let_in() {
    let server = Server::start("lets-in-svc", ClientAuth::Optional).await;
    let answer = say(&server.role("edge/e1"), empty()).await.expect("allowed");
    assert_eq!(answer.get_ref(), "edge/e1 false");
    let answer = say(&server.anonymous(), bearing(&token("billing", "confab-internal", 60, SECRET))).await;
    assert_eq!(answer.expect("allowed").get_ref(), "service:billing false");
    // What it has shown to be is what counts, not what it says besides.
    let both = say(&server.role("edge/e1"), bearing(&token("billing", "confab-internal", 60, SECRET))).await;
    assert_eq!(both.expect("allowed").get_ref(), "edge/e1 true");
}

#[tokio::test]
async fn a_role_and_a_service_that_may_not_are_named_and_told_nothing() {
    let log = log::listen();
    let server = Server::start("not-allowed-svc", ClientAuth::Optional).await;
    let refusal = say(&server.role("fanout-svc/f7"), empty()).await.expect_err("not allowed");
    assert_tells_nothing(&refusal, Code::PermissionDenied);
    let peer = server.anonymous();
    let refusal = say(&peer, bearing(&token("ads", "confab-internal", 60, SECRET))).await.expect_err("not allowed");
    assert_tells_nothing(&refusal, Code::PermissionDenied);
    for peer in ["fanout-svc/f7", "service:ads"] {
        log.soon(&["WARN", "not-allowed-svc", "a caller is refused", peer, SAY, "the policy does not allow it"]).await;
    }
}

#[tokio::test]
async fn a_token_that_is_no_good_is_named_and_its_bearer_told_nothing() {
    let log = log::listen();
    let other = b"another one of thirty-two bytes!";
    for (service, token, peer, reason) in [
        (
            "forged-svc",
            token("forger", "confab-internal", 60, other),
            "claims to be service:forger",
            "not signed with a key",
        ),
        ("late-svc", token("late", "confab-internal", -60, SECRET), "claims to be service:late", "has expired"),
        ("astray-svc", token("astray", "elsewhere", 60, SECRET), "claims to be service:astray", "not meant for"),
        (
            "lasting-svc",
            token("lasting", "confab-internal", 7_200, SECRET),
            "claims to be service:lasting",
            "more than an hour",
        ),
        ("junk-svc", "junk".to_owned(), "127.0.0.1", "or is none"),
    ] {
        let server = Server::start(service, ClientAuth::Optional).await;
        let refusal = say(&server.anonymous(), bearing(&token)).await.expect_err("no good");
        assert_tells_nothing(&refusal, Code::Unauthenticated);
        log.soon(&["WARN", service, "a caller is refused", "127.0.0.1", peer, SAY, reason]).await;
        assert!(log.lines(&[&token]).iter().all(|line| token == "junk" && line.contains("junk-svc")), "it is a secret");
    }
}

#[tokio::test]
async fn who_shows_nothing_is_named_by_address_and_told_nothing() {
    let log = log::listen();
    let server = Server::start("nothing-svc", ClientAuth::Optional).await;
    let peer = server.anonymous();
    for _ in 0..20 {
        let refusal = say(&peer, empty()).await.expect_err("nobody");
        assert_tells_nothing(&refusal, Code::Unauthenticated);
    }
    let words = ["WARN", "nothing-svc", "peer=127.0.0.1", SAY, "neither a certificate nor a service token"];
    log.soon(&words).await;
    assert!(log.lines(&words).len() < 20, "one per second");
}

#[tokio::test]
async fn whose_certificate_is_no_good_does_not_get_through_the_handshake() {
    let log = log::listen();
    let server = Server::start("handshake-svc", ClientAuth::Required).await;
    let theirs = Authority::new("theirs");
    let late = "spiffe://confab/edge/late-over-loopback";
    let cases: [(Option<Issued>, &str, &str); 3] = [
        (Some(theirs.role("edge/stranger-over-loopback")), "edge/stranger-over-loopback", "UnknownIssuer"),
        (Some(server.authority.issue(&[late], yesterday())), "edge/late-over-loopback", "expired"),
        (None, "", ""),
    ];
    for (own, claims, reason) in cases {
        let tls = showing(&server.authority, own.as_ref());
        let refusal = say(&reach(server.address, localhost(), tls), empty()).await.expect_err("refused");
        assert!(!refusal.message().contains(reason) || reason.is_empty(), "{refusal}");
        if own.is_some() {
            log.soon(&["WARN", "a peer's certificate is refused", claims, reason]).await;
        }
    }
    say(&server.role("edge/e1"), empty()).await.expect("the others are served");
}
