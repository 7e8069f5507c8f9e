//! `/v1`: chats, members, messages. It mirrors message-svc's RPCs.

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1 as pb;
use confab_proto::presence::v1::GetPresenceRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::poll::{mark, send_one};
use super::{App, Caller, Problem, Whole, pairs};
use crate::edge::{STRANGERS, next_chat};
use crate::frames::Code;
use crate::frames::client::Place;
use crate::frames::event::{EventFrame, Shown};
use crate::frames::server::{kind_name, presence_name, role_name, time, uuid};
use crate::limits::TOO_MANY;

/// Items of a list's page.
const LIMIT_MAX: u32 = 200;

/// Where a page begins, and how long it is.
#[derive(Default)]
pub(super) struct PageParams {
    pub(super) limit: Option<u32>,
    pub(super) next: Option<u64>,
    before: Option<u64>,
    after: Option<u64>,
}

impl PageParams {
    /// Unknown parameters are ignored; one that is no number is named.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Self::default();
        for (name, value) in pairs(query) {
            let number = |field| {
                let wrong = |_| {
                    Problem::new(Code::InvalidFrame, format!("{field} is a number from 0 to 2^53 - 1"), Some(field))
                };
                value.parse::<u64>().map_err(wrong)
            };
            match name {
                "limit" => params.limit = Some(u32::try_from(number("limit")?).unwrap_or(u32::MAX)),
                "next" => params.next = Some(number("next")?),
                "before" => params.before = Some(number("before")?),
                "after" => params.after = Some(number("after")?),
                _ => {}
            }
        }
        if params.limit.is_some_and(|limit| limit > LIMIT_MAX) {
            return Err(Problem::new(Code::InvalidFrame, format!("limit is at most {LIMIT_MAX}"), Some("limit")));
        }
        Ok(params)
    }
}

const CHAT_ID: &str = "chat_id is a number from 1 to 2^53 - 1";
const SEQ: &str = "seq is a number from 1 to 2^53 - 1";

pub(super) fn chat_id(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| Problem::new(Code::InvalidFrame, CHAT_ID, Some("chat_id")))
}

pub(super) fn user_id(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| Problem::new(Code::InvalidFrame, "user_id is a number from 1 to 2^53 - 1", Some("user_id")))
}

#[derive(Deserialize)]
struct NewChat {
    kind: String,
    user_id: Option<u64>,
    title: Option<String>,
    members: Option<Vec<u64>>,
    client_id: Option<String>,
}

#[derive(Deserialize)]
struct NewMembers {
    members: Option<Vec<u64>>,
    user_ids: Option<Vec<u64>>,
}

#[derive(Deserialize)]
struct NewRole {
    role: String,
}

#[derive(Deserialize)]
struct NewTitle {
    title: String,
}

#[derive(Deserialize)]
struct ReadUpTo {
    seq: u64,
}

#[derive(Deserialize)]
struct NewMessage {
    content: Option<String>,
    media_url: Option<String>,
    client_id: Option<String>,
    reply_to: Option<u64>,
    mentions: Option<Vec<u64>>,
}

/// Reads a JSON body; its error names what is wrong without repeating it.
pub(super) fn body<'a, T: Deserialize<'a>>(bytes: &'a Bytes) -> Result<T, Problem> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(Code::InvalidFrame, format!("the body: {error}"), Some("body")))
}

fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned)
}

pub(crate) async fn create_chat(
    State(app): State<App>,
    Caller(claims): Caller,
    headers: HeaderMap,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let new: NewChat = body(&bytes)?;
    let kind = match new.kind.as_str() {
        "direct" => pb::ChatKind::Direct,
        "group" => pb::ChatKind::Group,
        _ => return Err(Problem::new(Code::InvalidFrame, "kind is \"direct\" or \"group\"", Some("kind"))),
    };
    let request = pb::CreateChatRequest {
        user_id: claims.user.0,
        kind: kind.into(),
        peer: new.user_id.unwrap_or(0),
        title: new.title.unwrap_or_default(),
        member_ids: new.members.unwrap_or_default(),
        client_id: new.client_id.or_else(|| idempotency_key(&headers)).unwrap_or_default(),
        device: claims.device,
    };
    let response = app.shared.messages.clone().create_chat(request).await?.into_inner();
    let status = if response.existed { StatusCode::OK } else { StatusCode::CREATED };
    let chat = response.chat.unwrap_or_default();
    Ok((status, axum::Json(chat_json(&chat, claims.user))).into_response())
}

pub(crate) async fn get_chat(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    chat_of(&app, chat_id(&id)?, claims.user).await
}

async fn chat_of(app: &App, chat_id: u64, user: UserId) -> Result<Response, Problem> {
    let request = pb::GetChatRequest { chat_id, user_id: user.0 };
    let chat = app.shared.messages.clone().get_chat(request).await?.into_inner().chat.unwrap_or_default();
    Ok(axum::Json(chat_json(&chat, user)).into_response())
}

pub(crate) async fn list_chats(
    State(app): State<App>,
    Caller(claims): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = PageParams::read(query.as_deref())?;
    let request = pb::ListChatsRequest {
        user_id: claims.user.0,
        after_chat_id: params.next.unwrap_or(0),
        limit: params.limit.unwrap_or(0),
    };
    let page = app.shared.messages.clone().list_chats(request).await?.into_inner();
    let next = next_chat(page.more, page.last_chat_id, page.chats.last().map(|chat| chat.chat_id));
    let next = next.map(|chat| chat.to_string());
    let items: Vec<Value> = page.chats.iter().map(|chat| chat_json(chat, claims.user)).collect();
    Ok(axum::Json(json!({"items": items, "next": next})).into_response())
}

pub(crate) async fn list_members(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let id = chat_id(&id)?;
    let params = PageParams::read(query.as_deref())?;
    let request = pb::ListMembersRequest {
        chat_id: id,
        user_id: claims.user.0,
        after: params.next.and_then(|next| u32::try_from(next).ok()).unwrap_or(0),
        limit: params.limit.unwrap_or(0),
    };
    let page = app.shared.messages.clone().list_members(request).await?.into_inner();
    let member = |member: &pb::Member| {
        json!({
            "user_id": member.user_id,
            "role": role_name(member.role()),
            "joined_at": time(member.joined_at_ms),
            "joined_seq": member.joined_seq,
        })
    };
    let items: Vec<Value> = page.members.iter().map(member).collect();
    let next = (page.next > 0).then(|| page.next.to_string());
    Ok(axum::Json(json!({"items": items, "next": next})).into_response())
}

pub(crate) async fn add_members(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let id = chat_id(&id)?;
    let new: NewMembers = body(&bytes)?;
    let request = pb::AddMembersRequest {
        chat_id: id,
        user_id: claims.user.0,
        member_ids: new.members.or(new.user_ids).unwrap_or_default(),
        device: claims.device,
    };
    let added = app.shared.messages.clone().add_members(request).await?.into_inner();
    Ok(axum::Json(json!({"added": added.added, "member_count": added.member_count})).into_response())
}

pub(crate) async fn remove_member(
    State(app): State<App>,
    Caller(claims): Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let request = pb::RemoveMembersRequest {
        chat_id: chat_id(&id)?,
        user_id: claims.user.0,
        member_ids: vec![user_id(&user)?],
        device: claims.device,
    };
    app.shared.messages.clone().remove_members(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn set_role(
    State(app): State<App>,
    Caller(claims): Caller,
    Path((id, user)): Path<(String, String)>,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let new: NewRole = body(&bytes)?;
    let role = match new.role.as_str() {
        "admin" => pb::Role::Admin,
        "member" => pb::Role::Member,
        _ => return Err(Problem::new(Code::InvalidFrame, "role is \"admin\" or \"member\"", Some("role"))),
    };
    let request = pb::SetRoleRequest {
        chat_id: chat_id(&id)?,
        user_id: claims.user.0,
        member_id: user_id(&user)?,
        role: role.into(),
        device: claims.device,
    };
    app.shared.messages.clone().set_role(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Renames a group; the answer is the chat.
pub(crate) async fn change_chat(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let new: NewTitle = body(&bytes)?;
    let (chat_id, user_id) = (chat_id(&id)?, claims.user.0);
    let request = pb::RenameChatRequest { chat_id, user_id, title: new.title, device: claims.device };
    app.shared.messages.clone().rename_chat(request).await?;
    chat_of(&app, chat_id, claims.user).await
}

pub(crate) async fn delete_chat(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let request = pb::DeleteChatRequest { chat_id: chat_id(&id)?, user_id: claims.user.0, device: claims.device };
    app.shared.messages.clone().delete_chat(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn list_messages(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let id = chat_id(&id)?;
    let params = PageParams::read(query.as_deref())?;
    let request = pb::ListMessagesRequest {
        chat_id: id,
        user_id: claims.user.0,
        // The cursor goes on in the direction that was begun.
        after: params.after.map_or(0, |after| params.next.unwrap_or(after)),
        oldest_first: params.after.is_some(),
        before: if params.after.is_some() { params.before } else { params.next.or(params.before) }.unwrap_or(0),
        limit: params.limit.unwrap_or(0),
        ..pb::ListMessagesRequest::default()
    };
    let page = app.shared.messages.clone().list_messages(request).await?.into_inner();
    let items = Shown::new(&page.events, claims.user);
    let last = if params.after.is_some() { page.events.last() } else { page.events.first() };
    let next = last.filter(|_| page.more).and_then(|event| EventFrame::decode(event, Seq::ZERO));
    let next = next.map(|event| event.seq().to_string());
    Ok(axum::Json(json!({"items": items, "next": next, "head": page.head})).into_response())
}

pub(crate) async fn send_message(
    State(app): State<App>,
    Caller(claims): Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let id = chat_id(&id)?;
    let new: NewMessage = body(&bytes)?;
    let limited = |wait| Problem::limited(TOO_MANY, wait);
    app.shared.limits.message(claims.user, bytes.len()).map_err(limited)?;
    let send = pb::Send {
        chat_id: id,
        client_id: new.client_id.or_else(|| idempotency_key(&headers)).unwrap_or_default(),
        content: Some(pb::Content {
            text: new.content.unwrap_or_default(),
            media_url: new.media_url.unwrap_or_default(),
            reply_to: new.reply_to.unwrap_or(0),
            mentions: new.mentions.unwrap_or_default(),
            deleted: false,
        }),
        ..pb::Send::default()
    };
    let accepted = send_one(&app, &claims, send).await?;
    let status = if accepted.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let body = json!({
        "message_id": uuid(&accepted.message_id),
        "chat_id": accepted.chat_id,
        "seq": accepted.seq,
        "created_at": time(accepted.created_at_ms),
        "duplicate": accepted.duplicate,
    });
    Ok((status, axum::Json(body)).into_response())
}

/// Has read a chat up to a message.
pub(crate) async fn read(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let wrong = |field, why| Problem::new(Code::InvalidFrame, why, Some(field));
    let chat = ChatId::checked(chat_id(&id)?).ok_or_else(|| wrong("chat_id", CHAT_ID))?;
    let ReadUpTo { seq } = body(&bytes)?;
    let seq = Seq::checked(seq).ok_or_else(|| wrong("seq", SEQ))?;
    mark(&app, &claims, chat, Place::Seq(seq), true).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Whether somebody is online, whom one shares a chat with.
pub(crate) async fn presence(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let user = user_id(&id)?;
    let known = app.shared.acquainted(claims.user, &[UserId(user)]).await?;
    if user != claims.user.0 && !known.contains(&UserId(user)) {
        return Err(Problem::new(Code::Forbidden, STRANGERS, Some("user_id")));
    }
    let unavailable = || Problem::new(Code::Unavailable, "presence is not known at the moment", None);
    let mut home = app.shared.presence.home(UserId(user)).ok_or_else(unavailable)?;
    let presences = home.get_presence(GetPresenceRequest { user_ids: vec![user] }).await?.into_inner().presences;
    let presence = presences.into_iter().next().unwrap_or_default();
    let status = presence_name(presence.status()).ok_or_else(unavailable)?;
    let is_shown = user == claims.user.0 || app.shared.visible(user).await?;
    let last_seen = (presence.last_seen_ms > 0 && is_shown).then(|| time(presence.last_seen_ms));
    Ok(axum::Json(json!({"user_id": user, "status": status, "last_seen": last_seen})).into_response())
}

/// Who has got a message, and who has read it.
pub(crate) async fn list_receipts(
    State(app): State<App>,
    Caller(claims): Caller,
    Path((id, seq)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = PageParams::read(query.as_deref())?;
    let wrong = |_| Problem::new(Code::InvalidFrame, SEQ, Some("seq"));
    let request = pb::ListReceiptsRequest {
        chat_id: chat_id(&id)?,
        user_id: claims.user.0,
        seq: seq.parse().map_err(wrong)?,
        after: u32::try_from(params.next.unwrap_or(0)).unwrap_or(u32::MAX),
        limit: params.limit.unwrap_or(0),
    };
    let page = app.shared.messages.clone().list_receipts(request).await?.into_inner();
    let item = |receipt: &pb::MemberReceipt| json!({"user_id": receipt.user_id, "delivered": receipt.delivered, "read": receipt.read});
    let items: Vec<Value> = page.receipts.iter().map(item).collect();
    let next = (page.next > 0).then(|| page.next.to_string());
    Ok(axum::Json(json!({"items": items, "next": next})).into_response())
}

fn chat_json(chat: &pb::Chat, user: UserId) -> Value {
    // One that isn't asked for is empty, and no frame.
    let last = EventFrame::decode(&chat.last_event, Seq::ZERO);
    json!({
        "chat_id": chat.chat_id,
        "kind": kind_name(chat.kind()),
        "title": chat.title,
        "created_by": chat.created_by,
        "created_at": time(chat.created_at_ms),
        "members": chat.member_count,
        "user_id": (chat.peer > 0).then_some(chat.peer),
        "role": role_name(chat.role()),
        "head": chat.head,
        "read": chat.read,
        "delivered": chat.delivered,
        "unread": chat.unread,
        "muted": chat.muted_until_ms.is_some(),
        "muted_until": chat.muted_until_ms.filter(|until| *until > 0).map(time),
        "last_message": last.and_then(|event| event.json_for(user)),
    })
}
