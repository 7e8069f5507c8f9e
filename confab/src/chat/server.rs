//! Where the server is, and the two ways to talk to it: a WebSocket, and HTTP for who is in the chat.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST, SEC_WEBSOCKET_PROTOCOL};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};

use crate::tls;

const CONNECT: Duration = Duration::from_secs(10);
/// An answer of the HTTP API that is longer is no answer.
const BODY_BYTES_MAX: usize = 1 << 20;
/// A page of members, and as many as a chat has.
const PAGE: usize = 200;
const PAGES_MAX: usize = 8;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Io>>;

/// A server's address, as `--url` gives it.
#[derive(Clone)]
pub(crate) struct Server {
    tls: Option<Arc<rustls::ClientConfig>>,
    host: String,
    port: u16,
    /// Before `/ws` and `/v1`, for a server behind a path; no `/` at the end.
    path: String,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Nobody there, or not one that can be talked to; it may come.
    Unreachable(String),
    /// The token, that is its key, is not the server's.
    Unauthorized,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Member>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Member {
    user_id: u64,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
    message: String,
}

/// What the HTTP API says about a chat's members.
pub(crate) enum Members {
    All(Vec<u64>),
    Refused { code: String, message: String },
}

impl Server {
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let expected =
            || format!("--url {url}: a URL such as http://127.0.0.1:8080 or https://chat.example.org is expected");
        let uri: Uri = with_scheme.parse().with_context(expected)?;
        let (tls, default_port) = match uri.scheme_str() {
            Some("http" | "ws") => (None, 80),
            Some("https" | "wss") => (Some(tls::client()?), 443),
            _ => bail!(expected()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).with_context(expected)?;
        let path = uri.path().trim_end_matches('/').trim_end_matches("/ws").to_owned();
        Ok(Self { tls, host: host.to_owned(), port: uri.port_u16().unwrap_or(default_port), path })
    }

    /// Opens a WebSocket in full mode.
    pub(crate) async fn connect(&self, token: &str) -> Result<Socket, ConnectError> {
        let unreachable = |error: &dyn std::fmt::Display| ConnectError::Unreachable(error.to_string());
        let handshake = async {
            let stream = self.dial().await.map_err(|error| unreachable(&format_args!("{error:#}")))?;
            let mut request = format!("ws://{}{}/ws", self.authority(), self.path)
                .into_client_request()
                .map_err(|error| unreachable(&error))?;
            let headers = request.headers_mut();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, hyper::header::HeaderValue::from_static("confab.v1.json"));
            headers.insert(
                AUTHORIZATION,
                format!("Bearer {token}")
                    .parse()
                    .map_err(|error: hyper::header::InvalidHeaderValue| unreachable(&error))?,
            );
            let config = WebSocketConfig::default().max_message_size(Some(1 << 22));
            match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
                Ok((socket, _)) => Ok(socket),
                Err(tungstenite::Error::Http(answer)) if answer.status() == StatusCode::UNAUTHORIZED => {
                    Err(ConnectError::Unauthorized)
                }
                Err(tungstenite::Error::Http(answer)) => {
                    Err(unreachable(&format_args!("the server answers {}", answer.status())))
                }
                Err(error) => Err(unreachable(&error)),
            }
        };
        tokio::time::timeout(CONNECT, handshake)
            .await
            .unwrap_or_else(|_| Err(unreachable(&format_args!("no answer in {CONNECT:?}"))))
    }

    /// Asks who is in a chat.
    pub(crate) async fn members(&self, token: &str, chat: u64) -> anyhow::Result<Members> {
        tokio::time::timeout(CONNECT, self.members_by_pages(token, chat)).await.context("no answer in time")?
    }

    async fn members_by_pages(&self, token: &str, chat: u64) -> anyhow::Result<Members> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.dial().await?)).await?;
        // It ends with the sender.
        let connection = tokio::spawn(connection);
        let mut members = Vec::new();
        let mut next = String::new();
        for _ in 0..PAGES_MAX {
            let request = Request::get(format!("{}/v1/chats/{chat}/members?limit={PAGE}{next}", self.path))
                .header(HOST, self.authority())
                .header(AUTHORIZATION, format!("Bearer {token}"))
                .body(Empty::<Bytes>::new())?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(anyhow::Error::from_boxed)?
                .to_bytes();
            if !status.is_success() {
                let Problem { code, message } =
                    serde_json::from_slice(&body).with_context(|| format!("the server answers {status}"))?;
                return Ok(Members::Refused { code, message });
            }
            let page: Page = serde_json::from_slice(&body)?;
            members.extend(page.items.iter().map(|member| member.user_id));
            match page.next {
                Some(cursor) => next = format!("&next={cursor}"),
                None => break,
            }
        }
        drop(sender);
        connection.abort();
        Ok(Members::All(members))
    }

    async fn dial(&self) -> anyhow::Result<Box<dyn Io>> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.context("TLS")?;
        Ok(Box::new(stream))
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_as_people_write_them() {
        let parse = |url: &str| Server::parse(url).map(|server| format!("{} {}", server.authority(), server.path));
        for (url, place) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080 "),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080 "),
            ("ws://127.0.0.1:8080/ws", "127.0.0.1:8080 "),
            ("localhost:8080", "localhost:8080 "),
            ("http://[::1]:8080", "[::1]:8080 "),
            ("http://example.org", "example.org:80 "),
            ("http://example.org/chat/", "example.org:80 /chat"),
        ] {
            assert_eq!(parse(url).expect(url), place);
        }
        for bad in ["ftp://example.org", "http://", "http://a b", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said() {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let server = Server::parse(&format!("http://127.0.0.1:{port}")).expect("a URL");
        let error = server.connect("token").await.err();
        assert!(matches!(&error, Some(ConnectError::Unreachable(why)) if why.contains("refused")), "{error:?}");
    }
}
