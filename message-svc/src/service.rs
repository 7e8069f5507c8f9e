//! The RPCs: convert, ask the owner or read, convert back.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, Shard, UserId};
use confab_mesh::Drain;
use confab_proto::message::v1::{
    self as pb, Command as WireCommand, ConverseRequest, ConverseResponse, Reply, command,
    message_service_server::MessageService, reply, viewed_chat,
};
use futures_util::future::try_join;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

use crate::convert::{self, Asked, GroupRequest, fresh_id};
use crate::core::user::Block;
use crate::core::{ChatView, Command, Create, Mark, Outcome, Receipts, What};
use crate::error::{ChatError, Invalid, MarkError, SendError};
use crate::hop::{Tries, Viewer, passed_on};
use crate::others::Client;
use crate::owner::{StreamCommand, accepted_wire};
use crate::reads::{PageRequest, Reader};
use crate::store::{CreationKey, Store};
use crate::users::Users;
use crate::{expiry, users, watching};

/// Frames of replies that an edge may leave unread before its stream is cut.
const REPLIES_MAX: usize = 1_024;

/// Searches for a message by its id that run at once; further ones wait, and their stream with them.
const SEARCHES_MAX: usize = 16;

/// Searches that run or wait; one more is refused as `UNAVAILABLE`.
const SEARCHES_WAITING_MAX: usize = 1_024;

/// Events that come with the views of one `ViewChats`, bytes: what one page of a `Sync` has room for, and somewhat more.
const NEWEST_BYTES_MAX: usize = 128 * 1_024;

const LIST_DEFAULT: u32 = 50;
const MESSAGES_MAX: u32 = 1_000;
const CHATS_MAX: u32 = 200;
const MEMBERS_PAGE_MAX: u32 = 1_000;
const BLOCKS_PAGE_MAX: u32 = 1_000;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct Service<S> {
    reader: Reader<S>,
    users: Users<S>,
    /// How long it is to keep what is said.
    keep: Option<Duration>,
    drain: Drain,
    streams: AtomicU64,
    searches: Searches,
}

impl<S: Store> Service<S> {
    pub(crate) fn new(reader: Reader<S>, users: Users<S>, keep: Option<Duration>, drain: Drain) -> Self {
        Self { reader, users, keep, drain, streams: AtomicU64::new(0), searches: Searches::new() }
    }
}

/// One edge's stream, read to its end.
struct Conversation<S> {
    reader: Reader<S>,
    stream: u64,
    /// Weak: when the owner lets the stream go, it ends.
    replies: mpsc::WeakSender<ConverseResponse>,
    searches: Searches,
}

/// Searches for messages by id.
#[derive(Clone)]
struct Searches {
    running: Arc<Semaphore>,
    /// Those that run and those that will.
    waiting: Arc<Semaphore>,
}

impl Searches {
    fn new() -> Self {
        Self {
            running: Arc::new(Semaphore::new(SEARCHES_MAX)),
            waiting: Arc::new(Semaphore::new(SEARCHES_WAITING_MAX)),
        }
    }
}

impl<S: Store> Conversation<S> {
    async fn run(self, mut requests: Streaming<ConverseRequest>) {
        while let Ok(Some(request)) = requests.message().await {
            let mut commands = Vec::with_capacity(request.commands.len());
            for command in request.commands {
                commands.extend(self.convert(command).await);
            }
            self.reader.owner.commands(self.stream, commands).await;
        }
        self.reader.owner.close(self.stream).await;
    }

    async fn convert(&self, command: WireCommand) -> Option<StreamCommand> {
        let WireCommand { session, call, action, generation } = command;
        let asked = action.ok_or_else(|| Invalid::new("action", "is required")).and_then(convert::command);
        match asked {
            Ok(Asked::Chat(chat, command)) => Some(StreamCommand { session, call, generation, chat, command }),
            Ok(Asked::MarkByMessage(chat, mark, message)) => {
                self.search(session, call, chat, mark, message).await;
                None
            }
            Err(invalid) => {
                self.refuse(session, call, invalid.into()).await;
                None
            }
        }
    }

    /// Finds the message that a mark names, beside the stream, then raises the mark. The stream doesn't wait for it: what is
    /// beyond the bound is refused.
    async fn search(&self, session: u64, call: u64, chat: ChatId, mark: Mark, message: MessageId) {
        let Ok(waiting) = self.searches.waiting.clone().try_acquire_owned() else {
            return self.refuse(session, call, MarkError::Unavailable.into()).await;
        };
        let (reader, stream, replies) = (self.reader.clone(), self.stream, self.replies.clone());
        let running = self.searches.running.clone();
        tokio::spawn(async move {
            let Ok(permit) = running.acquire_owned().await else { return };
            // Whoever isn't a member doesn't learn which messages there are.
            let view = match reader.owners.view_here(chat, &Viewer::of(mark.user, &mark.device)).await {
                Ok(view) => view,
                Err(error) => return send_refusal(&replies, session, call, error.into()).await,
            };
            let found = reader.find(&view, message).await;
            drop((permit, waiting));
            match found {
                Some(seq) => {
                    let command = Command::Mark(mark.at(seq));
                    let command = StreamCommand { session, call, generation: 0, chat, command };
                    reader.owner.commands(stream, vec![command]).await;
                }
                None => send_refusal(&replies, session, call, MarkError::UnknownMessage.into()).await,
            }
        });
    }

    async fn refuse(&self, session: u64, call: u64, refused: pb::Refused) {
        send_refusal(&self.replies, session, call, refused).await;
    }
}

impl<S: Store> Service<S> {
    /// Ends a stream when the drain begins, if it hasn't ended before.
    fn until_drained<T>(&self, stream: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Streamed<T> {
        let drain = self.drain.clone();
        Box::pin(stream.take_until(Box::pin(async move { drain.started().await })))
    }

    /// Passes an edge's stream on to an instance that it can't reach itself, until one of the three goes. What is on its way is
    /// bounded by both streams' flow control.
    async fn relay(
        &self,
        mut owner: Client,
        requests: Streaming<ConverseRequest>,
    ) -> Result<Response<Streamed<ConverseResponse>>, Status> {
        let requests = tokio_stream::StreamExt::map_while(requests, Result::ok);
        let replies = owner.converse(requests).await?.into_inner();
        Ok(Response::new(self.until_drained(replies)))
    }
}

async fn send_refusal(replies: &mpsc::WeakSender<ConverseResponse>, session: u64, call: u64, refused: pb::Refused) {
    let reply = Reply { session, call, outcome: Some(reply::Outcome::Refused(refused)) };
    // The edge is gone: so is the session.
    if let Some(replies) = replies.upgrade() {
        drop(replies.send(ConverseResponse { replies: vec![reply] }).await);
    }
}

#[tonic::async_trait]
impl<S: Store> MessageService for Service<S> {
    type WatchShardsStream = Streamed<pb::WatchShardsResponse>;

    async fn watch_shards(
        &self,
        _request: Request<pb::WatchShardsRequest>,
    ) -> Result<Response<Self::WatchShardsStream>, Status> {
        let maps = WatchStream::new(self.reader.owner.map()).map(|map| Ok(convert::shard_map(&map)));
        Ok(Response::new(self.until_drained(maps)))
    }

    type WatchChatStream = Streamed<pb::WatchChatResponse>;

    async fn watch_chat(
        &self,
        request: Request<pb::WatchChatRequest>,
    ) -> Result<Response<Self::WatchChatStream>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let asked = watching::Asked::try_from(&request)?;
        let here = || async {
            let frames = watching::start(self.reader.clone(), asked, self.drain.clone()).await?;
            Ok(Response::new(Box::pin(ReceiverStream::new(frames)) as Streamed<_>))
        };
        let there = |mut owner: Client| {
            let request = passed_on(request);
            async move {
                let frames = owner.watch_chat(request).await?.into_inner();
                let drain = self.drain.clone();
                let end = stream::once(async move { drain.is_started() })
                    .filter_map(async |by_drain| by_drain.then(|| Err(ChatError::NotOwner.into())));
                Ok(Response::new(Box::pin(self.until_drained(frames).chain(end)) as Streamed<_>))
            }
        };
        tries.call(Shard::of_chat(asked.chat), here, there).await
    }

    type ConverseStream = Streamed<ConverseResponse>;

    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        if let Some(owner) = self.reader.owners.relay_to(&request)? {
            return self.relay(owner, request.into_inner()).await;
        }
        let (replies, queue) = mpsc::channel(REPLIES_MAX);
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let conversation = Conversation {
            reader: self.reader.clone(),
            stream,
            replies: replies.downgrade(),
            searches: self.searches.clone(),
        };
        self.reader.owner.open(stream, replies).await;
        tokio::spawn(conversation.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue).map(Ok))))
    }

    async fn send_message(
        &self,
        request: Request<pb::SendMessageRequest>,
    ) -> Result<Response<pb::SendMessageResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let mut request = request.into_inner();
        let send = request.send.as_mut().ok_or_else(|| Invalid::new("send", "is required"))?;
        if send.message_id.is_empty() {
            send.message_id = fresh_id().0.to_vec().into();
        }
        let (chat, _) = convert::send(send.clone())?;
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.send_message(request).await }
        };
        tries.call(Shard::of_chat(chat), || self.send_here(request.clone()), there).await
    }

    async fn mark(&self, request: Request<pb::MarkRequest>) -> Result<Response<pb::MarkResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let mark = request.mark.clone().ok_or_else(|| Invalid::new("mark", "is required"))?;
        let chat = convert::chat_id(mark.chat_id)?;
        let here = || async {
            self.pass_here(command::Action::Mark(mark.clone())).await?;
            Ok(Response::new(pb::MarkResponse {}))
        };
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.mark(request).await }
        };
        tries.call(Shard::of_chat(chat), here, there).await
    }

    async fn send_typing(
        &self,
        request: Request<pb::SendTypingRequest>,
    ) -> Result<Response<pb::SendTypingResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let typing = request.typing.ok_or_else(|| Invalid::new("typing", "is required"))?;
        let chat = convert::chat_id(typing.chat_id)?;
        let here = || async {
            self.pass_here(command::Action::Typing(typing)).await?;
            Ok(Response::new(pb::SendTypingResponse {}))
        };
        let there = |mut owner: Client| async move { owner.send_typing(passed_on(request)).await };
        tries.call(Shard::of_chat(chat), here, there).await
    }

    async fn list_messages(
        &self,
        request: Request<pb::ListMessagesRequest>,
    ) -> Result<Response<pb::ListMessagesResponse>, Status> {
        let request = request.into_inner();
        let given = |field, value| Ok::<_, Invalid>((value > 0).then_some(convert::seq(field, value)?));
        let page = PageRequest {
            chat: convert::chat_id(request.chat_id)?,
            user: convert::user_id("user_id", request.user_id)?,
            after: given("after", request.after)?.or(request.oldest_first.then_some(Seq::ZERO)),
            before: given("before", request.before)?,
            limit: limit(request.limit, MESSAGES_MAX)?,
            bytes_max: request.bytes_max as usize,
        };
        Ok(Response::new(self.reader.list_messages(page).await?))
    }

    async fn sync(&self, request: Request<pb::SyncRequest>) -> Result<Response<pb::SyncResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        convert::device(request.device.clone())?;
        Ok(Response::new(self.reader.sync(request, user).await?))
    }

    async fn create_chat(
        &self,
        request: Request<pb::CreateChatRequest>,
    ) -> Result<Response<pb::CreateChatResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let mut request = request.into_inner();
        let message_id = fresh_id();
        let create = convert::create(request.clone(), message_id)?;
        if let CreationKey::Group { client_id, .. } = &create.key {
            // So that it is the same key, however often it is passed on.
            request.client_id.clone_from(client_id);
        }
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.create_chat(request).await }
        };
        tries.call(create.key.shard(), || self.create_here(request.clone(), message_id), there).await
    }

    async fn get_chat(&self, request: Request<pb::GetChatRequest>) -> Result<Response<pb::GetChatResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        let view = self.reader.member_view(convert::chat_id(request.chat_id)?, user).await?;
        let chats = self.users.with_mutes(user, self.reader.chats(vec![view], true).await?).await?;
        Ok(Response::new(pb::GetChatResponse { chat: chats.into_iter().next() }))
    }

    async fn list_chats(
        &self,
        request: Request<pb::ListChatsRequest>,
    ) -> Result<Response<pb::ListChatsResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        let limit = limit(request.limit, CHATS_MAX)?;
        let mut chats = self.reader.store.chats_of(user, ChatId(request.after_chat_id), limit + 1).await?;
        let more = chats.len() > limit;
        chats.truncate(limit);
        let ids: Vec<ChatId> = chats.iter().map(|chat| chat.chat).collect();
        let mut views = Vec::with_capacity(ids.len());
        for view in self.reader.owners.views(&ids, &Viewer::of(user, "")).await {
            match view {
                Ok(view) if view.has_left() => {}
                Ok(view) => views.push(view),
                Err(ChatError::NotMember) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let last_chat_id = ids.last().map_or(0, |chat| chat.0);
        let chats = self.users.with_mutes(user, self.reader.chats(views, true).await?).await?;
        Ok(Response::new(pb::ListChatsResponse { chats, more, last_chat_id }))
    }

    async fn add_members(
        &self,
        request: Request<pb::AddMembersRequest>,
    ) -> Result<Response<pb::AddMembersResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.add_members(request).await }
        };
        let answer = |added, member_count| pb::AddMembersResponse { added, member_count };
        self.change(tries, GroupRequest::Add(request.clone()), answer, there).await
    }

    async fn remove_members(
        &self,
        request: Request<pb::RemoveMembersRequest>,
    ) -> Result<Response<pb::RemoveMembersResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.remove_members(request).await }
        };
        let answer = |removed, member_count| pb::RemoveMembersResponse { removed, member_count };
        self.change(tries, GroupRequest::Remove(request.clone()), answer, there).await
    }

    async fn set_role(&self, request: Request<pb::SetRoleRequest>) -> Result<Response<pb::SetRoleResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.set_role(request).await }
        };
        let answer = |_, _| pb::SetRoleResponse {};
        self.change(tries, GroupRequest::Role(request.clone()), answer, there).await
    }

    async fn rename_chat(
        &self,
        request: Request<pb::RenameChatRequest>,
    ) -> Result<Response<pb::RenameChatResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.rename_chat(request).await }
        };
        let answer = |_, _| pb::RenameChatResponse {};
        self.change(tries, GroupRequest::Rename(request.clone()), answer, there).await
    }

    async fn delete_chat(
        &self,
        request: Request<pb::DeleteChatRequest>,
    ) -> Result<Response<pb::DeleteChatResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let there = |mut owner: Client| {
            let request = passed_on(request.clone());
            async move { owner.delete_chat(request).await }
        };
        let answer = |_, _| pb::DeleteChatResponse {};
        self.change(tries, GroupRequest::Delete(request.clone()), answer, there).await
    }

    async fn notice_shards(
        &self,
        request: Request<pb::NoticeShardsRequest>,
    ) -> Result<Response<pb::NoticeShardsResponse>, Status> {
        self.reader.owner.notice(request.into_inner().version).await;
        Ok(Response::new(pb::NoticeShardsResponse {}))
    }

    async fn view_chats(
        &self,
        request: Request<pb::ViewChatsRequest>,
    ) -> Result<Response<pb::ViewChatsResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        if request.chat_ids.len() > CHATS_MAX as usize {
            return Err(Invalid::too_large("chat_ids", format!("at most {CHATS_MAX}")).into());
        }
        let chats = request.chat_ids.into_iter().map(convert::chat_id).collect::<Result<Vec<ChatId>, Invalid>>()?;
        let newest = request.newest.then_some(&request.positions);
        let viewer = Viewer { user, device: &request.device, newest };
        let mut views = self.reader.owners.views_here(&chats, &viewer).await;
        bound_newest(&mut views);
        let outcome = |view: Result<ChatView, ChatError>| match view {
            Ok(view) => viewed_chat::Outcome::View(convert::view_wire(view)),
            Err(error) => viewed_chat::Outcome::Refused(error.into()),
        };
        let chats = views.into_iter().map(|view| pb::ViewedChat { outcome: Some(outcome(view)) }).collect();
        Ok(Response::new(pb::ViewChatsResponse { chats }))
    }

    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        let chat = convert::chat_id(request.chat_id)?;
        let limit = limit(request.limit, MEMBERS_PAGE_MAX)?;
        self.reader.member_view(chat, user).await?;
        let members = self.reader.store.members(chat).await?;
        let from = request.after as usize;
        let page = members.iter().skip(from).take(limit).filter(|member| member.is_in()).map(|member| pb::Member {
            user_id: member.user.0,
            role: member.role.into(),
            joined_at_ms: member.joined_at_ms,
            joined_seq: member.joined_seq.0,
        });
        let end = from + limit;
        let next = if members.len() > end { u32::try_from(end).unwrap_or(0) } else { 0 };
        Ok(Response::new(pb::ListMembersResponse { members: page.collect(), next }))
    }

    async fn list_receipts(
        &self,
        request: Request<pb::ListReceiptsRequest>,
    ) -> Result<Response<pb::ListReceiptsResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let limit = limit(request.limit, MEMBERS_PAGE_MAX)?;
        let (chat, asked) = convert::receipts(request, limit)?;
        let there = |mut owner: Client| async move { owner.list_receipts(passed_on(request)).await };
        tries.call(Shard::of_chat(chat), || self.receipts_here(chat, asked), there).await
    }

    async fn filter_acquainted(
        &self,
        request: Request<pb::FilterAcquaintedRequest>,
    ) -> Result<Response<pb::FilterAcquaintedResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        let others = convert::user_ids("user_ids", &request.user_ids)?;
        // Side by side: most of them are acquainted, and nobody is blocked.
        let known = self.reader.store.acquainted(user, others.clone());
        let (mut known, unblocked) = try_join(known, self.users.unblocked(user, others)).await?;
        known.retain(|known| unblocked.contains(known));
        Ok(Response::new(pb::FilterAcquaintedResponse { user_ids: known.iter().map(|user| user.0).collect() }))
    }

    async fn get_settings(
        &self,
        request: Request<pb::GetSettingsRequest>,
    ) -> Result<Response<pb::GetSettingsResponse>, Status> {
        let user = convert::user_id("user_id", request.into_inner().user_id)?;
        let settings = Some(users::settings(&self.users.of(user).await?));
        Ok(Response::new(pb::GetSettingsResponse { settings }))
    }

    async fn update_settings(
        &self,
        request: Request<pb::UpdateSettingsRequest>,
    ) -> Result<Response<pb::UpdateSettingsResponse>, Status> {
        let settings = Some(self.users.update(request.into_inner()).await?);
        Ok(Response::new(pb::UpdateSettingsResponse { settings }))
    }

    async fn list_blocks(
        &self,
        request: Request<pb::ListBlocksRequest>,
    ) -> Result<Response<pb::ListBlocksResponse>, Status> {
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        let limit = limit(request.limit, BLOCKS_PAGE_MAX)?;
        Ok(Response::new(self.users.list_blocks(user, UserId(request.after), limit).await?))
    }

    async fn set_block(&self, request: Request<pb::SetBlockRequest>) -> Result<Response<pb::SetBlockResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        self.users.set_block(tries, request.into_inner()).await?;
        Ok(Response::new(pb::SetBlockResponse {}))
    }

    async fn set_mute(&self, request: Request<pb::SetMuteRequest>) -> Result<Response<pb::SetMuteResponse>, Status> {
        self.users.set_mute(request.into_inner()).await?;
        Ok(Response::new(pb::SetMuteResponse {}))
    }

    async fn filter_visible(
        &self,
        request: Request<pb::FilterVisibleRequest>,
    ) -> Result<Response<pb::FilterVisibleResponse>, Status> {
        let users = convert::user_ids("user_ids", &request.into_inner().user_ids)?;
        Ok(Response::new(pb::FilterVisibleResponse { user_ids: self.users.visible(users).await? }))
    }

    async fn apply_block(
        &self,
        request: Request<pb::ApplyBlockRequest>,
    ) -> Result<Response<pb::ApplyBlockResponse>, Status> {
        let pb::ApplyBlockRequest { chat_id, user_id, blocked, version } = request.into_inner();
        let block = Block { by: convert::user_id("user_id", user_id)?, version, blocked };
        self.users.apply_here(convert::chat_id(chat_id)?, block).await?;
        Ok(Response::new(pb::ApplyBlockResponse {}))
    }

    async fn erase_user(
        &self,
        request: Request<pb::EraseUserRequest>,
    ) -> Result<Response<pb::EraseUserResponse>, Status> {
        let tries = self.reader.owners.tries(&request);
        let request = request.into_inner();
        let user = convert::user_id("user_id", request.user_id)?;
        let there = |mut owner: Client| async move { owner.erase_user(passed_on(request)).await };
        let here = || async { self.users.erase_here(user, request.look_only).await.map(Response::new) };
        tries.call(Shard::of_user(user), here, there).await
    }

    async fn erase_in_chat(
        &self,
        request: Request<pb::EraseInChatRequest>,
    ) -> Result<Response<pb::EraseInChatResponse>, Status> {
        Ok(Response::new(self.users.erase_in_chat(request.into_inner()).await?))
    }

    async fn expire_chat(
        &self,
        request: Request<pb::ExpireChatRequest>,
    ) -> Result<Response<pb::ExpireChatResponse>, Status> {
        let pb::ExpireChatRequest { chat_id, before_ms } = request.into_inner();
        let done = expiry::expire_part(&self.reader, convert::chat_id(chat_id)?, before_ms, self.keep).await?;
        Ok(Response::new(pb::ExpireChatResponse { done }))
    }
}

/// What this instance's owner does.
impl<S: Store> Service<S> {
    async fn send_here(&self, request: pb::SendMessageRequest) -> Result<Response<pb::SendMessageResponse>, Status> {
        let (chat, send) = convert::send(request.send.unwrap_or_default())?;
        match self.reader.owner.call(chat, Command::Send(send)).await {
            Outcome::Accepted(accepted) => {
                Ok(Response::new(pb::SendMessageResponse { accepted: Some(accepted_wire(accepted)) }))
            }
            Outcome::SendRefused(error) => Err(error.into()),
            _ => Err(SendError::Unavailable.into()),
        }
    }

    /// A mark, or typing.
    async fn pass_here(&self, action: command::Action) -> Result<(), Status> {
        let (chat, command) = match convert::command(action)? {
            Asked::Chat(chat, command) => (chat, command),
            Asked::MarkByMessage(chat, mark, message) => {
                let view = self.reader.owners.view_here(chat, &Viewer::of(mark.user, &mark.device)).await?;
                let _running = self.searches.running.acquire().await;
                let seq = self.reader.find(&view, message).await.ok_or(MarkError::UnknownMessage)?;
                (chat, Command::Mark(mark.at(seq)))
            }
        };
        match self.reader.owner.call(chat, command).await {
            Outcome::Marked => Ok(()),
            Outcome::MarkRefused(error) => Err(error.into()),
            _ => Err(MarkError::Unavailable.into()),
        }
    }

    async fn create_here(
        &self,
        request: pb::CreateChatRequest,
        message_id: MessageId,
    ) -> Result<Response<pb::CreateChatResponse>, Status> {
        let create = convert::create(request, message_id)?;
        let (user, device) = (create.by, create.device.clone());
        let key = create.key.clone();
        self.may_be_together(&create).await?;
        // An owner among others looks the key up itself.
        let known = match self.reader.owners.is_alone() {
            true => self.reader.store.creation(create.key.clone()).await?,
            false => None,
        };
        let outcome = match known {
            Some(made) if made.body_hash != create.body_hash() => return Err(ChatError::Conflict.into()),
            // It may be on the disk, and its owner not know it yet.
            Some(made) => self.reader.owner.call(made.chat, Command::Create(Box::new(create))).await,
            None => self.reader.owner.create(create).await,
        };
        let (chat, existed) = match outcome {
            Outcome::Created { chat, existed } => (chat, existed),
            Outcome::ChatRefused(error) => return Err(error.into()),
            _ => return Err(ChatError::Unavailable.into()),
        };
        if let CreationKey::Direct(one, other) = key {
            // Who has blocked the other since it was looked at has found no chat to tell of it. (Also where it existed: whoever has
            // made it may not have come this far.)
            for block in self.users.blocks_between(one, other).await? {
                self.users.apply_here(chat, block).await?;
            }
        }
        let view = self.reader.owners.view_here(chat, &Viewer::of(user, &device)).await?;
        if view.has_left() {
            return Err(ChatError::NotMember.into());
        }
        let chat = self.reader.chats(vec![view], false).await?.pop();
        Ok(Response::new(pb::CreateChatResponse { chat, existed }))
    }

    /// Whether the creator of a chat and its members have nothing against each other. A pair's chat that is there stays.
    async fn may_be_together(&self, create: &Create) -> Result<(), Status> {
        let others: Vec<UserId> = create.members.iter().copied().filter(|member| *member != create.by).collect();
        let asked = others.len();
        if self.users.unblocked(create.by, others).await?.len() == asked {
            return Ok(());
        }
        match &create.key {
            CreationKey::Group { .. } => Err(ChatError::BlockedMember.into()),
            key => match self.reader.store.creation(key.clone()).await? {
                Some(_) => Ok(()),
                None => Err(ChatError::Blocked.into()),
            },
        }
    }

    async fn receipts_here(&self, chat: ChatId, asked: Receipts) -> Result<Response<pb::ListReceiptsResponse>, Status> {
        match self.reader.owner.call(chat, Command::Receipts(asked)).await {
            Outcome::Receipts(page) => Ok(Response::new(convert::receipts_wire(page))),
            Outcome::ChatRefused(error) => Err(error.into()),
            _ => Err(ChatError::Unavailable.into()),
        }
    }

    /// Changes a group at its owner, here or there: whom it has changed something for, and how many members there are.
    async fn change<T, O>(
        &self,
        tries: Tries,
        request: GroupRequest,
        answer: impl Fn(Vec<u64>, u32) -> T,
        there: impl Fn(Client) -> O,
    ) -> Result<Response<T>, Status>
    where
        O: Future<Output = Result<Response<T>, Status>>,
    {
        let (chat, change) = convert::change(request, fresh_id())?;
        let here = || async {
            if let What::Add(users) = &change.what
                && self.users.unblocked(change.by, users.clone()).await?.len() < users.len()
            {
                return Err(ChatError::BlockedMember.into());
            }
            match self.reader.owner.call(chat, Command::Change(change.clone())).await {
                Outcome::Changed { users, members } => {
                    let users = users.iter().map(|user| user.0).collect();
                    Ok(Response::new(answer(users, u32::try_from(members).unwrap_or(u32::MAX))))
                }
                Outcome::ChatRefused(error) => Err(error.into()),
                _ => Err(ChatError::Unavailable.into()),
            }
        };
        tries.call(Shard::of_chat(chat), here, there).await
    }
}

/// Leaves out the newest events of the chats beyond [`NEWEST_BYTES_MAX`].
fn bound_newest(views: &mut [Result<ChatView, ChatError>]) {
    let mut bytes = 0;
    for view in views.iter_mut().flatten() {
        bytes += view.newest.iter().flat_map(|newest| &newest.events).map(Bytes::len).sum::<usize>();
        if bytes > NEWEST_BYTES_MAX {
            view.newest = None;
        }
    }
}

fn limit(asked: u32, max: u32) -> Result<usize, Invalid> {
    match asked {
        0 => Ok(LIST_DEFAULT as usize),
        _ if asked > max => Err(Invalid::new("limit", format!("is at most {max}"))),
        _ => Ok(asked as usize),
    }
}
