//! Tokens of an issuer, by its JSON Web Key Set: from an address and from a file, with keys that change.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use confab_tests::harness::token::now;
use confab_tests::harness::{Server, http, wait_for};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ISSUER: &str = "https://login.example.org";
const AUDIENCE: &str = "confab";

/// One of an issuer's private keys.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let kind: &[&str] = match algorithm {
            Algorithm::RS256 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Algorithm::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            _ => &["-algorithm", "ED25519"],
        };
        let made = Command::new("openssl").arg("genpkey").args(kind).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(&made.stdout),
            Algorithm::ES256 => EncodingKey::from_ec_pem(&made.stdout),
            _ => EncodingKey::from_ed_pem(&made.stdout),
        };
        Self { id, algorithm, key: key.unwrap() }
    }

    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    fn token(&self) -> String {
        self.sign(&json!({"sub": "1", "exp": now() + 3600, "iss": ISSUER, "aud": AUDIENCE}))
    }
}

fn set_of(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>()}).to_string()
}

/// An issuer's web server.
#[derive(Clone)]
struct Issuer {
    set: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
    url: String,
}

impl Issuer {
    async fn start(set: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let issuer = Self { set: Arc::new(Mutex::new(set)), asked: Arc::new(AtomicU32::new(0)), url };
        let serves = issuer.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                serves.asked.fetch_add(1, Ordering::SeqCst);
                let set = serves.set.lock().unwrap().clone();
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{set}", set.len());
                let _gone = stream.write_all(answer.as_bytes()).await;
            }
        });
        issuer
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn start(data: &Path, place: (&str, &str)) -> Server {
    let env = [place, ("CONFAB_TOKEN__ISSUER", ISSUER), ("CONFAB_TOKEN__AUDIENCE", AUDIENCE)];
    Server::start_on(data, &env, &[]).await.unwrap()
}

async fn status(server: &Server, token: &str) -> u16 {
    http::request(server.addr(), "GET", "/v1/chats", Some(token), None).await.unwrap().status
}

#[tokio::test]
async fn tokens_of_an_issuer_are_good_by_each_algorithm_and_for_nobody_else() {
    let own = tempfile::tempdir().unwrap();
    let data = own.path().join("data");
    // It had tokens of its own before.
    let mut before = Server::start_on(&data, &[], &[]).await.unwrap();
    let local = before.token(1);
    assert_eq!(status(&before, &local).await, 200);
    before.kill9().unwrap();

    let keys = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(|algorithm| Key::new("a", algorithm));
    let issuer = Issuer::start(set_of(&keys.each_ref())).await;
    let server = start(&data, ("CONFAB_TOKEN__JWKS_URL", &issuer.url)).await;
    for key in &keys {
        assert_eq!(status(&server, &key.token()).await, 200, "{:?}", key.algorithm);
    }
    let (key, hour) = (&keys[1], now() + 3600);
    let bad = [
        ("its own secret's", local),
        (
            "another issuer's",
            key.sign(&json!({"sub": "1", "exp": hour, "iss": "https://evil.example", "aud": AUDIENCE})),
        ),
        ("for another audience", key.sign(&json!({"sub": "1", "exp": hour, "iss": ISSUER, "aud": "mail"}))),
        ("without an audience", key.sign(&json!({"sub": "1", "exp": hour, "iss": ISSUER}))),
        ("without an issuer", key.sign(&json!({"sub": "1", "exp": hour, "aud": AUDIENCE}))),
        ("expired", key.sign(&json!({"sub": "1", "exp": now() - 60, "iss": ISSUER, "aud": AUDIENCE}))),
        (
            "not yet good",
            key.sign(&json!({"sub": "1", "exp": hour, "nbf": now() + 600, "iss": ISSUER, "aud": AUDIENCE})),
        ),
        ("another key's, of that name", Key::new("a", Algorithm::ES256).token()),
    ];
    for (what, token) in bad {
        assert_eq!(status(&server, &token).await, 401, "{what}");
    }
    // The public key as a secret: the oldest trick.
    let public = key.public().to_string();
    let header = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::HS256) };
    let claims = json!({"sub": "1", "exp": hour, "iss": ISSUER, "aud": AUDIENCE});
    let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(public.as_bytes())).unwrap();
    assert_eq!(status(&server, &forged).await, 401);
}

#[tokio::test]
async fn a_new_key_is_asked_for_when_a_token_names_it_and_not_for_each() {
    let own = tempfile::tempdir().unwrap();
    let (old, new) = (Key::new("old", Algorithm::ES256), Key::new("new", Algorithm::ES256));
    let issuer = Issuer::start(set_of(&[&old])).await;
    let data = own.path().join("data");
    drop(Server::start_on(&data, &[], &[]).await.unwrap());
    let server = start(&data, ("CONFAB_TOKEN__JWKS_URL", &issuer.url)).await;
    assert_eq!((status(&server, &old.token()).await, issuer.asked()), (200, 1));
    *issuer.set.lock().unwrap() = set_of(&[&old, &new]);
    // Not more often than every ten seconds, whatever tokens name.
    let strange = Key::new("strange", Algorithm::ES256);
    let taken = || async {
        assert_eq!(status(&server, &strange.token()).await, 401);
        (status(&server, &new.token()).await == 200).then_some(())
    };
    wait_for("the new key", Duration::from_secs(20), taken).await.unwrap();
    assert_eq!((status(&server, &old.token()).await, issuer.asked()), (200, 2));
    // What is broken changes nothing.
    *issuer.set.lock().unwrap() = "an error page".to_owned();
    let asked = || async {
        assert_eq!(status(&server, &strange.token()).await, 401);
        (issuer.asked() > 2).then_some(())
    };
    wait_for("another read", Duration::from_secs(20), asked).await.unwrap();
    assert_eq!(status(&server, &new.token()).await, 200);
}

#[tokio::test]
async fn a_file_is_read_again_and_a_bad_one_is_told_at_the_start() {
    let own = tempfile::tempdir().unwrap();
    let (data, file) = (own.path().join("data"), own.path().join("jwks.json"));
    drop(Server::start_on(&data, &[], &[]).await.unwrap());
    std::fs::write(&file, r#"{"keys":[]}"#).unwrap();
    let place = ("CONFAB_TOKEN__JWKS_FILE", file.to_str().unwrap());
    let env = [place, ("CONFAB_TOKEN__ISSUER", ISSUER), ("CONFAB_TOKEN__AUDIENCE", AUDIENCE)];
    let refused = Server::start_on(&data, &env, &[]).await.err().unwrap();
    let refused = format!("{refused:#}");
    assert!(refused.contains("no public key for RS256, ES256 or EdDSA"), "{refused}");

    let (old, new) = (Key::new("k", Algorithm::EdDSA), Key::new("k", Algorithm::EdDSA));
    std::fs::write(&file, set_of(&[&old])).unwrap();
    let server = start(&data, place).await;
    assert_eq!((status(&server, &old.token()).await, status(&server, &new.token()).await), (200, 401));
    std::fs::write(&file, set_of(&[&new])).unwrap();
    let changed = || async { (status(&server, &new.token()).await == 200).then_some(()) };
    wait_for("the file's new key", Duration::from_secs(20), changed).await.unwrap();
    assert_eq!(status(&server, &old.token()).await, 401);
}
