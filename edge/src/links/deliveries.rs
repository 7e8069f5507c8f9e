//! The streams from fanout, one from each instance: what this edge's connections get. One frame is written per event, and
//! shared. While a stream is away, its instance keeps what it has for this edge.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use confab_ids::{ChatId, Seq, UserId};
use confab_mesh::{ClientConfig, Drain, Member, Pool, client, each};
use confab_proto::fanout::v1::fanout_service_client::FanoutServiceClient;
use confab_proto::fanout::v1::{
    Attach, Delivery, Gone, ReceiptCount, SubscribeRequest, delivery, subscribe_request::Kind,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::Backoff;
use crate::frames::event::EventFrame;
use crate::frames::server::{ServerFrame, SharedFrame};
use crate::mailbox::{Mailbox, Subject};
use crate::registry::{Connections, Registry};

/// Acknowledgements that wait for fanout to read them; beyond it nothing more is taken from it.
const ACKS_MAX: usize = 1_024;

/// An instance that is no longer listed may have something for this edge for so long.
const LINGER: Duration = Duration::from_secs(30);

/// Keeps the edge attached to each instance of fanout; says by `attached` to how many it is.
pub(crate) fn start(fanout: Pool, registry: Registry, edge_id: String, attached: watch::Sender<usize>, drain: &Drain) {
    let ended = drain.clone();
    let attached = Arc::new(attached);
    tokio::spawn(async move {
        let run = |member| run(member, registry.clone(), edge_id.clone(), attached.clone());
        tokio::select! {
            () = each(fanout, LINGER, run) => {}
            () = ended.started() => {}
        }
    });
}

/// Counts a stream as long as it is there.
struct Attached(Arc<watch::Sender<usize>>);

impl Attached {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn run(member: Member, registry: Registry, edge_id: String, attached: Arc<watch::Sender<usize>>) {
    let to_fanout = ClientConfig::new("edge", "fanout-svc").streaming(&["Subscribe"]);
    let mut fanout = FanoutServiceClient::new(client(to_fanout, member.peer));
    let mut backoff = Backoff::default();
    loop {
        let (requests, queue) = mpsc::channel(ACKS_MAX);
        // The queue is empty: there is room.
        drop(requests.try_send(subscribe(Kind::Attach(Attach { edge_id: edge_id.clone() }))));
        if let Ok(response) = fanout.subscribe(ReceiverStream::new(queue)).await {
            backoff = Backoff::default();
            let _attached = Attached::new(&attached);
            let mut deliveries = response.into_inner();
            while let Ok(Some(frame)) = deliveries.message().await {
                let last = frame.deliveries.last().map_or(0, |delivery| delivery.id);
                let gone = deliver(frame.deliveries, &registry);
                let said = gone.into_iter().map(Kind::Gone).chain([Kind::Delivered(last)]);
                if say(&requests, said).await.is_none() {
                    break;
                }
            }
        }
        tracing::warn!(fanout = %member.id, "detached from fanout");
        backoff.wait().await;
    }
}

fn subscribe(kind: Kind) -> SubscribeRequest {
    SubscribeRequest { kind: Some(kind) }
}

/// `None`: the stream has ended.
async fn say(requests: &mpsc::Sender<SubscribeRequest>, said: impl Iterator<Item = Kind>) -> Option<()> {
    for kind in said {
        requests.send(subscribe(kind)).await.ok()?;
    }
    Some(())
}

/// Hands deliveries to their sessions; says which recipients have none.
fn deliver(deliveries: Vec<Delivery>, registry: &Registry) -> Vec<Gone> {
    let connections = registry.read();
    let mut all = Vec::new();
    for delivery in deliveries {
        let mut gone = Vec::new();
        hand_out(&delivery, &connections, &mut gone);
        if !gone.is_empty() {
            all.push(Gone { id: delivery.id, user_ids: gone });
        }
    }
    all
}

fn hand_out(delivery: &Delivery, connections: &Connections, gone: &mut Vec<u64>) {
    let mailboxes = delivery.user_ids.iter().flat_map(|user| {
        let of = connections.of(UserId(*user));
        gone.extend(of.is_empty().then_some(*user));
        of
    });
    let chat = ChatId(delivery.chat_id);
    match &delivery.payload {
        Some(delivery::Payload::Event(bytes)) => {
            let Some(event) = EventFrame::decode(bytes, Seq(delivery.settled)) else {
                tracing::error!(chat = delivery.chat_id, seq = delivery.seq, "an event that can't be read");
                return;
            };
            let event = Arc::new(event);
            mailboxes.for_each(|mailbox| mailbox.push_event(&event));
        }
        Some(delivery::Payload::Receipt(receipt)) if receipt.typing => {
            let typing = ServerFrame::Typing { chat_id: delivery.chat_id, user_id: receipt.user_id };
            let frame = SharedFrame::new(typing);
            let subject = Subject::Typing(chat, UserId(receipt.user_id));
            mailboxes.for_each(|mailbox| mailbox.push_passing(subject, &frame));
        }
        Some(delivery::Payload::Receipt(receipt)) if receipt.members > 0 => {
            let of_user: HashMap<u64, &ReceiptCount> =
                receipt.counts.iter().map(|count| (count.user_id, count)).collect();
            for mailbox in mailboxes {
                let Some(count) = of_user.get(&mailbox.user.0) else { continue };
                let frame = SharedFrame::new(ServerFrame::ReceiptCounts {
                    chat_id: delivery.chat_id,
                    seq: count.seq,
                    delivered_by: count.delivered_by,
                    read_by: count.read_by,
                    members: receipt.members,
                });
                mailbox.push_passing(Subject::Counts(chat), &frame);
            }
        }
        // Of a kind that is newer than a fanout on its way.
        Some(delivery::Payload::Receipt(receipt)) if receipt.user_id == 0 => {}
        Some(delivery::Payload::Receipt(receipt)) => {
            let frame = SharedFrame::new(ServerFrame::Receipt {
                chat_id: delivery.chat_id,
                user_id: receipt.user_id,
                delivered: receipt.delivered,
                read: receipt.read,
            });
            let subject = Subject::Receipt(chat, UserId(receipt.user_id));
            mailboxes.for_each(|mailbox| mailbox.push_passing(subject, &frame));
        }
        None if delivery.chat_id == 0 => {
            tracing::warn!("more was missed than fanout keeps: the connections have to come again");
            Registry::send_away(connections.all());
        }
        None => mailboxes.for_each(|mailbox: &Arc<Mailbox>| mailbox.push_behind(chat, Seq(delivery.seq))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{Behind, Item};

    fn registry() -> (Registry, Arc<Mailbox>) {
        let registry = Registry::default();
        let mailbox = Arc::new(Mailbox::plain(1, UserId(7), (8, 1 << 20)));
        registry.add(&mailbox);
        (registry, mailbox)
    }

    fn marker(id: u64, chat_id: u64, seq: u64, user_ids: &[u64]) -> Delivery {
        Delivery { id, chat_id, seq, user_ids: user_ids.to_vec(), ..Delivery::default() }
    }

    #[test]
    fn a_marker_makes_sessions_read_the_log_and_who_has_none_is_gone() {
        let (registry, mailbox) = registry();
        let gone = deliver(vec![marker(4, 9, 12, &[7, 8]), marker(5, 9, 13, &[7])], &registry);
        assert_eq!(gone, [Gone { id: 4, user_ids: vec![8] }]);
        let items = mailbox.take();
        let expected = Behind { first: Seq(12), settled: Seq::ZERO, head: Seq(13) };
        assert!(matches!(items.front(), Some(Item::Behind(ChatId(9), behind)) if *behind == expected), "{items:?}");
    }

    #[test]
    fn the_marker_of_all_chats_sends_everybody_away() {
        let (registry, mailbox) = registry();
        assert!(deliver(vec![marker(4, 0, 0, &[])], &registry).is_empty());
        assert!(mailbox.is_leaving());
    }
}
