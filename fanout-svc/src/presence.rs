//! The streams to presence: one to each instance, opened again with backoff.

use std::time::Duration;

use confab_mesh::{ClientConfig, Member, Pool, each};
use confab_proto::presence::v1::LocateResponse;
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::router::{Asked, FromPresence};

const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Keeps a `Locate` stream to each instance of the pool, and to those that were listed until lately: never returns.
pub(crate) async fn ask_each(pool: Pool, events: mpsc::Sender<FromPresence>) {
    let linger = Duration::from_millis(confab_mesh::views::VIEW_LAG_MS);
    each(pool, linger, move |member| ask(member, events.clone())).await;
}

async fn ask(member: Member, events: mpsc::Sender<FromPresence>) {
    let to_presence = ClientConfig::new("fanout-svc", "presence-svc").streaming(&["Locate"]);
    let mut presence = PresenceServiceClient::new(confab_mesh::client(to_presence, member.peer.clone()));
    let mut backoff = BACKOFF.0;
    while !events.is_closed() {
        let (questions, queue) = mpsc::unbounded_channel();
        match presence.locate(UnboundedReceiverStream::new(queue)).await {
            Ok(response) => {
                backoff = BACKOFF.0;
                let cut = CancellationToken::new();
                let asked = Asked { questions, _cut: cut.clone().drop_guard() };
                // The receiver is gone only when the router is.
                drop(events.send(FromPresence::Connected(member.id.clone(), asked)).await);
                pass_on(&member, response.into_inner(), &cut, &events).await;
                drop(events.send(FromPresence::Lost(member.id.clone())).await);
            }
            Err(status) => tracing::warn!(presence = %member.id, code = ?status.code(), "presence can't be reached"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

async fn pass_on(
    member: &Member,
    mut answers: Streaming<LocateResponse>,
    cut: &CancellationToken,
    events: &mpsc::Sender<FromPresence>,
) {
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => drop(events.send(FromPresence::Located(member.id.clone(), answer)).await),
                Ok(None) | Err(_) => return,
            },
            () = cut.cancelled() => return,
        }
    }
}
