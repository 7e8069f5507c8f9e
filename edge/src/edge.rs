//! What all connections share, and the questions that they ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use confab_ids::{ChatId, Seq, UserId};
use confab_mesh::Peer;
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{
    FilterAcquaintedRequest, FilterVisibleRequest, ListMessagesRequest, SyncRequest, SyncResponse,
};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tonic::{Code as Grpc, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::Config;
use crate::auth::{Claims, Verifier};
use crate::connection;
use crate::core::Question;
use crate::core::session::{Mode, Now, error_frame};
use crate::frames::event::Shown;
use crate::frames::server::ServerFrame;
use crate::frames::{Code, Frame, Wire};
use crate::limits::Limits;
use crate::links::conversation::Conversation;
use crate::links::presence::Presences;
use crate::links::presence::instances::Instances;
use crate::mailbox::{Answer, Item, Mailbox};
use crate::polls::Polls;
use crate::registry::Registry;

/// A fetch's page: what a slow connection holds in memory at most.
const PAGE_BYTES: u32 = 64 * 1_024;
const PAGE_EVENTS: u32 = 500;

/// Syncs that an edge has under way, for each of its cores: few, so that what is said meanwhile doesn't queue behind the reads of all
/// who come again at once when another edge is gone. At 5 ms each that is 800 a second and core.
const SYNCS_PER_CORE: usize = 4;
/// How long one waits for its turn; then its client is told to come again.
const TURN: Duration = Duration::from_secs(5);
/// One that is refused is tried so often, after this much longer each time.
const SYNC_ATTEMPTS: u32 = 4;
const SYNC_AGAIN: Duration = Duration::from_millis(150);

/// Why somebody is not watched.
pub(crate) const STRANGERS: &str =
    "people with whom no chat is shared are not watched, nor those who have blocked, or are blocked";

/// The syncs of one edge at once.
pub(crate) fn syncs_max() -> usize {
    SYNCS_PER_CORE * std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

pub(crate) struct Shared {
    pub cfg: Config,
    pub verifier: Verifier,
    pub registry: Registry,
    pub conversation: Conversation,
    pub presences: Presences,
    pub presence: Arc<Instances>,
    pub polls: Polls,
    pub messages: MessageServiceClient<Peer>,
    pub sessions: AtomicU64,
    /// Syncs under way, [`syncs_max`] of them; each connection has one at a time, so no more wait than there are connections.
    pub catching_up: Semaphore,
    pub limits: Limits,
    pub started: Instant,
}

impl Shared {
    pub(crate) fn now(&self) -> Now {
        connection::now(self.started)
    }

    /// Of a new session.
    pub(crate) fn mailbox(&self, claims: &Claims, mode: Mode, name: Uuid) -> Arc<Mailbox> {
        let bounds = (self.cfg.outbound_events_max, self.cfg.outbound_bytes_max);
        let named = (name, self.now().wall_ms);
        Arc::new(Mailbox::new(self.next_session(), claims.user, &claims.device, named, mode.wire(), bounds))
    }

    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn open(&self, mailbox: &Arc<Mailbox>) {
        self.registry.add(mailbox);
        self.presences.opened(mailbox);
    }

    pub(crate) fn close(&self, mailbox: &Mailbox) {
        self.registry.remove(mailbox);
        self.presences.closed(mailbox);
        self.conversation.closed(mailbox.session);
    }

    /// Asks beside the streams; the answer goes to the mailbox. Bounded by the questions that a connection may have.
    pub(crate) fn ask(self: &Arc<Self>, mailbox: &Arc<Mailbox>, question: Question) {
        match question {
            Question::Unwatch { users } => self.presences.unwatch(mailbox, users),
            Question::WatchPeers { users } if users.is_empty() => self.presences.tell_again(mailbox),
            Question::WatchPeers { users } => self.presences.watch(&self.registry, mailbox, users),
            question => {
                let (shared, mailbox) = (self.clone(), mailbox.clone());
                tokio::spawn(async move {
                    if let Some(answer) = shared.answer(&mailbox, question).await {
                        mailbox.push(Item::Answer(Box::new(answer)));
                    }
                });
            }
        }
    }

    async fn answer(&self, mailbox: &Mailbox, question: Question) -> Option<Answer> {
        let request =
            SyncRequest { user_id: mailbox.user.0, device: mailbox.device.to_string(), ..SyncRequest::default() };
        Some(match question {
            Question::Sync { positions, from_read, after } => {
                let positions = positions.into_iter().collect();
                let request = SyncRequest { positions, from_read, after_chat_id: after.0, ..request };
                match self.sync(request).await {
                    Ok(SyncResponse { chats, more, known_device, last_chat_id }) => {
                        let next = next_chat(more, last_chat_id, chats.last().map(|chat| chat.chat_id)).map(ChatId);
                        Answer::Synced { chats, next, known_device }
                    }
                    Err(_) => Answer::SyncFailed,
                }
            }
            Question::SyncOne { chat } => {
                let request = SyncRequest { only_chat_id: chat.0, from_read: true, ..request };
                match self.sync(request).await {
                    Ok(mut response) => Answer::SyncedOne { chat, sync: response.chats.pop() },
                    Err(_) => Answer::ListFailed { chat },
                }
            }
            Question::List { chat, after } => self.list(mailbox.user, chat, after).await,
            Question::History { chat, before, limit, reference } => {
                Answer::Frame(self.history(mailbox, chat, before, limit, reference.as_deref()).await)
            }
            Question::Watch { users, fresh, asked, reference } => {
                let mut attempts = 1;
                let (allowed, refusal) = loop {
                    let (allowed, refusal) = self.may_watch(mailbox, &users, reference.as_deref()).await;
                    // Nobody has asked, so nobody asks again: what a poll watched before would be lost.
                    if asked || allowed.is_some() || attempts == SYNC_ATTEMPTS {
                        break (allowed, refusal);
                    }
                    sleep(SYNC_AGAIN * attempts).await;
                    attempts += 1;
                };
                // Where it can't be told, what was watched before goes on.
                let asked_for = if allowed.is_some() { users } else { fresh };
                let allowed = allowed.unwrap_or_default();
                Answer::MayWatch { asked: asked_for, allowed, refusal: refusal.filter(|_| asked) }
            }
            // Done without an answer.
            Question::WatchPeers { .. } | Question::Unwatch { .. } => return None,
        })
    }

    /// Connections wait for their turn, as all of them come again at once when an edge is gone; and where message-svc has too
    /// much to do even so, they try again before their clients are told to.
    async fn sync(&self, request: SyncRequest) -> Result<SyncResponse, Status> {
        let turn = self.catching_up.acquire();
        let _turn =
            timeout(TURN, turn).await.ok().and_then(Result::ok).ok_or_else(|| Status::unavailable("no turn"))?;
        let mut attempts = 1;
        loop {
            match self.messages.clone().sync(request.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if attempts < SYNC_ATTEMPTS && status.code() == Grpc::Unavailable => {
                    sleep(SYNC_AGAIN * attempts).await;
                    attempts += 1;
                }
                Err(status) => return Err(status),
            }
        }
    }

    async fn list(&self, user: UserId, chat: ChatId, after: Seq) -> Answer {
        let request = ListMessagesRequest {
            chat_id: chat.0,
            user_id: user.0,
            after: after.0,
            oldest_first: true,
            limit: PAGE_EVENTS,
            bytes_max: PAGE_BYTES,
            ..ListMessagesRequest::default()
        };
        match self.messages.clone().list_messages(request).await.map(tonic::Response::into_inner) {
            Ok(page) => {
                let head = if page.left { Seq::ZERO } else { Seq(page.head) };
                Answer::Listed { chat, events: page.events, more: page.more, head }
            }
            Err(status) if status.code() == Grpc::PermissionDenied => {
                Answer::Listed { chat, events: Vec::new(), more: false, head: Seq::ZERO }
            }
            Err(_) => Answer::ListFailed { chat },
        }
    }

    async fn history(
        &self,
        mailbox: &Mailbox,
        chat: ChatId,
        before: Seq,
        limit: u32,
        reference: Option<&str>,
    ) -> Frame {
        let request = ListMessagesRequest {
            chat_id: chat.0,
            user_id: mailbox.user.0,
            before: before.0,
            limit,
            bytes_max: PAGE_BYTES,
            ..ListMessagesRequest::default()
        };
        match self.messages.clone().list_messages(request).await.map(tonic::Response::into_inner) {
            Ok(page) => {
                let events = Shown::new(&page.events, mailbox.user);
                let history = ServerFrame::History { chat_id: chat.0, events, more: page.more, reference };
                history.write(mailbox.wire)
            }
            Err(status) => refusal(&status, None, reference, mailbox.wire),
        }
    }

    /// Who of them shares a chat with a user.
    pub(crate) async fn acquainted(&self, user: UserId, others: &[UserId]) -> Result<Vec<UserId>, Status> {
        let user_ids = others.iter().map(|other| other.0).collect();
        let request = FilterAcquaintedRequest { user_id: user.0, user_ids };
        let known = self.messages.clone().filter_acquainted(request).await?.into_inner().user_ids;
        Ok(known.into_iter().map(UserId).collect())
    }

    /// Whether others are told when somebody was last there.
    pub(crate) async fn visible(&self, user: u64) -> Result<bool, Status> {
        let request = FilterVisibleRequest { user_ids: vec![user] };
        Ok(self.messages.clone().filter_visible(request).await?.into_inner().user_ids.contains(&user))
    }

    /// Who of them may be watched, if that can be told, and what to say of the others.
    async fn may_watch(
        &self,
        mailbox: &Mailbox,
        asked: &[UserId],
        reference: Option<&str>,
    ) -> (Option<Vec<UserId>>, Option<Frame>) {
        match self.acquainted(mailbox.user, asked).await {
            Ok(allowed) => {
                let refusal = error_frame(Code::Forbidden, STRANGERS, Some("user_ids"), None, reference, None);
                let refusal = (allowed.len() < asked.len()).then(|| refusal.write(mailbox.wire));
                (Some(allowed), refusal)
            }
            Err(status) => (None, Some(refusal(&status, None, reference, mailbox.wire))),
        }
    }
}

/// After which chat a list goes on, if it does: the last that was looked at, or, by an older version that doesn't say it, the last
/// that was listed.
pub(crate) fn next_chat(more: bool, looked_at: u64, listed: Option<u64>) -> Option<u64> {
    more.then(|| looked_at.max(listed.unwrap_or(0)))
}

/// What a service's refusal is to a client.
pub(crate) struct Told {
    pub code: Code,
    pub message: String,
    pub field: Option<String>,
}

pub(crate) fn told(status: &Status) -> Told {
    let details = status.get_error_details();
    let code = match (details.error_info(), status.code()) {
        (Some(info), _) => Code::named(&info.reason),
        (None, Grpc::DeadlineExceeded) => Code::Deadline,
        (None, Grpc::Unavailable) => Code::Unavailable,
        _ => Code::Internal,
    };
    let field = details.bad_request().and_then(|bad| bad.field_violations.first()).map(|bad| bad.field.clone());
    let message =
        if code == Code::Internal { "something went wrong here".to_owned() } else { status.message().to_owned() };
    Told { code, message, field }
}

/// A service's refusal as a frame.
pub(crate) fn refusal(status: &Status, client_id: Option<&str>, reference: Option<&str>, wire: Wire) -> Frame {
    let Told { code, message, field } = told(status);
    let retry_after_ms = code.retryable().then_some(1_000);
    error_frame(code, &message, field.as_deref(), client_id, reference, retry_after_ms).write(wire)
}
