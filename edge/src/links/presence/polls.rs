//! What presence-svc keeps of long polls, so that any edge can go on with one: at the instance where its user is followed.

use std::sync::Arc;

use confab_ids::UserId;
use confab_proto::presence::v1::{
    EndPollRequest, KeepPollRequest, PassPollFramesRequest, PollFrames, TakePollRequest, TakePollResponse,
};
use tonic::{Code, Status};
use uuid::Uuid;

use super::instances::Instances;
use crate::auth::Claims;

/// What came of keeping a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Kept,
    /// Another edge has it.
    Moved,
    /// There is nothing that it could go on: all of it is wanted.
    Unknown,
    /// It could not be said. If this edge goes, too, its client opens another.
    Unreachable,
}

/// Why there is no such poll here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Gone,
    AnotherUsers,
    Unreachable,
}

/// The edge's side of it.
pub(crate) struct Keeper {
    presence: Arc<Instances>,
    edge_id: String,
}

impl Keeper {
    pub(crate) fn new(presence: Arc<Instances>, edge_id: String) -> Self {
        Self { presence, edge_id }
    }

    /// And what was passed on for the poll's client, in JSON.
    pub(crate) async fn keep(&self, request: KeepPollRequest) -> (Keeping, Vec<String>) {
        let nothing = Vec::new();
        let Some(mut home) = self.presence.home(UserId(request.user_id)) else {
            return (Keeping::Unreachable, nothing);
        };
        let request = KeepPollRequest { edge_id: self.edge_id.clone(), ..request };
        match home.keep_poll(request).await.map(tonic::Response::into_inner) {
            Ok(response) if response.moved => (Keeping::Moved, nothing),
            Ok(response) if response.unknown => (Keeping::Unknown, nothing),
            Ok(response) => (Keeping::Kept, response.passed),
            Err(status) => {
                tracing::debug!(code = ?status.code(), "what a long poll was given could not be kept");
                (Keeping::Unreachable, nothing)
            }
        }
    }

    /// What is kept of a poll, which is this edge's from then on.
    pub(crate) async fn take(&self, session: Uuid, claims: &Claims) -> Result<TakePollResponse, NotTaken> {
        self.ask(self.request(session, claims)).await
    }

    /// Whether there is such a poll of this user's device.
    pub(crate) async fn look(&self, session: Uuid, claims: &Claims) -> Result<(), NotTaken> {
        let request = TakePollRequest { look_only: true, ..self.request(session, claims) };
        self.ask(request).await.map(drop)
    }

    fn request(&self, session: Uuid, claims: &Claims) -> TakePollRequest {
        TakePollRequest {
            session: session.as_bytes().to_vec().into(),
            edge_id: self.edge_id.clone(),
            user_id: claims.user.0,
            device: claims.device.clone(),
            ..TakePollRequest::default()
        }
    }

    async fn ask(&self, request: TakePollRequest) -> Result<TakePollResponse, NotTaken> {
        let homes = self.presence.homes(UserId(request.user_id));
        // Nobody says that it is gone while one that may have it isn't heard.
        let mut outcome = if homes.is_empty() { NotTaken::Unreachable } else { NotTaken::Gone };
        for mut home in homes {
            match home.take_poll(request.clone()).await {
                Ok(taken) => return Ok(taken.into_inner()),
                Err(status) => match not_taken(&status) {
                    NotTaken::AnotherUsers => return Err(NotTaken::AnotherUsers),
                    NotTaken::Unreachable => outcome = NotTaken::Unreachable,
                    NotTaken::Gone => {}
                },
            }
        }
        Err(outcome)
    }

    /// Leaves answers to the edge that has a poll now.
    pub(crate) async fn pass(&self, session: Uuid, user: UserId, frames: Vec<String>) {
        let Some(mut home) = self.presence.home(user) else { return };
        let frames = Some(PollFrames { session: session.as_bytes().to_vec().into(), user_id: user.0, frames });
        // Whoever misses an answer asks again.
        drop(home.pass_poll_frames(PassPollFramesRequest { frames }).await);
    }

    pub(crate) async fn end(&self, session: Uuid, user: UserId) {
        for mut home in self.presence.homes(user) {
            let request = EndPollRequest { session: session.as_bytes().to_vec().into(), user_id: user.0 };
            // Where it isn't heard, it is forgotten after a while.
            drop(home.end_poll(request).await);
        }
    }
}

fn not_taken(status: &Status) -> NotTaken {
    match status.code() {
        Code::NotFound => NotTaken::Gone,
        Code::PermissionDenied => NotTaken::AnotherUsers,
        _ => NotTaken::Unreachable,
    }
}
