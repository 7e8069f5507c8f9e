//! What goes out on one stream: what waits for it is one frame when it has room, so that a slow instance gets larger ones, and
//! holds up no other.

use std::collections::VecDeque;

use confab_proto::message::v1::{Command, ConverseRequest};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Sender};
use tokio_util::sync::DropGuard;

use crate::core::routes::Stream;

/// Commands per frame: of the largest contents that a client's frame can hold, too, it stays below gRPC's 4 MiB.
const BATCH_MAX: usize = 128;

/// Frames that wait for message-svc to read them.
pub(super) const FRAMES_MAX: usize = 16;

/// Commands that wait for one stream; it is cut when there are more. More than all sends that the router holds.
const WAITING_MAX: usize = 131_072;

/// A place for a frame, asked for when there was none; no permit: the stream has ended.
pub(super) struct Room {
    pub stream: Stream,
    pub permit: Option<OwnedPermit<ConverseRequest>>,
}

/// When it is dropped, its stream is cut, whether the other end reads or not.
pub(super) struct Outlet {
    frames: Sender<ConverseRequest>,
    waiting: VecDeque<Command>,
    /// It waits for a [`Room`].
    asked: bool,
    _cut: DropGuard,
}

impl Outlet {
    pub(super) fn new(frames: Sender<ConverseRequest>, cut: DropGuard) -> Self {
        Self { frames, waiting: VecDeque::new(), asked: false, _cut: cut }
    }

    /// `None`: too many wait.
    pub(super) fn push(&mut self, commands: Vec<Command>) -> Option<()> {
        if self.waiting.is_empty() {
            self.waiting = commands.into();
        } else {
            self.waiting.extend(commands);
        }
        (self.waiting.len() <= WAITING_MAX).then_some(())
    }

    /// The room that was asked for is there.
    pub(super) fn has_room(&mut self, permit: Option<OwnedPermit<ConverseRequest>>) {
        self.asked = false;
        if let Some(permit) = permit {
            let commands = self.batch();
            permit.send(ConverseRequest { commands });
        }
    }

    /// Sends what waits, as far as there is room; what to wait for, if there is not.
    pub(super) fn flush(&mut self, stream: Stream) -> Option<BoxFuture<'static, Room>> {
        while !self.waiting.is_empty() && !self.asked {
            match self.frames.clone().try_reserve_owned() {
                Ok(permit) => self.has_room(Some(permit)),
                Err(TrySendError::Full(frames)) => {
                    self.asked = true;
                    let room = frames.reserve_owned();
                    return Some(room.map(move |permit| Room { stream, permit: permit.ok() }).boxed());
                }
                // Its end is told by the stream.
                Err(TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
        None
    }

    fn batch(&mut self) -> Vec<Command> {
        if self.waiting.len() <= BATCH_MAX {
            return std::mem::take(&mut self.waiting).into();
        }
        self.waiting.drain(..BATCH_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    fn commands(calls: std::ops::Range<u64>) -> Vec<Command> {
        calls.map(|call| Command { call, ..Command::default() }).collect()
    }

    #[tokio::test]
    async fn what_waits_goes_out_in_order_and_as_few_frames() {
        let (frames, mut taken) = mpsc::channel(1);
        let cut = CancellationToken::new();
        let mut outlet = Outlet::new(frames, cut.clone().drop_guard());
        outlet.push(commands(0..2)).expect("there is room");
        assert!(outlet.flush(1).is_none());
        let mut room = None;
        for call in 2..300 {
            outlet.push(commands(call..call + 1)).expect("there is room");
            room = outlet.flush(1).or(room);
        }
        let mut sizes = Vec::new();
        let mut next = 0;
        while let Some(frame) = taken.recv().await {
            sizes.push(frame.commands.len());
            for command in frame.commands {
                assert_eq!(command.call, next);
                next += 1;
            }
            let Some(asked) = room.take() else { break };
            outlet.has_room(asked.await.permit);
            room = outlet.flush(1);
        }
        assert_eq!((sizes.as_slice(), next), (&[2, 128, 128, 42][..], 300));
        drop(outlet);
        assert!(cut.is_cancelled());
    }

    #[test]
    fn too_many_are_too_many() {
        let mut outlet = Outlet::new(mpsc::channel(1).0, CancellationToken::new().drop_guard());
        assert!(outlet.push(commands(0..WAITING_MAX as u64)).is_some());
        assert!(outlet.push(commands(0..1)).is_none());
    }
}
