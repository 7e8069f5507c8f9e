//! One client's WebSocket: the task around [`crate::core::session`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::time::{Sleep, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::core::Out;
use crate::core::session::{Now, Session};
use crate::edge::Shared;
use crate::frames::client::{self, BadFrame, ClientFrame, Read};
use crate::frames::{Close, Code, Wire, binary};
use crate::mailbox::Mailbox;
use crate::stream::ClientStream;

/// Frames read in a row before what they led to is done.
const FRAMES_IN_A_ROW: usize = 16;

/// How often a connection that waits for its client looks whether it has to end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a client has for answering a close.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Small buffers: they are what an idle connection costs. Writes gather up to 4 KiB per system call.
pub(crate) fn websocket_config(frame_bytes_hard_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1_024)
        .write_buffer_size(4_096)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(frame_bytes_hard_max))
        .max_frame_size(Some(frame_bytes_hard_max))
}

/// Why a connection ends.
enum End {
    /// We close.
    Close(Close),
    /// It is closed, or gone.
    Gone,
}

enum Input {
    Mail,
    Frame(Option<Result<Message, Error>>),
    Timer,
}

pub(crate) struct Connection {
    pub socket: WebSocketStream<ClientStream>,
    pub session: Session,
    pub mailbox: Arc<Mailbox>,
    pub shared: Arc<Shared>,
}

impl Connection {
    /// Runs until the client or the server ends it. Boxed, for a future holds its arguments twice; and what is rare is boxed
    /// below, for an idle connection holds the size of what it may ever wait for.
    pub(crate) async fn run(mut self: Box<Self>) {
        self.shared.open(&self.mailbox);
        let end = self.serve().await;
        self.shared.close(&self.mailbox);
        if let End::Close(close) = end {
            // However it goes, the connection is over.
            let _ended = Box::pin(timeout(CLOSE_MAX, self.say_goodbye(close))).await;
        }
    }

    async fn serve(&mut self) -> End {
        let mut timer = Box::pin(sleep(Duration::ZERO));
        loop {
            if let Err(end) = self.act().await {
                return end;
            }
            let now = self.now();
            self.set_timer(now, timer.as_mut());
            let input = tokio::select! {
                () = self.mailbox.ready() => Input::Mail,
                frame = self.socket.next(), if self.session.reads(now) => Input::Frame(frame),
                () = timer.as_mut() => Input::Timer,
            };
            let now = self.now();
            match input {
                Input::Mail => {
                    for item in self.mailbox.take() {
                        self.session.item(now, item);
                    }
                }
                Input::Timer => self.session.tick(now),
                Input::Frame(frame) => {
                    if let Err(end) = self.frames(now, frame) {
                        self.follow_the_last().await;
                        return end;
                    }
                }
            }
        }
    }

    fn set_timer(&self, now: Now, timer: std::pin::Pin<&mut Sleep>) {
        let due = self.shared.started + Duration::from_millis(self.session.next_tick_ms(now));
        // A timer that fires early costs a look; one that is moved at every frame costs more.
        if timer.is_elapsed() || due < timer.deadline().into_std() {
            timer.reset(due.into());
        }
    }

    fn now(&self) -> Now {
        self.shared.now()
    }

    /// Handles a frame, and those that are there behind it.
    fn frames(&mut self, now: Now, first: Option<Result<Message, Error>>) -> Result<(), End> {
        let mut next = first;
        for left in (0..FRAMES_IN_A_ROW).rev() {
            self.session.heard(now);
            match next {
                None => return Err(End::Gone),
                Some(Err(error)) => return Err(end_of(&error)),
                Some(Ok(message)) => self.message(now, message)?,
            }
            // What is read is handled: nothing is read that could not be.
            if left == 0 || !self.session.reads(now) {
                break;
            }
            match self.socket.next().now_or_never() {
                Some(ready) => next = ready,
                None => break,
            }
        }
        Ok(())
    }

    fn message(&mut self, now: Now, message: Message) -> Result<(), End> {
        match (message, self.mailbox.wire) {
            (Message::Text(text), Wire::Json) => self.frame(now, text.len(), || client::read(&text)),
            (Message::Binary(bytes), Wire::Proto) => self.frame(now, bytes.len(), || binary::read(&bytes)),
            (Message::Binary(_), Wire::Json) => self.wrong_way(now, "a binary frame; this connection speaks JSON text"),
            (Message::Text(_), Wire::Proto) => self.wrong_way(now, "a text frame; this connection speaks protobuf"),
            (Message::Pong(payload), _) => {
                if let Ok(number) = payload[..].try_into().map(u64::from_be_bytes) {
                    self.session.pong(now, number);
                }
            }
            // Answered by the library.
            (Message::Ping(_) | Message::Frame(_), _) => {}
            (Message::Close(_), _) => return Err(End::Gone),
        }
        Ok(())
    }

    fn frame(&mut self, now: Now, bytes: usize, read: impl FnOnce() -> Read) {
        let max = self.shared.cfg.frame_bytes_max;
        if bytes > max {
            return self.session.bad_frame(now, &BadFrame::too_large(bytes, max), None, None);
        }
        let read = read();
        if matches!(read.frame, Ok(ClientFrame::Send(_)))
            && let Err(wait) = self.shared.limits.message(self.mailbox.user, bytes)
        {
            return self.session.limited(&read, wait);
        }
        let verifier = &self.shared.verifier;
        self.session.frame(now, read, |token| verifier.verify(token));
    }

    fn wrong_way(&mut self, now: Now, why: &str) {
        self.session.bad_frame(now, &BadFrame::new(Code::InvalidFrame, None, why), None, None);
    }

    /// Does what the core has said, and brings what was written on its way.
    async fn act(&mut self) -> Result<(), End> {
        for out in self.session.take_out() {
            match out {
                Out::Frame(frame) | Out::Answer(frame) | Out::Passing(_, frame) => {
                    self.write(frame.into()).await?;
                }
                Out::Ping(number) => {
                    let payload = Bytes::copy_from_slice(&number.to_be_bytes());
                    self.write(Message::Ping(payload)).await?;
                }
                Out::Command { call, action } => {
                    if let Some(wait) = self.shared.conversation.send(self.mailbox.session, call, action) {
                        wait.await;
                    }
                }
                Out::Ask(question) => self.shared.ask(&self.mailbox, question),
                Out::Close(close) => return Err(End::Close(close)),
            }
        }
        self.flush().await
    }

    /// Sends and marks that were read together with the end: whoever says goodbye after them has said them.
    async fn follow_the_last(&mut self) {
        for out in self.session.take_out() {
            if let Out::Command { call, action } = out
                && let Some(wait) = self.shared.conversation.send(self.mailbox.session, call, action)
            {
                wait.await;
            }
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        // A full socket has to take what is gathered before there is more.
        let ready = std::future::poll_fn(|cx| self.socket.poll_ready_unpin(cx)).now_or_never();
        match ready {
            Some(ready) => ready.map_err(|error| end_of(&error))?,
            None => self.flush().await?,
        }
        self.socket.start_send_unpin(message).map_err(|error| end_of(&error))
    }

    /// Waits for the client to take what was written, as long as it takes some.
    async fn flush(&mut self) -> Result<(), End> {
        match self.socket.flush().now_or_never() {
            Some(flushed) => flushed.map_err(|error| end_of(&error)),
            None => Box::pin(self.flush_slowly()).await,
        }
    }

    async fn flush_slowly(&mut self) -> Result<(), End> {
        let mut before = self.socket.get_ref().written();
        let mut since = Instant::now();
        loop {
            let flushed = timeout(LOOK_EVERY.min(self.shared.cfg.stall_max), self.socket.flush()).await;
            if let Ok(flushed) = flushed {
                self.session.flushed(self.now());
                return flushed.map_err(|error| end_of(&error));
            }
            if let Some(close) = self.mailbox.closing() {
                return Err(End::Close(close));
            }
            let written = self.socket.get_ref().written();
            if written > before {
                (before, since) = (written, Instant::now());
            } else if since.elapsed() >= self.shared.cfg.stall_max {
                return Err(End::Close(Close::TooSlow));
            }
        }
    }

    async fn say_goodbye(&mut self, close: Close) {
        let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
        if self.socket.close(Some(frame)).await.is_err() {
            return;
        }
        // Until the client's answer, so that the kernel doesn't throw ours away with unread bytes.
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Utf8(_) => End::Close(Close::InvalidUtf8),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => End::Close(Close::TooBig),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Error::Protocol(_) => End::Close(Close::ProtocolViolation),
        _ => End::Gone,
    }
}

/// The time, as the core wants it.
pub(crate) fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now {
        wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
        mono_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}
