//! The streams to fanout: one to each instance, opened again, with backoff, whenever it breaks. To the owner they are one.

pub(crate) mod lanes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use confab_mesh::{ClientConfig, Drain, Member, Members, Pool, each};
use confab_proto::fanout::v1::fanout_service_client::FanoutServiceClient;
use confab_proto::fanout::v1::{PublishRequest, PublishResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

use self::lanes::Lanes;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long an instance that is no longer listed has for settling what it was given.
const LINGER: Duration = Duration::from_secs(30);

/// Publications per frame: a frame of members of large groups stays well below gRPC's 4 MiB.
pub(crate) const PUBLICATIONS_PER_FRAME: usize = 64;

/// What the instances have said and was not taken; beyond it their streams wait.
const SAID_MAX: usize = 256;

/// What happens to the stream.
pub(crate) enum FanoutEvent {
    /// A new stream: it has to be told all that is not settled. Its queue holds no more than what the owner's outbox
    /// does, and that is bounded.
    Connected(mpsc::UnboundedSender<PublishRequest>),
    Said(PublishResponse),
    /// No instance is there.
    Lost,
}

/// Keeps streams open until nobody listens, or until the drain has begun and they have ended.
pub(crate) async fn run(fanout: Pool, events: mpsc::Sender<FanoutEvent>, drain: Drain) {
    let (said, from_instances) = mpsc::channel(SAID_MAX);
    let (ended, endings) = mpsc::unbounded_channel();
    let listed = fanout.watch();
    let publisher = Publisher { lanes: Lanes::default(), streams: HashMap::new(), from_owner: None, events };
    let numbers = Arc::new(AtomicU64::new(0));
    let streams = each(fanout, LINGER, move |member| {
        keep_open(member, said.clone(), ended.clone(), numbers.clone(), drain.clone())
    });
    tokio::select! {
        () = publisher.run(from_instances, endings, listed) => {}
        () = streams => {}
    }
}

type Name = Arc<str>;

/// A stream that has ended, by its number.
type Ending = (Name, u64);

enum FromInstance {
    Connected(Name, u64, mpsc::UnboundedSender<PublishRequest>),
    Said(Name, PublishResponse),
}

struct Publisher {
    lanes: Lanes,
    streams: HashMap<Name, (u64, mpsc::UnboundedSender<PublishRequest>)>,
    from_owner: Option<mpsc::UnboundedReceiver<PublishRequest>>,
    events: mpsc::Sender<FanoutEvent>,
}

impl Publisher {
    async fn run(
        mut self,
        mut from_instances: mpsc::Receiver<FromInstance>,
        mut endings: mpsc::UnboundedReceiver<Ending>,
        mut listed: watch::Receiver<Members>,
    ) {
        self.lanes.listed(up(&listed.borrow_and_update()));
        let owner = self.events.clone();
        loop {
            tokio::select! {
                request = receive(&mut self.from_owner) => match request {
                    Some(request) => self.publish(request),
                    None => self.from_owner = None,
                },
                Some(event) = from_instances.recv() => self.hear(event).await,
                Some((name, number)) = endings.recv() => self.end(&name, number).await,
                Ok(()) = listed.changed() => {
                    let up = up(&listed.borrow_and_update());
                    self.lanes.listed(up);
                }
                () = owner.closed() => return,
            }
        }
    }

    fn publish(&mut self, request: PublishRequest) {
        for (name, publications) in self.lanes.assign(request.publications) {
            // A stream that has ended says so.
            let _ended = self.streams.get(&name).map(|(_, stream)| stream.send(PublishRequest { publications }));
        }
    }

    async fn hear(&mut self, event: FromInstance) {
        match event {
            FromInstance::Connected(name, number, stream) => {
                let was_alone = self.streams.is_empty();
                self.streams.insert(name.clone(), (number, stream));
                let takes_over = self.lanes.connected(name);
                if was_alone || takes_over {
                    self.ask_for_all().await;
                }
            }
            FromInstance::Said(name, response) => {
                let response = self.lanes.said(&name, response);
                if response.accepted > 0 || !response.settled.is_empty() {
                    drop(self.events.send(FanoutEvent::Said(response)).await);
                }
            }
        }
    }

    async fn end(&mut self, name: &Name, number: u64) {
        if self.streams.get(name).is_none_or(|(current, _)| *current != number) {
            return;
        }
        self.streams.remove(name);
        let unsettled = self.lanes.lost(name);
        if self.streams.is_empty() {
            self.from_owner = None;
            drop(self.events.send(FanoutEvent::Lost).await);
        } else if unsettled {
            self.ask_for_all().await;
        }
    }

    /// The owner tells all that is not settled again, in order, and goes on behind it; what another instance has is left out.
    async fn ask_for_all(&mut self) {
        let (requests, queue) = mpsc::unbounded_channel();
        self.from_owner = Some(queue);
        drop(self.events.send(FanoutEvent::Connected(requests)).await);
    }
}

/// The instances that are to be given something new.
fn up(members: &Members) -> Vec<Name> {
    members.iter().filter(|member| member.up).map(|member| member.id.clone()).collect()
}

async fn receive(queue: &mut Option<mpsc::UnboundedReceiver<PublishRequest>>) -> Option<PublishRequest> {
    match queue {
        Some(queue) => queue.recv().await,
        None => std::future::pending().await,
    }
}

/// Tells a stream's end, also when its task is ended.
struct Open {
    ending: Option<Ending>,
    endings: mpsc::UnboundedSender<Ending>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Without a receiver the publisher has ended.
        let _ended = self.ending.take().map(|ending| self.endings.send(ending));
    }
}

async fn keep_open(
    member: Member,
    said: mpsc::Sender<FromInstance>,
    endings: mpsc::UnboundedSender<Ending>,
    numbers: Arc<AtomicU64>,
    drain: Drain,
) {
    let to_fanout = ClientConfig::new("message-svc", "fanout-svc").streaming(&["Publish"]);
    let mut fanout = FanoutServiceClient::new(confab_mesh::client(to_fanout, member.peer));
    let mut backoff = BACKOFF.0;
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let (requests, queue) = mpsc::unbounded_channel();
        match fanout.publish(UnboundedReceiverStream::new(queue)).await {
            Ok(response) => {
                backoff = BACKOFF.0;
                let mut responses = response.into_inner();
                let _open = Open { ending: Some((member.id.clone(), number)), endings: endings.clone() };
                if said.send(FromInstance::Connected(member.id.clone(), number, requests)).await.is_err() {
                    return;
                }
                loop {
                    match responses.message().await {
                        Ok(Some(response)) => drop(said.send(FromInstance::Said(member.id.clone(), response)).await),
                        Ok(None) => break,
                        Err(status) => {
                            tracing::warn!(fanout = %member.id, code = ?status.code(), "the stream to fanout broke");
                            break;
                        }
                    }
                }
            }
            Err(status) => tracing::warn!(fanout = %member.id, code = ?status.code(), "fanout can't be reached"),
        }
        if drain.is_started() {
            return;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}
