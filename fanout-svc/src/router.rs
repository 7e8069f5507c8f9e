//! The task around [`crate::core`]: one loop that takes what publishers, presence and edges say.

use std::collections::HashMap;
use std::time::Duration;

use confab_mesh::{Drain, Peer};
use confab_proto::fanout::v1::{Publication, PublishResponse, SubscribeResponse};
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use confab_proto::presence::v1::{LocateRequest, LocateResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use crate::core::{Attachment, Publisher, Router, Settled};

/// What the router may be told at once; whoever has more to say waits.
const INPUTS_MAX: usize = 1_024;

/// Batches whose recipients are being located; beyond it no publication is taken, and their streams wait.
const LOCATING_MAX: usize = 1_024;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

pub(crate) enum Input {
    Publisher { publisher: Publisher, answers: mpsc::Sender<Result<PublishResponse, Status>> },
    Published { publisher: Publisher, batch: Vec<Publication> },
    PublisherGone { publisher: Publisher },
    Attached { name: String, attachment: Attachment, deliveries: mpsc::Sender<Result<SubscribeResponse, Status>> },
    Delivered { attachment: Attachment, id: u64 },
    Detached { attachment: Attachment },
}

enum FromPresence {
    /// A new stream; it is asked again what was not answered.
    Connected(mpsc::UnboundedSender<LocateRequest>),
    Located(LocateResponse),
    Lost,
}

struct Task {
    router: Router,
    publishers: HashMap<Publisher, mpsc::Sender<Result<PublishResponse, Status>>>,
    edges: HashMap<Attachment, mpsc::Sender<Result<SubscribeResponse, Status>>>,
    /// Bounded by [`LOCATING_MAX`].
    presence: Option<mpsc::UnboundedSender<LocateRequest>>,
}

/// Starts the router; it ends with the last of its inputs, or once the drain has begun.
pub(crate) fn start(presence: PresenceServiceClient<Peer>, drain: &Drain) -> mpsc::Sender<Input> {
    let (inputs, queue) = mpsc::channel(INPUTS_MAX);
    let (events, from_presence) = mpsc::channel(INPUTS_MAX);
    tokio::spawn(ask_presence(presence, events, drain.clone()));
    let task = Task { router: Router::default(), publishers: HashMap::new(), edges: HashMap::new(), presence: None };
    drain.spawn(task.run(queue, from_presence, drain.clone()));
    inputs
}

impl Task {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut presence: mpsc::Receiver<FromPresence>,
        drain: Drain,
    ) {
        loop {
            let room = self.router.waiting() < LOCATING_MAX;
            tokio::select! {
                input = inputs.recv(), if room => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                Some(event) = presence.recv() => self.heard(event),
                () = drain.started() => return,
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Publisher { publisher, answers } => drop(self.publishers.insert(publisher, answers)),
            Input::Published { publisher, batch } => {
                let accepted = batch.last().map_or(0, |publication| publication.id);
                let question = self.router.publish(publisher, batch);
                self.answer(publisher, PublishResponse { accepted, settled: Vec::new() });
                // Without a stream it is asked with the next one.
                let _lost = self.presence.as_ref().map(|stream| stream.send(question));
            }
            Input::PublisherGone { publisher } => drop(self.publishers.remove(&publisher)),
            Input::Attached { name, attachment, deliveries } => {
                self.edges.insert(attachment, deliveries);
                let settled = self.router.attach(&name, attachment);
                self.settle(settled);
            }
            Input::Delivered { attachment, id } => {
                let settled = self.router.delivered(attachment, id);
                self.settle(settled);
            }
            Input::Detached { attachment } => self.detach(attachment),
        }
    }

    fn heard(&mut self, event: FromPresence) {
        match event {
            FromPresence::Connected(stream) => {
                for question in self.router.unanswered() {
                    // A stream that broke already is followed by the next one.
                    drop(stream.send(question));
                }
                self.presence = Some(stream);
            }
            FromPresence::Lost => self.presence = None,
            FromPresence::Located(response) => {
                let routed = self.router.located(response.locations);
                for (attachment, deliveries) in routed.deliveries {
                    self.deliver(attachment, SubscribeResponse { deliveries });
                }
                for attachment in routed.cut {
                    tracing::warn!(attachment, "an edge that acknowledges nothing is cut");
                    self.edges.remove(&attachment);
                }
                self.settle(routed.settled);
            }
        }
    }

    fn deliver(&mut self, attachment: Attachment, frame: SubscribeResponse) {
        let taken = self.edges.get(&attachment).is_some_and(|edge| edge.try_send(Ok(frame)).is_ok());
        if !taken {
            tracing::warn!(attachment, "an edge that doesn't read is cut");
            self.detach(attachment);
        }
    }

    fn detach(&mut self, attachment: Attachment) {
        self.edges.remove(&attachment);
        let settled = self.router.detach(attachment);
        self.settle(settled);
    }

    fn settle(&mut self, settled: Settled) {
        let mut by_publisher: HashMap<Publisher, Vec<u64>> = HashMap::new();
        for (publisher, id) in settled {
            by_publisher.entry(publisher).or_default().push(id);
        }
        for (publisher, settled) in by_publisher {
            self.answer(publisher, PublishResponse { accepted: 0, settled });
        }
    }

    fn answer(&mut self, publisher: Publisher, response: PublishResponse) {
        let Some(answers) = self.publishers.get(&publisher) else { return };
        if answers.try_send(Ok(response)).is_err() {
            // Its stream ends; it comes again and publishes what it doesn't know to be settled.
            tracing::warn!(publisher, "a publisher that doesn't read is cut");
            self.publishers.remove(&publisher);
        }
    }
}

/// Keeps a `Locate` stream open until the drain ends it.
async fn ask_presence(mut presence: PresenceServiceClient<Peer>, events: mpsc::Sender<FromPresence>, drain: Drain) {
    let mut backoff = BACKOFF.0;
    while !events.is_closed() && !drain.is_started() {
        let (questions, queue) = mpsc::unbounded_channel();
        match presence.locate(UnboundedReceiverStream::new(queue)).await {
            Ok(response) => {
                backoff = BACKOFF.0;
                let mut answers = response.into_inner();
                // The receiver is gone only when the router is.
                drop(events.send(FromPresence::Connected(questions)).await);
                while let Ok(Some(answer)) = answers.message().await {
                    drop(events.send(FromPresence::Located(answer)).await);
                }
                drop(events.send(FromPresence::Lost).await);
            }
            Err(status) => tracing::warn!(code = ?status.code(), "presence can't be reached"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}
