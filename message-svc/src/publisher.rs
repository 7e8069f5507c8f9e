//! The stream to fanout: opened again, with backoff, whenever it breaks.

use std::time::Duration;

use confab_mesh::{Drain, Peer};
use confab_proto::fanout::v1::fanout_service_client::FanoutServiceClient;
use confab_proto::fanout::v1::{PublishRequest, PublishResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Publications per frame: a frame of members of large groups stays well below gRPC's 4 MiB.
pub(crate) const PUBLICATIONS_PER_FRAME: usize = 64;

/// What happens to the stream.
pub(crate) enum FanoutEvent {
    /// A new stream: it has to be told all that is not settled. Its queue holds no more than what the owner's outbox
    /// does, and that is bounded.
    Connected(mpsc::UnboundedSender<PublishRequest>),
    Said(PublishResponse),
    Lost,
}

/// Keeps a stream open until the drain ends it or nobody listens.
pub(crate) async fn run(mut fanout: FanoutServiceClient<Peer>, events: mpsc::Sender<FanoutEvent>, drain: Drain) {
    let mut backoff = BACKOFF.0;
    while !events.is_closed() {
        let (requests, queue) = mpsc::unbounded_channel();
        match fanout.publish(UnboundedReceiverStream::new(queue)).await {
            Ok(response) => {
                backoff = BACKOFF.0;
                let mut responses = response.into_inner();
                if events.send(FanoutEvent::Connected(requests)).await.is_err() {
                    return;
                }
                loop {
                    match responses.message().await {
                        Ok(Some(response)) => drop(events.send(FanoutEvent::Said(response)).await),
                        Ok(None) => break,
                        Err(status) => {
                            tracing::warn!(code = ?status.code(), "the stream to fanout broke");
                            break;
                        }
                    }
                }
                drop(events.send(FanoutEvent::Lost).await);
            }
            Err(status) => tracing::warn!(code = ?status.code(), "fanout can't be reached"),
        }
        if drain.is_started() {
            return;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}
