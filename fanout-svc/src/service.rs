//! The RPCs: two streams that feed the router.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use confab_proto::fanout::v1::fanout_service_server::FanoutService;
use confab_proto::fanout::v1::{
    Gone, PublishRequest, PublishResponse, SubscribeRequest, SubscribeResponse, subscribe_request::Kind,
};
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::router::{FromEdge, FromPublisher, Inputs};

/// Frames that a publisher or an edge may leave unread before it is cut.
const FRAMES_MAX: usize = 4_096;

/// Recipients of a publication at most: the members of the largest chat.
const RECIPIENTS_MAX: usize = 1_000;

pub(crate) struct Service {
    router: Inputs,
    streams: AtomicU64,
}

impl Service {
    pub(crate) fn new(router: Inputs) -> Self {
        Self { router, streams: AtomicU64::new(1) }
    }
}

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FanoutService for Service {
    type PublishStream = Frames<PublishResponse>;
    type SubscribeStream = Frames<SubscribeResponse>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let publisher = self.streams.fetch_add(1, Ordering::Relaxed);
        let (answers, queue) = mpsc::channel(FRAMES_MAX);
        // Weak: when the router lets the stream go, it ends.
        let refusals = answers.downgrade();
        // Without a router the process ends: nobody is left to tell.
        let router = self.router.publishers.clone();
        drop(router.send(FromPublisher::Opened { publisher, answers }).await);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let batch = request.publications;
                if batch.iter().any(|publication| publication.user_ids.len() > RECIPIENTS_MAX) {
                    let refusal = Status::invalid_argument(format!("user_ids: at most {RECIPIENTS_MAX}"));
                    if let Some(answers) = refusals.upgrade() {
                        drop(answers.send(Err(refusal)).await);
                    }
                    break;
                }
                if router.send(FromPublisher::Published { publisher, batch }).await.is_err() {
                    return;
                }
            }
            drop(router.send(FromPublisher::Gone { publisher }).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let attachment = self.streams.fetch_add(1, Ordering::Relaxed);
        let name = match requests.message().await? {
            Some(SubscribeRequest { kind: Some(Kind::Attach(attach)) }) if !attach.edge_id.is_empty() => attach.edge_id,
            _ => return Err(Status::invalid_argument("attach: is required first, with an edge_id")),
        };
        let (deliveries, queue) = mpsc::channel(FRAMES_MAX);
        let router = self.router.edges.clone();
        // Before the answer: an edge that has it gets all deliveries from now on.
        drop(router.send(FromEdge::Attached { name, attachment, deliveries }).await);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let input = match request.kind {
                    Some(Kind::Delivered(id)) => FromEdge::Delivered { attachment, id },
                    Some(Kind::Gone(Gone { id, user_ids })) => FromEdge::Gone { attachment, id, users: user_ids },
                    Some(Kind::Attach(_)) | None => continue,
                };
                if router.send(input).await.is_err() {
                    return;
                }
            }
            drop(router.send(FromEdge::Detached { attachment }).await);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}
