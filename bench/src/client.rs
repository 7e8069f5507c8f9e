//! One client connection that speaks the public protocol in full mode, or plain WebSocket to a bare peer.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::frame;
use crate::recorder::SeqGuard;
use crate::scan::{Frame, scan};
use crate::token::Signer;

/// The subprotocol of full mode, JSON.
const FULL_MODE: &str = "confab.v1.json";
/// How long a server may take for the handshake and its first frames.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a busy server (429, 503) or a refused connection is tried again.
const ATTEMPTS_MAX: u32 = 10;
/// Users that share one source address: each has a port of its own there, of some 28,000.
const USERS_PER_SOURCE: u64 = 20_000;

/// Where to connect, and how to sign in there.
#[derive(Clone)]
pub struct Endpoint {
    /// The server's address.
    pub addr: SocketAddr,
    /// Signs the tokens; `None` for a bare peer, which wants none and says no `hello`.
    pub signer: Option<Arc<Signer>>,
}

/// A connection after its handshake.
pub struct Connection {
    socket: WebSocketStream<TcpStream>,
    retries: u32,
}

enum Refusal {
    Busy(Duration),
    Broken(anyhow::Error),
    Final(anyhow::Error),
}

impl Connection {
    /// Connects as `user` and waits for `hello`. A busy server is tried again after what it said.
    pub async fn open(endpoint: &Endpoint, user: u64) -> Result<Self> {
        Self::open_with(endpoint, user, None).await
    }

    /// As [`Connection::open`], with a socket whose receive buffer has `receive_bytes`.
    pub async fn open_with(endpoint: &Endpoint, user: u64, receive_bytes: Option<u32>) -> Result<Self> {
        let mut retries = 0;
        let socket = loop {
            let jitter = Duration::from_millis(user * 7919 % 1000);
            let pause = match timeout(PATIENCE, handshake(endpoint, user, receive_bytes)).await {
                Ok(Ok(socket)) => break socket,
                Ok(Err(Refusal::Final(error))) => return Err(error),
                Ok(Err(Refusal::Broken(error))) if retries == ATTEMPTS_MAX => return Err(error),
                Ok(Err(Refusal::Busy(_))) if retries == ATTEMPTS_MAX => {
                    bail!("user {user}: the server is still busy after {ATTEMPTS_MAX} attempts")
                }
                Ok(Err(Refusal::Busy(after))) => after + jitter,
                Ok(Err(Refusal::Broken(_))) => Duration::from_millis(500) + jitter,
                Err(_) => bail!("user {user}: no handshake within {PATIENCE:?}"),
            };
            retries += 1;
            sleep(pause).await;
        };
        let mut connection = Self { socket, retries };
        if endpoint.signer.is_some() {
            connection.wait_for("hello", |_| {}).await.with_context(|| format!("user {user}"))?;
        }
        Ok(connection)
    }

    /// Connects as `user`, and starts the flow of all chats' events; with it what watches the order of one chat's.
    pub async fn open_synced(endpoint: &Endpoint, user: u64, chat_id: u64) -> Result<(Self, SeqGuard)> {
        Self::open(endpoint, user).await?.synced(chat_id).await.with_context(|| format!("user {user}"))
    }

    /// The same of one that is open.
    pub async fn synced(mut self, chat_id: u64) -> Result<(Self, SeqGuard)> {
        let heads = self.sync(&[], |_| {}).await?;
        Ok((self, SeqGuard::new(chat_id, heads.get(&chat_id).copied())))
    }

    /// How often the server was busy or refused the connection before it let it in.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Starts the flow of events after these (chat, seq) positions, and waits for `synced`. `missed` is told every
    /// frame that comes before it. Returns the positions after which live events come, as the server said.
    pub async fn sync(&mut self, positions: &[(u64, u64)], missed: impl FnMut(Frame<'_>)) -> Result<HashMap<u64, u64>> {
        self.send(frame::sync(positions)).await?;
        let synced = self.wait_for("synced", missed).await?;
        let value: serde_json::Value = serde_json::from_str(&synced).context("`synced` is no JSON")?;
        let chats = value["chats"].as_object().into_iter().flatten();
        chats.map(|(chat, seq)| Ok((chat.parse()?, seq.as_u64().context("a seq in `synced` is no number")?))).collect()
    }

    /// Waits for a frame of this kind, and tells `other` those that come before it. Errors are errors.
    pub async fn wait_for(&mut self, kind: &str, mut other: impl FnMut(Frame<'_>)) -> Result<Utf8Bytes> {
        let wait = async {
            loop {
                let text = self.next_text().await?;
                let frame = scan(&text).with_context(|| format!("not a frame: {text}"))?;
                match frame.kind {
                    found if found == kind => return Ok(text),
                    "error" => bail!("server said: {} {}", frame.code, frame.message),
                    _ => other(frame),
                }
            }
        };
        timeout(PATIENCE, wait).await.map_err(|_| anyhow!("no `{kind}` within {PATIENCE:?}"))?
    }

    /// The next text frame. Pings are answered on the way. Cancel-safe.
    pub async fn next_text(&mut self) -> Result<Utf8Bytes> {
        loop {
            let message = self.socket.next().await;
            if let Some(text) = text_of(message)? {
                return Ok(text);
            }
        }
    }

    /// A text frame that has arrived already, if there is one.
    pub async fn ready_text(&mut self) -> Result<Option<Utf8Bytes>> {
        loop {
            let ready = poll_fn(|cx| {
                Poll::Ready(match self.socket.poll_next_unpin(cx) {
                    Poll::Ready(message) => Some(message),
                    Poll::Pending => None,
                })
            });
            let Some(message) = ready.await else { return Ok(None) };
            if let Some(text) = text_of(message)? {
                return Ok(Some(text));
            }
        }
    }

    /// Puts a text frame into the write buffer; [`Connection::flush`] sends it.
    pub async fn feed(&mut self, text: String) -> Result<()> {
        self.socket.feed(Message::text(text)).await.map_err(explain)
    }

    /// Sends what was fed.
    pub async fn flush(&mut self) -> Result<()> {
        self.socket.flush().await.map_err(explain)
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: String) -> Result<()> {
        self.socket.send(Message::text(text)).await.map_err(explain)
    }

    /// Says goodbye, and waits a bounded time for the answer.
    pub async fn close(mut self) {
        let goodbye = async {
            let _ = self.socket.close(None).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = timeout(Duration::from_secs(5), goodbye).await;
    }
}

fn text_of(message: Option<Result<Message, WsError>>) -> Result<Option<Utf8Bytes>> {
    match message {
        None => bail!("the server ended the connection"),
        Some(Err(error)) => Err(explain(error)),
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Close(Some(close)))) => bail!("server closed: {} {}", close.code, close.reason),
        Some(Ok(Message::Close(None))) => bail!("server closed without a code"),
        Some(Ok(Message::Binary(_))) => bail!("a binary frame in a text session"),
        Some(Ok(_)) => Ok(None),
    }
}

async fn handshake(
    endpoint: &Endpoint,
    user: u64,
    receive_bytes: Option<u32>,
) -> Result<WebSocketStream<TcpStream>, Refusal> {
    let uri: Uri = format!("ws://{}/ws", endpoint.addr).parse().map_err(|e| Refusal::Final(anyhow!("{e}")))?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(signer) = &endpoint.signer {
        let token = signer.token(user).map_err(Refusal::Final)?;
        request = request.with_header("Authorization", format!("Bearer {token}")).with_sub_protocol(FULL_MODE);
    }
    let stream = connect(endpoint.addr, user, receive_bytes).await.map_err(Refusal::Broken)?;
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(64 * 1024);
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(response)) if matches!(response.status().as_u16(), 429 | 503) => {
            let after = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
            Err(Refusal::Busy(Duration::from_secs(after.unwrap_or(1))))
        }
        Err(WsError::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Err(Refusal::Final(anyhow!("user {user}: server said: {} {body}", response.status())))
        }
        Err(WsError::Io(error)) => Err(Refusal::Broken(anyhow!("user {user}: handshake: {error}"))),
        Err(error) => Err(Refusal::Final(anyhow!("user {user}: handshake: {error}"))),
    }
}

async fn connect(addr: SocketAddr, user: u64, receive_bytes: Option<u32>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    // All of 127.0.0.0/8 is this machine: another source address brings another 28,000 ports.
    let block = user / USERS_PER_SOURCE;
    if addr.ip().is_loopback() && block > 0 {
        let last = u8::try_from(1 + block % 250)?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    }
    let stream = socket.connect(addr).await.with_context(|| format!("user {user}: can't connect to {addr}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn explain(error: WsError) -> anyhow::Error {
    anyhow!("the connection broke: {error}")
}
