//! One `Converse` stream to each instance, by way of another one where it can't be reached, and one `WatchShards` stream to any.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use confab_mesh::{ClientConfig, Member, Members, Peer, Pool, client};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{ConverseRequest, ConverseResponse, WatchShardsRequest, WatchShardsResponse};
use confab_proto::metadata::RELAY_TO;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use super::outlet::{FRAMES_MAX, Outlet};
use crate::core::routes::Stream;
use crate::links::Backoff;

/// An instance that has not been up for so long is tried by way of another one: it may be that only this edge can't reach it, and
/// it owns its chats for as long as it reaches its store.
const DETOUR_AFTER: Duration = Duration::from_millis(200);

/// What is rare.
pub(super) enum Change {
    Connected { name: Arc<str>, stream: Stream, outlet: Outlet },
    Lost(Stream),
    Closed(u64),
}

/// What comes from the instances.
pub(super) enum Heard {
    Replies(Stream, ConverseResponse),
    Map(WatchShardsResponse),
}

#[derive(Clone)]
pub(super) struct Link {
    owners: Pool,
    changes: mpsc::UnboundedSender<Change>,
    heard: mpsc::Sender<Heard>,
    streams: Arc<AtomicU64>,
}

/// Tells the end of a stream, also when its task is ended.
struct Open {
    stream: Stream,
    changes: mpsc::UnboundedSender<Change>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Without the router the process is ending.
        drop(self.changes.send(Change::Lost(self.stream)));
    }
}

impl Link {
    pub(super) fn new(owners: Pool, changes: mpsc::UnboundedSender<Change>, heard: mpsc::Sender<Heard>) -> Self {
        Self { owners, changes, heard, streams: Arc::default() }
    }

    /// Keeps a stream to an instance open. Never returns.
    pub(super) async fn keep_open(self, member: Member) {
        let mut backoff = Backoff::default();
        let mut turn = first_turn();
        loop {
            turn = turn.wrapping_add(1);
            let by = self.detour(&member.id, turn).await;
            let was_open = tokio::select! {
                was_open = self.keep_one(&member, by.as_ref()) => was_open,
                // There is no need for the detour any more.
                () = self.is(&member.id, true), if by.is_some() => true,
            };
            if was_open {
                backoff = Backoff::default();
            }
            backoff.wait().await;
        }
    }

    /// Opens a stream to an instance, straight or by another one, and keeps it until it ends; says whether it came to be open.
    async fn keep_one(&self, member: &Member, by: Option<&Member>) -> bool {
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let opened = open(member, by, queue).await;
        let by = by.map(|by| &*by.id);
        match opened {
            Ok(responses) => {
                self.converse(member, by, frames, responses).await;
                tracing::warn!(owner = %member.id, by, "a stream to message-svc has ended");
                true
            }
            Err(status) => {
                tracing::warn!(owner = %member.id, by, code = ?status.code(), "message-svc can't be reached");
                false
            }
        }
    }

    /// Returns when an instance is up, or by which other one it is to be tried: another one each turn, for that one may be cut off
    /// from it as well.
    async fn detour(&self, id: &str, turn: usize) -> Option<Member> {
        let by_another = async {
            tokio::time::sleep(DETOUR_AFTER).await;
            let is_other = |member: &&Member| member.up && *member.id != *id;
            let listed = self.when(|listed| listed.iter().any(|member| is_other(&member))).await;
            let others: Vec<&Member> = listed.iter().filter(is_other).collect();
            others.get(turn % others.len()).copied().cloned()
        };
        tokio::select! {
            () = self.is(id, true) => None,
            by = by_another => by,
        }
    }

    async fn converse(
        &self,
        member: &Member,
        by: Option<&str>,
        frames: mpsc::Sender<ConverseRequest>,
        mut responses: Streaming<ConverseResponse>,
    ) {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(owner = %member.id, by, stream, "a stream to message-svc is open");
        let cut = CancellationToken::new();
        let outlet = Outlet::new(frames, cut.clone().drop_guard());
        // Without the router the process is ending.
        drop(self.changes.send(Change::Connected { name: member.id.clone(), stream, outlet }));
        let _open = Open { stream, changes: self.changes.clone() };
        loop {
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => drop(self.heard.send(Heard::Replies(stream, response)).await),
                    Ok(None) | Err(_) => return,
                },
                () = cut.cancelled() => return,
            }
        }
    }

    /// Keeps the newest map known. Never returns. `follow`: an instance that may know a newer one than the one that is followed.
    pub(super) async fn follow_shards(self, mut follow: watch::Receiver<Option<Arc<str>>>) {
        let mut backoff = Backoff::default();
        let mut better: Option<Arc<str>> = None;
        let mut turn = first_turn();
        loop {
            let up: Vec<Member> = self.owners.members().iter().filter(|member| member.up).cloned().collect();
            turn = turn.wrapping_add(1);
            let better_one = better.take().and_then(|name| up.iter().find(|member| member.id == name));
            if let Some(member) = better_one.or_else(|| turn.checked_rem(up.len()).and_then(|at| up.get(at))) {
                tokio::select! {
                    heard = self.watch(member) => if heard { backoff = Backoff::default() },
                    // It may be frozen: another one knows better.
                    () = self.is(&member.id, false) => {}
                    name = other_than(&member.id, &mut follow) => (better, backoff) = (Some(name), Backoff::default()),
                }
            }
            backoff.wait().await;
        }
    }

    /// Passes on what an instance tells, until its stream ends; says whether it has told something.
    async fn watch(&self, member: &Member) -> bool {
        let mut has_told = false;
        match messages_client(member).watch_shards(WatchShardsRequest {}).await {
            Ok(maps) => {
                let mut maps = maps.into_inner();
                while let Ok(Some(map)) = maps.message().await {
                    has_told = true;
                    tracing::info!(owner = %member.id, version = map.version, "the shard map is another one");
                    // Without the router the process is ending.
                    drop(self.heard.send(Heard::Map(map)).await);
                }
            }
            Err(status) => tracing::warn!(owner = %member.id, code = ?status.code(), "the shard map can't be followed"),
        }
        has_told
    }

    /// Waits until an instance is up, or is not.
    async fn is(&self, id: &str, up: bool) {
        self.when(|listed| listed.iter().any(|member| member.up && *member.id == *id) == up).await;
    }

    /// The instances as soon as they are like this.
    async fn when(&self, are: impl Fn(&Members) -> bool) -> Members {
        let listed = self.owners.watch().wait_for(are).await.map(|listed| listed.clone());
        match listed {
            Ok(listed) => listed,
            // Nobody tells any more: what is known holds.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Edges begin at different instances.
fn first_turn() -> usize {
    usize::try_from(uuid::Uuid::new_v4().as_u64_pair().0 >> 32).unwrap_or(0)
}

/// Opens a stream to an instance, at it or at another one that passes it on.
async fn open(
    member: &Member,
    by: Option<&Member>,
    queue: mpsc::Receiver<ConverseRequest>,
) -> Result<Streaming<ConverseResponse>, Status> {
    let mut request = Request::new(ReceiverStream::new(queue));
    if by.is_some() {
        let addr = member.id.parse().map_err(|_| Status::internal("an address that is not ASCII"))?;
        request.metadata_mut().insert(RELAY_TO, addr);
    }
    Ok(messages_client(by.unwrap_or(member)).converse(request).await?.into_inner())
}

/// The next instance to follow that isn't this one.
async fn other_than(id: &str, follow: &mut watch::Receiver<Option<Arc<str>>>) -> Arc<str> {
    while follow.changed().await.is_ok() {
        if let Some(name) = follow.borrow_and_update().clone().filter(|name| **name != *id) {
            return name;
        }
    }
    // Without the router the process is ending.
    std::future::pending().await
}

/// Calls that instance. It has no breaker: what is here tries again by its own measure, and a second later at most.
fn messages_client(member: &Member) -> MessageServiceClient<Peer> {
    let mut cfg = ClientConfig::new("edge", "message-svc").streaming(&["Converse", "WatchShards"]);
    cfg.breaker_failures = 0;
    MessageServiceClient::new(client(cfg, member.peer.clone()))
}
