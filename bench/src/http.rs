//! The few HTTP calls that set a scenario up.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::client::Endpoint;

/// HTTP connections that [`direct_chats`] uses at a time.
const CONNECTIONS: usize = 32;
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a busy server is asked again.
const ATTEMPTS_MAX: u32 = 10;

/// One HTTP connection, on which calls follow one another.
pub struct Api {
    sender: SendRequest<Full<Bytes>>,
    endpoint: Endpoint,
}

impl Api {
    /// Connects.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let stream = TcpStream::connect(endpoint.addr).await.context("can't connect for HTTP")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
        // Ends when `sender` is dropped; an error shows up at the next call.
        tokio::spawn(connection);
        Ok(Self { sender, endpoint: endpoint.clone() })
    }

    /// The direct chat of two users; the call is idempotent.
    pub async fn create_direct(&mut self, user: u64, peer: u64) -> Result<u64> {
        self.create_chat(user, &json!({"kind": "direct", "user_id": peer})).await
    }

    /// A group of `creator` and `members`, up to 1000 in all.
    pub async fn create_group(&mut self, creator: u64, members: &[u64]) -> Result<u64> {
        let title = format!("bench {creator}");
        self.create_chat(creator, &json!({"kind": "group", "title": title, "members": members})).await
    }

    async fn create_chat(&mut self, user: u64, body: &Value) -> Result<u64> {
        let answer = self.post(user, "/v1/chats", body).await?;
        answer["chat_id"].as_u64().with_context(|| format!("no chat_id in {answer}"))
    }

    async fn post(&mut self, user: u64, path: &str, body: &Value) -> Result<Value> {
        for _ in 0..ATTEMPTS_MAX {
            let (status, after, answer) = timeout(PATIENCE, self.call(user, path, body))
                .await
                .with_context(|| format!("POST {path}: no answer within {PATIENCE:?}"))??;
            match status {
                StatusCode::OK | StatusCode::CREATED => {
                    return serde_json::from_slice(&answer).with_context(|| format!("POST {path}: not JSON"));
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => sleep(after).await,
                _ => bail!("POST {path}: server said: {status} {}", String::from_utf8_lossy(&answer)),
            }
        }
        bail!("POST {path}: the server is still busy after {ATTEMPTS_MAX} attempts")
    }

    async fn call(&mut self, user: u64, path: &str, body: &Value) -> Result<(StatusCode, Duration, Bytes)> {
        let signer = self.endpoint.signer.as_ref().context("a bare peer has no HTTP API")?;
        let request = Request::post(path)
            .header(header::HOST, self.endpoint.addr.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", signer.token(user)?))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))?;
        self.sender.ready().await.with_context(|| format!("POST {path}: the connection is gone"))?;
        let response = self.sender.send_request(request).await.with_context(|| format!("POST {path}"))?;
        let status = response.status();
        let after = response.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let answer = response.into_body().collect().await.with_context(|| format!("POST {path}"))?.to_bytes();
        Ok((status, Duration::from_secs(after.unwrap_or(1)), answer))
    }
}

/// The direct chats of these pairs, in their order, made over a few connections.
pub async fn direct_chats(endpoint: &Endpoint, pairs: &[(u64, u64)]) -> Result<Vec<u64>> {
    let share = pairs.len().div_ceil(CONNECTIONS).max(1);
    let shares: Vec<Vec<u64>> = stream::iter(pairs.chunks(share).map(|share| async move {
        let mut api = Api::connect(endpoint).await?;
        let mut chats = Vec::with_capacity(share.len());
        for (user, peer) in share {
            chats.push(api.create_direct(*user, *peer).await?);
        }
        anyhow::Ok(chats)
    }))
    .buffered(CONNECTIONS)
    .try_collect()
    .await?;
    Ok(shares.concat())
}
