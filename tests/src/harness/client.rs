//! A WebSocket client for tests: JSON, in full mode or in seed mode.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{BOUND, binary};

/// Frames that a client remembers for its error messages.
const SEEN_MAX: usize = 12;

/// How to speak: with no subprotocol, with `confab.v1.json`, or with `confab.v1.proto`; frames are JSON here in any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Seed,
    Json,
    Proto,
}

/// What comes from the server.
#[derive(Clone, Debug)]
pub enum Incoming {
    Frame(Value),
    /// A close frame: its code, or 1005 if it has none.
    Closed(u16),
    /// The connection ended without a close frame.
    Lost(String),
}

pub struct Client {
    ws: WebSocketStream<TcpStream>,
    proto: bool,
    /// Frames that came while another one was expected.
    backlog: VecDeque<Value>,
    seen: VecDeque<String>,
    /// The `hello` frame.
    pub hello: Value,
    pub user: u64,
}

impl Client {
    /// Connects with the token in the query, and reads `hello`.
    ///
    /// # Errors
    /// If the upgrade is refused, or no `hello` comes.
    pub async fn connect(addr: SocketAddr, token: &str, mode: Mode) -> anyhow::Result<Self> {
        let headers: &[(&str, &str)] = match mode {
            Mode::Seed => &[],
            Mode::Json => &[("sec-websocket-protocol", "confab.v1.json")],
            Mode::Proto => &[("sec-websocket-protocol", "confab.v1.proto")],
        };
        Self::connect_with(addr, upgrade(addr, &format!("/ws?token={token}"), headers)?).await
    }

    /// Connects with `request`, and reads `hello`.
    ///
    /// # Errors
    /// If the upgrade is refused, or no `hello` comes.
    pub async fn connect_with(addr: SocketAddr, request: Request) -> anyhow::Result<Self> {
        let mut client = Self::connect_raw(addr, request).await?;
        let hello = match client.next().await? {
            Incoming::Frame(frame) if frame["type"] == "hello" => frame,
            other => bail!("hello should come first, but: {other:?}"),
        };
        client.user = hello["user_id"].as_u64().with_context(|| format!("no user_id in {hello}"))?;
        client.hello = hello;
        Ok(client)
    }

    /// Connects with `request`, and reads nothing yet.
    ///
    /// # Errors
    /// If the upgrade is refused.
    pub async fn connect_raw(addr: SocketAddr, request: Request) -> anyhow::Result<Self> {
        let connect = async {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            tokio_tungstenite::client_async(request, stream).await
        };
        let (ws, response) = timeout(BOUND, connect).await.context("no upgrade in time")?.context("the upgrade")?;
        let proto = response.headers().get("sec-websocket-protocol").is_some_and(|name| name == "confab.v1.proto");
        Ok(Self { ws, proto, backlog: VecDeque::new(), seen: VecDeque::new(), hello: Value::Null, user: 0 })
    }

    /// # Errors
    /// If the connection is gone.
    pub async fn send(&mut self, frame: &Value) -> anyhow::Result<()> {
        match self.proto {
            true => self.send_raw(Message::binary(binary::encode(frame)?)).await,
            false => self.send_raw(Message::text(frame.to_string())).await,
        }
    }

    /// Sends a WebSocket message of any kind.
    ///
    /// # Errors
    /// If the connection is gone, or the server reads nothing for [`BOUND`].
    pub async fn send_raw(&mut self, message: Message) -> anyhow::Result<()> {
        timeout(BOUND, self.ws.send(message)).await.context("the server reads nothing")?.context("sending")
    }

    /// The next thing that comes, the backlog first.
    ///
    /// # Errors
    /// If nothing comes within [`BOUND`], or something that isn't a JSON text frame.
    pub async fn next(&mut self) -> anyhow::Result<Incoming> {
        match self.backlog.pop_front() {
            Some(frame) => Ok(Incoming::Frame(frame)),
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> anyhow::Result<Incoming> {
        let received = timeout(BOUND, self.receive_unbounded()).await;
        received.unwrap_or_else(|_| bail!("nothing came in {BOUND:?}; before: {:#?}", self.seen))
    }

    async fn receive_unbounded(&mut self) -> anyhow::Result<Incoming> {
        loop {
            let incoming = match self.ws.next().await {
                Some(Ok(Message::Text(text))) => {
                    Incoming::Frame(serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?)
                }
                Some(Ok(Message::Binary(bytes))) if self.proto => Incoming::Frame(binary::decode(&bytes)?),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(close))) => Incoming::Closed(close.map_or(1005, |close| close.code.into())),
                Some(Ok(other)) => bail!("an unexpected WebSocket message: {other:?}"),
                Some(Err(Error::ConnectionClosed)) | None => Incoming::Lost("the stream ended".to_owned()),
                Some(Err(error)) => Incoming::Lost(error.to_string()),
            };
            if self.seen.len() == SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back(match &incoming {
                Incoming::Frame(frame) => shortened(&frame.to_string()),
                other => format!("{other:?}"),
            });
            return Ok(incoming);
        }
    }

    /// The next frame for which `wanted` holds; others stay in the backlog, in order.
    ///
    /// # Errors
    /// If it doesn't come within [`BOUND`] of silence, or the connection ends.
    pub async fn expect_where(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        if let Some(at) = self.backlog.iter().position(&wanted) {
            return self.backlog.remove(at).context("unreachable: the position was just found");
        }
        let search = async {
            loop {
                match self.receive().await? {
                    Incoming::Frame(frame) if wanted(&frame) => return Ok(frame),
                    Incoming::Frame(frame) => self.backlog.push_back(frame),
                    other => bail!("{other:?}; before: {:#?}", self.seen),
                }
            }
        };
        let found = timeout(BOUND * 2, search).await;
        found
            .unwrap_or_else(|_| bail!("other frames came instead: {:#?}", self.seen))
            .with_context(|| format!("waiting for {what}"))
    }

    /// The next frame of a type.
    ///
    /// # Errors
    /// As [`Self::expect_where`].
    pub async fn expect(&mut self, kind: &str) -> anyhow::Result<Value> {
        self.expect_where(kind, |frame| frame["type"] == kind).await
    }

    /// The next `error` frame, which must have this code.
    ///
    /// # Errors
    /// As [`Self::expect_where`], or if it has another code.
    pub async fn expect_error(&mut self, code: &str) -> anyhow::Result<Value> {
        let error = self.expect("error").await?;
        ensure!(error["code"] == code, "expected the code {code}, got {error}");
        Ok(error)
    }

    /// The close code, after whatever frames come before it.
    ///
    /// # Errors
    /// If the connection isn't closed within [`BOUND`] of silence, or without a close frame.
    pub async fn expect_close(&mut self) -> anyhow::Result<u16> {
        loop {
            match self.receive().await.context("waiting for a close frame")? {
                Incoming::Frame(frame) => self.backlog.push_back(frame),
                Incoming::Closed(code) => return Ok(code),
                Incoming::Lost(why) => bail!("no close frame: {why}; before: {:#?}", self.seen),
            }
        }
    }

    /// Sends a `ping` and takes all frames that come before its `pong`, the backlog first.
    ///
    /// # Errors
    /// If no `pong` comes.
    pub async fn until_pong(&mut self) -> anyhow::Result<Vec<Value>> {
        let reference = uuid::Uuid::new_v4().to_string();
        self.send(&json!({"type": "ping", "ref": reference})).await?;
        self.expect_where("the pong", |frame| frame["type"] == "pong" && frame["ref"] == reference.as_str()).await?;
        Ok(self.backlog.drain(..).collect())
    }

    /// Forgets what came while something else was expected.
    pub fn forget_backlog(&mut self) {
        self.backlog.clear();
    }

    /// Says from where on to get events (chat, seq), and waits for `synced`, which it returns. The events that come
    /// before it stay in the backlog.
    ///
    /// # Errors
    /// If no `synced` comes.
    pub async fn sync(&mut self, positions: &[(u64, u64)]) -> anyhow::Result<Value> {
        let chats: Map<String, Value> = positions.iter().map(|(chat, seq)| (chat.to_string(), json!(seq))).collect();
        self.send(&json!({"type": "sync", "chats": chats})).await?;
        self.expect("synced").await
    }

    /// Sends a message and returns its `ack`.
    ///
    /// # Errors
    /// If it isn't acked.
    pub async fn say(&mut self, chat: u64, content: &str) -> anyhow::Result<Value> {
        let client_id = uuid::Uuid::new_v4().to_string();
        self.say_as(chat, content, &client_id).await
    }

    /// Sends a message under a `client_id` and returns its `ack`.
    ///
    /// # Errors
    /// If it isn't acked.
    pub async fn say_as(&mut self, chat: u64, content: &str, client_id: &str) -> anyhow::Result<Value> {
        self.send(&message(chat, content, client_id)).await?;
        self.answer_to(client_id).await
    }

    /// The `ack` of a message sent before.
    ///
    /// # Errors
    /// If an `error` comes for it instead.
    pub async fn answer_to(&mut self, client_id: &str) -> anyhow::Result<Value> {
        let answer = self
            .expect_where(&format!("the ack of {client_id}"), |frame| {
                (frame["type"] == "ack" || frame["type"] == "error") && frame["client_id"] == client_id
            })
            .await?;
        ensure!(answer["type"] == "ack", "expected an ack of {client_id}, got {answer}");
        Ok(answer)
    }

    /// The next `message` of a chat.
    ///
    /// # Errors
    /// As [`Self::expect_where`].
    pub async fn expect_message(&mut self, chat: u64) -> anyhow::Result<Value> {
        let what = format!("a message of chat {chat}");
        self.expect_where(&what, |frame| frame["type"] == "message" && frame["chat_id"] == chat).await
    }

    /// Says goodbye with 1000, and waits until the server has answered.
    ///
    /// # Errors
    /// If it doesn't.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.ws.close(None).await.context("closing")?;
        loop {
            if !matches!(self.receive().await?, Incoming::Frame(_)) {
                return Ok(());
            }
        }
    }

    /// The bare WebSocket, for load. What is in the backlog is lost.
    #[must_use]
    pub fn into_socket(self) -> WebSocketStream<TcpStream> {
        self.ws
    }
}

/// A `message` frame.
#[must_use]
pub fn message(chat: u64, content: &str, client_id: &str) -> Value {
    json!({"type": "message", "chat_id": chat, "content": content, "media_url": null, "client_id": client_id})
}

/// An upgrade request.
///
/// # Errors
/// If a header isn't one.
pub fn upgrade(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Request> {
    let mut request = format!("ws://{addr}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::try_from(*name)?, HeaderValue::from_str(value)?);
    }
    Ok(request)
}

/// The HTTP status with which an upgrade is refused.
///
/// # Errors
/// If it isn't refused.
pub async fn refusal(addr: SocketAddr, request: Request) -> anyhow::Result<u16> {
    let stream = TcpStream::connect(addr).await?;
    match timeout(BOUND, tokio_tungstenite::client_async(request, stream)).await.context("no answer in time")? {
        Ok(_) => bail!("the upgrade should have been refused"),
        Err(Error::Http(response)) => Ok(response.status().as_u16()),
        Err(error) => Err(error).context("not an HTTP refusal"),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}
