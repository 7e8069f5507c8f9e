//! The stream from fanout: what this edge's connections get. One frame is written per event, and shared.

use std::sync::Arc;

use confab_ids::{ChatId, Seq, UserId};
use confab_mesh::{Drain, Peer};
use confab_proto::fanout::v1::fanout_service_client::FanoutServiceClient;
use confab_proto::fanout::v1::{Attach, Delivery, SubscribeRequest, delivery, subscribe_request::Kind};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::RETRY;
use crate::frames::server::{EventFrame, ServerFrame, text};
use crate::mailbox::Subject;
use crate::registry::Registry;

/// Acknowledgements that wait for fanout to read them.
const ACKS_MAX: usize = 1_024;

/// Keeps the edge attached; says by `attached` when it is.
pub(crate) fn start(
    client: FanoutServiceClient<Peer>,
    registry: Registry,
    edge_id: String,
    attached: watch::Sender<bool>,
    drain: &Drain,
) {
    let ended = drain.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = run(client, registry, edge_id, attached) => {}
            () = ended.started() => {}
        }
    });
}

async fn run(
    mut client: FanoutServiceClient<Peer>,
    registry: Registry,
    edge_id: String,
    attached: watch::Sender<bool>,
) {
    let subscribe = |kind| SubscribeRequest { kind: Some(kind) };
    loop {
        let (requests, queue) = mpsc::channel(ACKS_MAX);
        let attach = subscribe(Kind::Attach(Attach { edge_id: edge_id.clone() }));
        // The queue is empty: there is room.
        drop(requests.try_send(attach));
        if let Ok(response) = client.subscribe(ReceiverStream::new(queue)).await {
            let mut deliveries = response.into_inner();
            attached.send_replace(true);
            while let Ok(Some(frame)) = deliveries.message().await {
                let last = frame.deliveries.last().map_or(0, |delivery| delivery.id);
                deliver(frame.deliveries, &registry);
                if requests.send(subscribe(Kind::Delivered(last))).await.is_err() {
                    break;
                }
            }
        }
        tracing::warn!("detached from fanout: the connections have to come again");
        attached.send_replace(false);
        // What was meant for them meanwhile is in the log; a reconnect reads it.
        registry.send_all_away();
        tokio::time::sleep(RETRY).await;
    }
}

fn deliver(deliveries: Vec<Delivery>, registry: &Registry) {
    let connections = registry.read();
    for delivery in deliveries {
        let mailboxes = delivery.user_ids.iter().flat_map(|user| connections.of(UserId(*user)));
        match delivery.payload {
            Some(delivery::Payload::Event(bytes)) => {
                let Some(event) = EventFrame::decode(&bytes, Seq(delivery.settled)) else {
                    tracing::error!(chat = delivery.chat_id, seq = delivery.seq, "an event that can't be read");
                    continue;
                };
                let event = Arc::new(event);
                mailboxes.for_each(|mailbox| mailbox.push_event(&event));
            }
            Some(delivery::Payload::Receipt(receipt)) => {
                let frame = text(&ServerFrame::Receipt {
                    chat_id: delivery.chat_id,
                    user_id: receipt.user_id,
                    delivered: receipt.delivered,
                    read: receipt.read,
                });
                let subject = Subject::Receipt(ChatId(delivery.chat_id), UserId(receipt.user_id));
                mailboxes.for_each(|mailbox| mailbox.push_passing(subject, frame.clone()));
            }
            None => {}
        }
    }
}
