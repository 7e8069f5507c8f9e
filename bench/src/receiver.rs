//! A connection that takes what comes, checks its order, and confirms it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

use crate::client::Connection;
use crate::clock::now_ns;
use crate::frame::{Stamp, delivered};
use crate::recorder::{Complaints, SeqGuard};
use crate::scan::scan;
use crate::sender::see_event;

/// One receiver of one chat.
pub struct Receiver<D> {
    /// A synced connection.
    pub connection: Connection,
    /// The chat that it confirms.
    pub chat_id: u64,
    /// Checks the events' order; `None` for a bare peer.
    pub guard: Option<SeqGuard>,
    /// Whether to say `delivered`, once for all that had arrived together. Set by the load, read by its receivers.
    pub confirm: Arc<AtomicBool>,
    /// Told each message: its stamp, the time, the frame.
    pub on_message: D,
}

impl<D: FnMut(Stamp, u64, &str) -> Result<()> + Send> Receiver<D> {
    /// Runs until it is aborted; what goes wrong is added to the complaints.
    pub async fn run(self, complaints: Arc<Complaints>) {
        let chat_id = self.chat_id;
        if let Err(error) = self.follow().await {
            complaints.add(format!("receiver in chat {chat_id}: {error:#}"));
        }
    }

    async fn follow(mut self) -> Result<()> {
        loop {
            let text = self.connection.next_text().await?;
            let mut newest = self.take(&text)?;
            while let Some(text) = self.connection.ready_text().await? {
                newest = self.take(&text)?.or(newest);
            }
            if let Some(seq) = newest
                && self.confirm.load(Ordering::Relaxed)
            {
                self.connection.send(delivered(self.chat_id, seq)).await?;
            }
        }
    }

    /// Takes a frame; gives its seq if it is a message.
    fn take(&mut self, text: &str) -> Result<Option<u64>> {
        let frame = scan(text).with_context(|| format!("not a frame: {text}"))?;
        if frame.kind == "error" {
            bail!("server said: {} {}", frame.code, frame.message);
        }
        see_event(&frame, self.guard.as_mut())?;
        if frame.kind != "message" {
            return Ok(None);
        }
        if let Some(stamp) = Stamp::read(frame.content) {
            (self.on_message)(stamp, now_ns(), text)?;
        }
        Ok(frame.seq)
    }
}
