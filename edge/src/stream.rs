//! A client's byte stream, plain or TLS, that counts what was written: a slow client's progress. One that takes nothing at all for
//! long is broken off, whatever it was to be told.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    /// Boxed: a plain connection does not pay for its size.
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
pub(crate) struct ClientStream {
    transport: Transport,
    /// Bytes that the transport has taken.
    written: u64,
    /// Until when it has to take more; none: it takes what comes.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// How long a transport may take nothing. WebSockets have their own, shorter bound, which tells why.
const STALL_MAX: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(90) };

impl ClientStream {
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { transport: Transport::Plain(stream), written: 0, stalled: None }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self { transport: Transport::Tls(Box::new(stream)), written: 0, stalled: None }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Keeps an eye on the progress that a write or a flush makes.
    fn watched<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

macro_rules! transport {
    ($self:ident.$method:ident($($arg:expr),*)) => {
        match &mut $self.transport {
            Transport::Plain(stream) => Pin::new(stream).$method($($arg),*),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).$method($($arg),*),
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        transport!(self.poll_read(cx, buf))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = transport!(self.poll_write(cx, buf));
        if let Poll::Ready(Ok(bytes)) = written {
            self.written += bytes as u64;
        }
        self.watched(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = transport!(self.poll_flush(cx));
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        transport!(self.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_broken_off_and_who_takes_slowly_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let reader = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let mut stream = ClientStream::plain(listener.accept().await.expect("accepted").0);
        let chunk = vec![7; 256 * 1_024];
        let begun = Instant::now();
        let slow = async {
            let mut taken = vec![0; 512 * 1_024];
            while begun.elapsed() < STALL_MAX * 2 {
                reader.readable().await.expect("something to read");
                let _none = reader.try_read(&mut taken);
                tokio::time::sleep(STALL_MAX / 20).await;
            }
        };
        tokio::select! {
            () = slow => {}
            error = async { loop { if let Err(error) = stream.write_all(&chunk).await { break error } } } => {
                panic!("broken off: {error}");
            }
        }
        let unread = async {
            loop {
                if let Err(error) = stream.write_all(&chunk).await {
                    break error;
                }
            }
        };
        let error = timeout(STALL_MAX * 10, unread).await.expect("it is broken off");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
