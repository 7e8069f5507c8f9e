//! A tiny HTTP/1.1 client, by hand: hostile requests need the bytes anyway, and a test should not trust a client
//! library that the server uses, too.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BOUND, wait_for};

/// A response, read whole.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Errors
    /// If the body isn't JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}: not JSON: {:?}", self.status, self.text()))
    }
}

/// One request on its own connection.
///
/// # Errors
/// If the server doesn't answer within [`super::BOUND`], or not in HTTP.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> anyhow::Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    if let Some(token) = token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        head += "Content-Type: application/json\r\n";
    }
    if !body.is_empty() || method != "GET" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    raw(addr, format!("{head}\r\n{body}").as_bytes()).await.with_context(|| format!("{method} {path}"))
}

/// Whether `/readyz` there says so, now.
pub async fn is_ready(addr: SocketAddr) -> bool {
    request(addr, "GET", "/readyz", None, None).await.is_ok_and(|answer| answer.status == 200)
}

/// `POST /v1/chats` until it is answered, as clients do: without an answer, and after 502 and 503, it is to try again. The
/// chat's id.
///
/// # Errors
/// If there is no answer within [`super::BOUND`], or one that is none of `expected`.
pub async fn create_chat(addr: SocketAddr, token: &str, body: &Value, expected: &[u16]) -> anyhow::Result<u64> {
    let response = wait_for("a chat to be made", BOUND, || async {
        let response = request(addr, "POST", "/v1/chats", Some(token), Some(body)).await.ok()?;
        (!matches!(response.status, 502 | 503)).then_some(response)
    });
    let response = response.await?;
    ensure!(expected.contains(&response.status), "creating a chat: {} {}", response.status, response.text());
    response.json()?["chat_id"].as_u64().with_context(|| format!("no chat_id in {}", response.text()))
}

/// Sends `bytes` as they are and reads one response. The server may answer before it has read them all.
///
/// # Errors
/// If the server doesn't answer within [`super::BOUND`], or not in HTTP.
pub async fn raw(addr: SocketAddr, bytes: &[u8]) -> anyhow::Result<Response> {
    let exchange = async {
        let (mut read, mut write) = TcpStream::connect(addr).await?.into_split();
        let send = async {
            // A refused request may end in a reset while this still writes: the answer is what counts.
            let _refused = write.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            response = read_response(&mut read) => response,
            () = send => bail!("unreachable: the sender waits"),
        }
    };
    timeout(BOUND, exchange).await.context("no answer in time")?
}

/// Reads one response from a stream: by `Content-Length`, chunked, or up to the end.
///
/// # Errors
/// If the stream ends before the head does, or isn't HTTP.
pub async fn read_response(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> anyhow::Result<Response> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("the connection closed after {} bytes, before a response head", bytes.len());
        }
    };
    let (status, headers) = parse_head(&String::from_utf8_lossy(&bytes[..head_end]))?;
    let mut response = Response { status, headers, body: bytes.split_off(head_end) };
    let length = response.header("content-length").and_then(|length| length.parse::<usize>().ok());
    let bodiless = status == 101 || status == 204 || status == 304;
    if bodiless {
        return Ok(response);
    }
    while length.is_none_or(|length| response.body.len() < length) {
        if stream.read_buf(&mut response.body).await? == 0 {
            break;
        }
        if length.is_none() && response.body.ends_with(b"0\r\n\r\n") && is_chunked(&response) {
            break;
        }
    }
    if is_chunked(&response) {
        response.body = dechunk(&response.body)?;
    }
    Ok(response)
}

fn parse_head(head: &str) -> anyhow::Result<(u16, Vec<(String, String)>)> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status =
        first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("not a status line: {first:?}"))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok((status, headers))
}

fn is_chunked(response: &Response) -> bool {
    response.header("transfer-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked"))
}

fn dechunk(mut bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = find(bytes, b"\r\n").context("a chunk without its size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line])?.trim(), 16)?;
        let rest = &bytes[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).context("a torn chunk")?);
        bytes = rest.get(size + 2..).context("a torn chunk")?;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::read_response;

    #[tokio::test]
    async fn reads_bodies_by_length_in_chunks_and_to_the_end() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ] {
            let response = read_response(&mut text.as_bytes()).await.unwrap();
            assert_eq!(response.status, 200);
            assert_eq!(&response.text()[..5], "hello");
        }
        assert!(read_response(&mut &b"HTTP/1.1 200"[..]).await.is_err());
        assert!(read_response(&mut &b"SSH-2.0\r\n\r\n"[..]).await.is_err());
    }
}
