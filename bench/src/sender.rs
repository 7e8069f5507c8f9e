//! A connection that sends on a fixed schedule, whatever the server does.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::client::Connection;
use crate::clock::{instant_at, now_ns};
use crate::frame::{MessageMaker, Stamp};
use crate::recorder::{Complaints, Recorder, SeqGuard};
use crate::scan::{Frame, scan};
use crate::schedule::{Lane, Schedule};

/// The schedule that all senders of a load follow now; dropping it ends them.
pub type Steps = watch::Sender<Option<Schedule>>;

/// Errors after which a message may be tried again: they count against a step, and do not end the run.
const RETRYABLE: [&str; 3] = ["RATE_LIMITED", "UNAVAILABLE", "DEADLINE"];

/// One sender, and how its messages come back to it.
pub struct Sender<O> {
    /// A synced connection.
    pub connection: Connection,
    /// Its part of each schedule.
    pub lane: u32,
    /// Makes its frames.
    pub maker: MessageMaker,
    /// Checks the events of its chat; `None` for a bare peer.
    pub guard: Option<SeqGuard>,
    /// An echo server's answer to a message is the message, and stands for an ack.
    pub echo: bool,
    /// Unanswered messages at most: those due beyond that wait, and count as late.
    pub in_flight_max: u32,
    /// Where to count.
    pub recorder: Arc<Recorder>,
    /// Told each own message that comes back as an event: its stamp, the time, the frame.
    pub on_own: O,
}

impl<O: FnMut(Stamp, u64, &str) -> Result<()> + Send> Sender<O> {
    /// Runs until `steps` is dropped; what goes wrong is added to the complaints.
    pub async fn run(self, steps: watch::Receiver<Option<Schedule>>, complaints: Arc<Complaints>) {
        let lane = self.lane;
        if let Err(error) = self.follow(steps).await {
            complaints.add(format!("sender {lane}: {error:#}"));
        }
    }

    async fn follow(mut self, mut steps: watch::Receiver<Option<Schedule>>) -> Result<()> {
        let mut lane: Option<Lane> = None;
        let mut in_flight = 0_u32;
        let mut armed_for = 0;
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            let due = lane.as_ref().filter(|_| in_flight < self.in_flight_max).and_then(Lane::peek);
            if let Some(due) = due
                && due.at_ns != armed_for
            {
                armed_for = due.at_ns;
                timer.as_mut().reset(instant_at(due.at_ns));
            }
            tokio::select! {
                text = self.connection.next_text() => {
                    in_flight = self.answered(in_flight, &text?)?;
                    while let Some(text) = self.connection.ready_text().await? {
                        in_flight = self.answered(in_flight, &text)?;
                    }
                }
                () = timer.as_mut(), if due.is_some() => {}
                changed = steps.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    lane = steps.borrow_and_update().map(|schedule| schedule.lane(self.lane));
                }
            }
            if let Some(lane) = &mut lane {
                in_flight = self.send_due(lane, in_flight).await?;
            }
        }
    }

    async fn send_due(&mut self, lane: &mut Lane, mut in_flight: u32) -> Result<u32> {
        let before = in_flight;
        let now = now_ns();
        while in_flight < self.in_flight_max
            && let Some(due) = lane.take(now)
        {
            let stamp = Stamp { at_ns: due.at_ns, index: due.index };
            self.connection.feed(self.maker.make(stamp)).await?;
            self.recorder.sent(due.at_ns, now);
            in_flight += 1;
        }
        if in_flight > before {
            self.connection.flush().await?;
        }
        Ok(in_flight)
    }

    /// Takes a frame, and gives the number of messages that are unanswered after it.
    fn answered(&mut self, in_flight: u32, text: &str) -> Result<u32> {
        let frame = scan(text).with_context(|| format!("not a frame: {text}"))?;
        let answers = match frame.kind {
            "ack" => {
                self.acked(frame.client_id)?;
                true
            }
            "message" if self.echo => {
                self.acked(frame.content)?;
                true
            }
            "error" if RETRYABLE.contains(&frame.code) => {
                self.recorder.refused();
                true
            }
            "error" => bail!("server said: {} {}", frame.code, frame.message),
            _ => {
                self.event(&frame, text)?;
                false
            }
        };
        let left = if answers { in_flight.checked_sub(1) } else { Some(in_flight) };
        left.with_context(|| format!("an answer to nothing: {text}"))
    }

    fn acked(&self, stamped: &str) -> Result<()> {
        let stamp = Stamp::read(stamped).with_context(|| format!("an ack of something else: {stamped}"))?;
        self.recorder.acked(stamp.at_ns, now_ns());
        Ok(())
    }

    fn event(&mut self, frame: &Frame<'_>, text: &str) -> Result<()> {
        see_event(frame, self.guard.as_mut())?;
        if frame.kind == "message"
            && let Some(stamp) = Stamp::read(frame.content)
        {
            (self.on_own)(stamp, now_ns(), text)?;
        }
        Ok(())
    }
}

/// Checks the order of anything that takes a seq; other frames pass.
pub fn see_event(frame: &Frame<'_>, guard: Option<&mut SeqGuard>) -> Result<()> {
    match (frame.kind, guard) {
        ("gap", _) => bail!("a gap where there should be none"),
        ("message" | "edited" | "deleted" | "reacted" | "chat", Some(guard)) => {
            let seq = frame.seq.with_context(|| format!("a {} without a seq", frame.kind))?;
            guard.see(seq)
        }
        _ => Ok(()),
    }
}
