//! The stream to message-svc: commands of all connections go out in batches, replies come back to each.

use confab_mesh::{Drain, Peer};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{Command, ConverseRequest, ConverseResponse};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::RETRY;
use crate::mailbox::Item;
use crate::registry::Registry;

/// Commands that wait for the stream; a connection with one more waits, and is not read meanwhile.
const COMMANDS_MAX: usize = 8_192;

/// Commands per frame: of the largest contents that a client's frame can hold, too, it stays below gRPC's 4 MiB.
const BATCH_MAX: usize = 128;

/// Frames that wait for message-svc to read them.
const FRAMES_MAX: usize = 16;

#[derive(Clone)]
pub(crate) struct Conversation(mpsc::Sender<Command>);

impl Conversation {
    /// Hands a command over; where there is no room, what to wait for.
    pub(crate) fn send(&self, session: u64, call: u64, action: Action) -> Option<BoxFuture<'_, ()>> {
        match self.0.try_send(Command { session, call, generation: 0, action: Some(action) }) {
            Err(TrySendError::Full(command)) => Some(Box::pin(async move {
                // Without the link the process is ending, and so is the connection.
                drop(self.0.send(command).await);
            })),
            Ok(()) | Err(TrySendError::Closed(_)) => None,
        }
    }
}

/// Starts the link.
pub(crate) fn start(client: MessageServiceClient<Peer>, registry: Registry, drain: &Drain) -> Conversation {
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    let ended = drain.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = run(client, registry, queue) => {}
            () = ended.started() => {}
        }
    });
    Conversation(commands)
}

async fn run(mut client: MessageServiceClient<Peer>, registry: Registry, mut queue: mpsc::Receiver<Command>) {
    loop {
        let (frames, requests) = mpsc::channel(FRAMES_MAX);
        match client.converse(ReceiverStream::new(requests)).await {
            Ok(response) => converse(&mut queue, &frames, response.into_inner(), &registry).await,
            Err(status) => tracing::warn!(code = ?status.code(), "message-svc can't be reached"),
        }
        for mailbox in registry.read().all() {
            mailbox.push(Item::Broken);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn converse(
    queue: &mut mpsc::Receiver<Command>,
    frames: &mpsc::Sender<ConverseRequest>,
    mut responses: Streaming<ConverseResponse>,
    registry: &Registry,
) {
    loop {
        tokio::select! {
            response = responses.message() => match response {
                Ok(Some(response)) => hand_out(response, registry),
                Ok(None) | Err(_) => return,
            },
            sent = send_batch(queue, frames) => {
                if sent.is_none() {
                    return;
                }
            }
        }
    }
}

/// Sends what waits, as one frame; `None`: the stream has ended. Cancel safe: there is room before a command is taken, and
/// what is taken is sent without another wait.
async fn send_batch(queue: &mut mpsc::Receiver<Command>, frames: &mpsc::Sender<ConverseRequest>) -> Option<()> {
    let room = frames.reserve().await.ok()?;
    let mut commands = Vec::new();
    let taken = queue.recv_many(&mut commands, BATCH_MAX).await;
    if taken == 0 {
        return None;
    }
    room.send(ConverseRequest { commands });
    Some(())
}

fn hand_out(response: ConverseResponse, registry: &Registry) {
    let connections = registry.read();
    for reply in response.replies {
        if let Some(mailbox) = connections.get(reply.session) {
            mailbox.push(Item::Reply(Box::new(reply)));
        }
    }
}
