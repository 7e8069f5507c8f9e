//! Whether something answers, in the words that it speaks itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stores::Store;
use crate::harness::http;

/// Longer than any that is well takes; the table is drawn each second.
const BOUND: Duration = Duration::from_millis(800);

/// Whether `/readyz` says so, soon enough.
pub async fn is_ready(addr: SocketAddr) -> bool {
    timeout(BOUND, http::is_ready(addr)).await.unwrap_or(false)
}

/// What a node of a store says of itself, if it says anything: nothing of Cassandra's, `primary` or `replica` of Redis'.
pub async fn node(store: Store, addr: SocketAddr) -> Option<String> {
    timeout(BOUND, ask(store, addr)).await.ok()?.ok()?
}

async fn ask(store: Store, addr: SocketAddr) -> std::io::Result<Option<String>> {
    /// CQL v4, stream 0: OPTIONS, without a body.
    const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];
    /// Its answer, SUPPORTED.
    const SUPPORTED: [u8; 5] = [0x84, 0, 0, 0, 6];
    let mut stream = TcpStream::connect(addr).await?;
    match store {
        Store::Cassandra => {
            stream.write_all(&OPTIONS).await?;
            let mut head = [0; 5];
            stream.read_exact(&mut head).await?;
            Ok((head == SUPPORTED).then(String::new))
        }
        Store::Redis => {
            stream.write_all(b"ROLE\r\n").await?;
            let mut bytes = [0; 64];
            let length = stream.read(&mut bytes).await?;
            Ok(parse_role(&String::from_utf8_lossy(&bytes[..length])))
        }
    }
}

/// The first of an array: `*3\r\n$6\r\nmaster\r\n…`.
fn parse_role(answer: &str) -> Option<String> {
    let mut lines = answer.split("\r\n");
    let (array, length, role) = (lines.next()?, lines.next()?, lines.next()?);
    if !array.starts_with('*') || length != format!("${}", role.len()) {
        return None;
    }
    // Redis still answers by its old words.
    Some(role.replace("master", "primary").replace("slave", "replica"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::net::TcpListener;

    /// Answers the first who comes, and says what it was asked.
    async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 64];
            let length = stream.read(&mut asked).await.unwrap();
            asked.truncate(length);
            stream.write_all(answer).await.unwrap();
            asked
        });
        (addr, asked)
    }

    #[tokio::test]
    async fn a_node_answers_in_its_own_words() {
        let (addr, asked) = server(&[0x84, 0, 0, 0, 6, 0, 0, 0, 0]).await;
        assert_eq!(node(Store::Cassandra, addr).await.as_deref(), Some(""));
        assert_eq!(asked.await.unwrap()[4], 5);
        let (addr, asked) = server(b"*3\r\n$6\r\nmaster\r\n:14\r\n*0\r\n").await;
        assert_eq!(node(Store::Redis, addr).await.as_deref(), Some("primary"));
        assert_eq!(asked.await.unwrap(), b"ROLE\r\n");
        // Another server has the port, or nobody.
        let (addr, _asked) = server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert_eq!(node(Store::Redis, addr).await, None);
        let (addr, _asked) = server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert_eq!(node(Store::Cassandra, addr).await, None);
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(node(Store::Redis, closed).await, None);
    }

    #[test]
    fn a_torn_role_is_none() {
        assert_eq!(parse_role("*5\r\n$5\r\nslave\r\n$9"), Some("replica".to_owned()));
        for torn in ["", "*3", "*3\r\n$6\r\nmas", "-NOAUTH Authentication required.\r\n", "-a\r\n$1\r\nb\r\n"] {
            assert_eq!(parse_role(torn), None, "{torn:?}");
        }
    }
}
