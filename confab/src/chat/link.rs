//! The connection to the server, in a task of its own: it comes back by itself, and says when it is up and down.

use std::ops::Range;
use std::time::Duration;

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::frame::{self, ClientFrame, Incoming, ServerFrame};
use super::server::{ConnectError, Members, Server, Socket};

/// Beyond it, whoever writes waits: the server reads no faster.
const QUEUE: usize = 64;
/// The server pings every 30 s; so long without a byte, it is gone, whatever TCP says. Milliseconds, drawn anew for each connection.
const SILENCE_MS: Range<u64> = 35_000..50_000;
/// Before the token ends, the server gets a new one.
const REFRESH: Duration = Duration::from_secs(45 * 60);
/// How long tokens hold.
pub(crate) const TOKEN_TTL: Duration = Duration::from_secs(60 * 60);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What the link tells.
#[derive(Debug)]
pub(crate) enum Happened {
    /// Connected; who is in the chat, where that could be asked.
    Up(Option<Vec<u64>>),
    Frame(Incoming),
    Down {
        why: String,
        again_in: Duration,
    },
    /// It is of no use to try again.
    Refused(Refused),
}

#[derive(Debug)]
pub(crate) enum Refused {
    Unreachable(String),
    Unauthorized,
    Chat { code: String, message: String },
    Closed { code: u16, reason: String },
}

/// Frames in, happenings out; when this end is dropped, the link says goodbye and ends.
pub(crate) struct Link {
    pub(crate) frames: mpsc::Sender<ClientFrame>,
    pub(crate) happened: mpsc::Receiver<Happened>,
    task: tokio::task::JoinHandle<()>,
}

/// Mints a token.
pub(crate) type Mint = Box<dyn Fn() -> String + Send + Sync>;

struct Task {
    server: Server,
    chat: u64,
    mint: Mint,
    frames: mpsc::Receiver<ClientFrame>,
    happened: mpsc::Sender<Happened>,
    backoff: Backoff,
}

/// Why a connection ended.
enum End {
    /// The program ends.
    Left,
    Again {
        why: String,
        after: Option<Duration>,
    },
    Refused(Refused),
}

impl Link {
    pub(crate) fn start(server: Server, chat: u64, mint: Mint) -> Self {
        let (to_link, frames) = mpsc::channel(QUEUE);
        let (happened, from_link) = mpsc::channel(QUEUE);
        let task = Task { server, chat, mint, frames, happened, backoff: Backoff::default() };
        Self { frames: to_link, happened: from_link, task: tokio::spawn(task.run()) }
    }

    /// What was sent still goes out.
    pub(crate) async fn leave(self) {
        drop(self.frames);
        drop(self.happened);
        // The program ends either way, and the server notices.
        let _ = timeout(GOODBYE * 2, self.task).await;
    }
}

impl Task {
    async fn run(mut self) {
        let mut first = true;
        loop {
            let end = match self.server.connect(&(self.mint)()).await {
                Ok(socket) => {
                    first = false;
                    self.connected(socket).await
                }
                Err(ConnectError::Unauthorized) => End::Refused(Refused::Unauthorized),
                Err(ConnectError::Unreachable(why)) if first => End::Refused(Refused::Unreachable(why)),
                Err(ConnectError::Unreachable(why)) => End::Again { why, after: None },
            };
            let told = match end {
                End::Left => return,
                End::Refused(refused) => {
                    let _ = self.happened.send(Happened::Refused(refused)).await;
                    return;
                }
                End::Again { why, after } => {
                    let again_in = after.unwrap_or_else(|| self.backoff.next(rand::random()));
                    (again_in, self.happened.send(Happened::Down { why, again_in }).await)
                }
            };
            let (again_in, Ok(())) = told else { return };
            tokio::select! {
                () = sleep(again_in) => {}
                () = self.happened.closed() => return,
            }
        }
    }

    async fn connected(&mut self, socket: Socket) -> End {
        let members = match self.server.members(&(self.mint)(), self.chat).await {
            Ok(Members::All(members)) => Some(members),
            Ok(Members::Refused { code, message }) if code == "NOT_MEMBER" || code == "NOT_FOUND" => {
                return End::Refused(Refused::Chat { code, message });
            }
            // Then senders and receipts say who is there.
            Ok(Members::Refused { .. }) | Err(_) => None,
        };
        // What was meant for the last connection; what matters of it is sent again.
        while self.frames.try_recv().is_ok() {}
        if self.happened.send(Happened::Up(members)).await.is_err() {
            return End::Left;
        }
        self.backoff = Backoff::default();
        self.converse(socket).await
    }

    async fn converse(&mut self, mut socket: Socket) -> End {
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        // Not before: by the server's own word.
        let mut reconnect_at: Option<Instant> = None;
        let silence = Duration::from_millis(rand::random_range(SILENCE_MS));
        let mut heard = Instant::now();
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(Instant::now()));
        loop {
            let sent = tokio::select! {
                frame = self.frames.recv() => match frame {
                    Some(frame) => socket.send(Message::text(frame.text())).await,
                    None => return self.goodbye(socket).await,
                },
                _ = refresh.tick() => socket.send(Message::text(ClientFrame::Auth { token: (self.mint)() }.text())).await,
                () = sleep_until(heard + silence) => return again("the server is silent"),
                message = socket.next().inspect(|_| heard = Instant::now()) => match message {
                    None => return again("the connection is lost"),
                    Some(Err(error)) => Err(error),
                    Some(Ok(Message::Text(text))) => {
                        let incoming = frame::read(text.as_str());
                        if let Some(Incoming::Frame(ServerFrame::Reconnect { after_ms })) = incoming {
                            reconnect_at = Some(Instant::now() + Duration::from_millis(after_ms));
                        } else if let Some(incoming) = incoming
                            && self.happened.send(Happened::Frame(incoming)).await.is_err()
                        {
                            return self.goodbye(socket).await;
                        }
                        Ok(())
                    }
                    Some(Ok(Message::Close(close))) => return ended(close, left(reconnect_at)),
                    Some(Ok(_)) => Ok(()),
                },
            };
            if let Err(error) = sent {
                return lost(&error, left(reconnect_at));
            }
        }
    }

    async fn goodbye(&mut self, mut socket: Socket) -> End {
        let closing = async {
            // What is queued goes first; it is at most a queue's worth.
            while let Ok(frame) = self.frames.try_recv() {
                socket.send(Message::text(frame.text())).await?;
            }
            socket.close(None).await?;
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
            Ok::<(), Error>(())
        };
        let _ = timeout(GOODBYE, closing).await;
        End::Left
    }
}

fn again(why: &str) -> End {
    End::Again { why: why.to_owned(), after: None }
}

fn lost(error: &Error, after: Option<Duration>) -> End {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_) => {
            End::Again { why: "the connection is lost".to_owned(), after }
        }
        error => End::Again { why: format!("the connection is lost: {error}"), after },
    }
}

/// As the protocol's table of close codes has it.
fn ended(close: Option<CloseFrame>, after: Option<Duration>) -> End {
    let Some(CloseFrame { code, reason }) = close else {
        return End::Again { why: "the connection is lost".to_owned(), after };
    };
    match u16::from(code) {
        1000 | 1001 => End::Again { why: "the server is leaving".to_owned(), after },
        4001 => again("the token has expired"),
        code @ (1007 | 1009 | 4002..=4004) => End::Refused(Refused::Closed { code, reason: reason.to_string() }),
        code => End::Again { why: format!("the server closed the connection ({code} {reason})"), after },
    }
}

/// Full jitter between nothing and a bound that doubles: a server that comes back isn't met by all at once.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// `random` from 0 to 1.
    fn next(&mut self, random: f64) -> Duration {
        let bound = BACKOFF_MAX.min(BACKOFF_MIN * 2u32.saturating_pow(self.attempts));
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..7).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.next(0.5), Duration::from_secs(15));
        backoff.attempts = u32::MAX;
        assert_eq!(backoff.next(1.0), BACKOFF_MAX);
    }

    #[test]
    fn close_codes() {
        let end = |code: u16| {
            ended(
                Some(CloseFrame { code: CloseCode::from(code), reason: "because".into() }),
                Some(Duration::from_secs(3)),
            )
        };
        assert!(matches!(end(1001), End::Again { after: Some(after), .. } if after == Duration::from_secs(3)));
        assert!(matches!(end(4001), End::Again { after: None, .. }));
        assert!(matches!(end(4003), End::Refused(Refused::Closed { code: 4003, .. })));
        assert!(matches!(end(4008), End::Again { .. }));
        assert!(matches!(ended(None, None), End::Again { after: None, .. }));
    }
}
