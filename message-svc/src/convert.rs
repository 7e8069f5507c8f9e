//! From requests to commands: all validation is here.

use std::collections::HashMap;

use confab_ids::{ChatId, MessageId, NUMBER_LIMIT, Seq, UserId};
use confab_proto::limits::{CLIENT_ID_CHARS_MAX, EMOJI_BYTES_MAX, MEDIA_URL_BYTES_MAX, MENTIONS_MAX, TEXT_BYTES_MAX};
use confab_proto::message::v1::{
    self as pb, ChatKind, Content, CreateChatRequest, Deletion, Edit, Reaction, Role, command,
};
use uuid::Uuid;

use crate::core::body::Body;
use crate::core::ownership::lease::Incarnation;
use crate::core::ownership::map::{ShardMap, Tenure};
use crate::core::tail::Newest;
use crate::core::{Change, ChatView, Command, Create, Mark, MemberReceipt, ReceiptPage, Receipts, Send, What};
use crate::error::Invalid;
use crate::store::{CreationKey, MEMBERS_MAX};

const DEVICE_MAX: usize = 64;
const TITLE_MAX: usize = 128;

/// What a command of a `Converse` stream asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Chat(ChatId, Command),
    /// A mark by message id: the id has to be found first.
    MarkByMessage(ChatId, Mark, MessageId),
}

pub(crate) fn command(action: command::Action) -> Result<Asked, Invalid> {
    match action {
        command::Action::Send(send) => {
            let (chat, send) = self::send(send)?;
            Ok(Asked::Chat(chat, Command::Send(send)))
        }
        command::Action::Mark(mark) => self::mark(mark),
        command::Action::Typing(typing) => {
            let user = user_id("user_id", typing.user_id)?;
            Ok(Asked::Chat(chat_id(typing.chat_id)?, Command::Typing(user)))
        }
    }
}

pub(crate) fn send(send: pb::Send) -> Result<(ChatId, Send), Invalid> {
    let chat = chat_id(send.chat_id)?;
    let send = Send {
        user: user_id("user_id", send.user_id)?,
        device: device(send.device)?,
        message_id: MessageId::from_slice(&send.message_id)
            .ok_or_else(|| Invalid::new("message_id", "is 16 bytes, a UUIDv7"))?,
        client_id: client_id(send.client_id)?,
        body: body(
            send.content,
            send.edit.map(|edit| *edit),
            send.deletion.map(|deletion| *deletion),
            send.reaction.map(|reaction| *reaction),
        )?,
        erases: false,
    };
    Ok((chat, send))
}

/// One of them, and of that only what a sender may say.
fn body(
    content: Option<Content>,
    edit: Option<Edit>,
    deletion: Option<Deletion>,
    reaction: Option<Reaction>,
) -> Result<Body, Invalid> {
    match (content, edit, deletion, reaction) {
        (Some(content), None, None, None) => {
            check_content(&content)?;
            Ok(Body::Content(Content { deleted: false, ..content }))
        }
        (None, Some(Edit { target, text, .. }), None, None) => {
            if text.is_empty() {
                return Err(Invalid::new("content", "is empty"));
            }
            check_text(&text)?;
            Ok(Body::Edit(Edit { target: place("target", target)?.0, text, rows: Vec::new() }))
        }
        (None, None, Some(Deletion { target, .. }), None) => {
            Ok(Body::Deletion(Deletion { target: place("target", target)?.0, rows: Vec::new() }))
        }
        (None, None, None, Some(reaction)) => {
            if reaction.emoji.is_empty() || reaction.emoji.len() > EMOJI_BYTES_MAX {
                return Err(Invalid::new("emoji", format!("has 1 to {EMOJI_BYTES_MAX} bytes")));
            }
            place("target", reaction.target)?;
            Ok(Body::Reaction(reaction))
        }
        (None, None, None, None) => Err(Invalid::new("content", "is required")),
        _ => Err(Invalid::new("content", "and an edit, a deletion or a reaction don't go together")),
    }
}

fn check_text(text: &str) -> Result<(), Invalid> {
    if text.len() > TEXT_BYTES_MAX {
        let why = format!("has {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len());
        return Err(Invalid::too_large("content", why));
    }
    Ok(())
}

fn check_content(content: &Content) -> Result<(), Invalid> {
    if content.text.is_empty() && content.media_url.is_empty() {
        return Err(Invalid::new("content", "is empty, and there is no media"));
    }
    check_text(&content.text)?;
    if content.media_url.len() > MEDIA_URL_BYTES_MAX {
        return Err(Invalid::new("media_url", format!("is longer than {MEDIA_URL_BYTES_MAX} bytes")));
    }
    if !content.media_url.is_empty() && !content.media_url.starts_with("https://") {
        return Err(Invalid::new("media_url", "is not an https URL"));
    }
    if content.mentions.len() > MENTIONS_MAX {
        return Err(Invalid::new("mentions", format!("more than {MENTIONS_MAX}")));
    }
    content.mentions.iter().try_for_each(|user| user_id("mentions", *user).map(drop))
}

fn mark(mark: pb::Mark) -> Result<Asked, Invalid> {
    let chat = chat_id(mark.chat_id)?;
    let by_id = MessageId::from_slice(&mark.message_id);
    if by_id.is_none() && !mark.message_id.is_empty() {
        return Err(Invalid::new("message_id", "is 16 bytes, a UUIDv7"));
    }
    let raised = Mark {
        user: user_id("user_id", mark.user_id)?,
        device: device(mark.device)?,
        delivered: seq("seq", mark.delivered)?,
        read: seq("seq", mark.read)?,
    };
    Ok(match by_id {
        Some(message) => Asked::MarkByMessage(chat, raised, message),
        None => Asked::Chat(chat, Command::Mark(raised)),
    })
}

pub(crate) fn create(request: CreateChatRequest, message_id: MessageId) -> Result<Create, Invalid> {
    let kind = request.kind();
    let by = user_id("user_id", request.user_id)?;
    let device = device(request.device)?;
    let client_id = client_id(request.client_id)?;
    let (title, mut members, key) = match kind {
        ChatKind::Direct => {
            let peer = user_id("user_id", request.peer)?;
            if peer == by {
                return Err(Invalid::new("user_id", "is yourself: a direct chat is with another user"));
            }
            (String::new(), vec![peer], CreationKey::Direct(by.min(peer), by.max(peer)))
        }
        ChatKind::Group => {
            check_title(&request.title)?;
            // As with a message: where the client names none, its id is the key.
            let client_id = if client_id.is_empty() { Uuid::from_bytes(message_id.0).to_string() } else { client_id };
            let key = CreationKey::Group { user: by, device: device.clone(), client_id };
            (request.title, user_ids("members", &request.member_ids)?, key)
        }
        ChatKind::Unspecified => return Err(Invalid::new("kind", "is \"direct\" or \"group\"")),
    };
    members.push(by);
    members.sort_unstable();
    members.dedup();
    if members.len() > MEMBERS_MAX {
        return Err(Invalid::too_large("members", format!("with the creator at most {MEMBERS_MAX}")));
    }
    Ok(Create { key, kind, title, by, device, members, message_id })
}

/// What a request to change a group asks for.
pub(crate) fn change(request: GroupRequest, message_id: MessageId) -> Result<(ChatId, Change), Invalid> {
    let (chat, by, device, what) = match request {
        GroupRequest::Add(add) => (add.chat_id, add.user_id, add.device, What::Add(members(&add.member_ids)?)),
        GroupRequest::Remove(gone) => {
            (gone.chat_id, gone.user_id, gone.device, What::Remove(members(&gone.member_ids)?))
        }
        GroupRequest::Role(set) => {
            let role = match set.role() {
                Role::Unspecified => return Err(Invalid::new("role", "is \"admin\" or \"member\"")),
                role => role,
            };
            (set.chat_id, set.user_id, set.device, What::Role(user_id("user_id", set.member_id)?, role))
        }
        GroupRequest::Rename(rename) => {
            check_title(&rename.title)?;
            (rename.chat_id, rename.user_id, rename.device, What::Rename(rename.title))
        }
        GroupRequest::Delete(delete) => (delete.chat_id, delete.user_id, delete.device, What::Delete),
    };
    let by = user_id("user_id", by)?;
    Ok((chat_id(chat)?, Change { by, device: self::device(device)?, message_id, what }))
}

/// A call that changes a group.
#[derive(Debug)]
pub(crate) enum GroupRequest {
    Add(pb::AddMembersRequest),
    Remove(pb::RemoveMembersRequest),
    Role(pb::SetRoleRequest),
    Rename(pb::RenameChatRequest),
    Delete(pb::DeleteChatRequest),
}

fn members(ids: &[u64]) -> Result<Vec<UserId>, Invalid> {
    let users = user_ids("members", ids)?;
    if users.is_empty() {
        return Err(Invalid::new("members", "is empty"));
    }
    Ok(users)
}

fn check_title(title: &str) -> Result<(), Invalid> {
    if title.chars().count() > TITLE_MAX {
        return Err(Invalid::new("title", format!("is longer than {TITLE_MAX} characters")));
    }
    Ok(())
}

/// `limit`: as it was found right.
pub(crate) fn receipts(request: pb::ListReceiptsRequest, limit: usize) -> Result<(ChatId, Receipts), Invalid> {
    let seq = place("seq", request.seq)?;
    let user = user_id("user_id", request.user_id)?;
    Ok((chat_id(request.chat_id)?, Receipts { user, seq, after: request.after as usize, limit }))
}

pub(crate) fn receipts_wire(page: ReceiptPage) -> pb::ListReceiptsResponse {
    let wire = |MemberReceipt { user, delivered, read }| pb::MemberReceipt { user_id: user.0, delivered, read };
    let next = page.next.map_or(0, |next| u32::try_from(next).unwrap_or(0));
    pb::ListReceiptsResponse { receipts: page.receipts.into_iter().map(wire).collect(), next }
}

/// A message id for what comes without one.
pub(crate) fn fresh_id() -> MessageId {
    MessageId(*Uuid::now_v7().as_bytes())
}

pub(crate) fn chat_id(value: u64) -> Result<ChatId, Invalid> {
    ChatId::checked(value).ok_or_else(|| Invalid::new("chat_id", "is a number from 1 to 2^53 - 1"))
}

pub(crate) fn user_id(field: &'static str, value: u64) -> Result<UserId, Invalid> {
    UserId::checked(value).ok_or_else(|| Invalid::new(field, "is a number from 1 to 2^53 - 1"))
}

pub(crate) fn user_ids(field: &'static str, values: &[u64]) -> Result<Vec<UserId>, Invalid> {
    if values.len() > MEMBERS_MAX {
        return Err(Invalid::new(field, format!("at most {MEMBERS_MAX} at once")));
    }
    values.iter().map(|value| user_id(field, *value)).collect()
}

/// Of an event.
fn place(field: &'static str, value: u64) -> Result<Seq, Invalid> {
    Seq::checked(value).ok_or_else(|| Invalid::new(field, "is a number from 1 to 2^53 - 1"))
}

pub(crate) fn seq(field: &'static str, value: u64) -> Result<Seq, Invalid> {
    if value < NUMBER_LIMIT { Ok(Seq(value)) } else { Err(Invalid::new(field, "is a number below 2^53")) }
}

pub(crate) fn device(name: String) -> Result<String, Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > DEVICE_MAX || !name.chars().all(allowed) {
        return Err(Invalid::new("device", "is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"));
    }
    Ok(name)
}

fn client_id(id: String) -> Result<String, Invalid> {
    if id.chars().count() > CLIENT_ID_CHARS_MAX {
        return Err(Invalid::new("client_id", format!("is longer than {CLIENT_ID_CHARS_MAX} characters")));
    }
    Ok(id)
}

pub(crate) fn shard_map(map: &ShardMap) -> pb::WatchShardsResponse {
    let owners: Vec<Incarnation> = map.addrs.keys().copied().collect();
    let places: HashMap<Incarnation, u32> = owners.iter().copied().zip(1..).collect();
    let place = |tenure: &Tenure| places.get(&tenure.owner).copied().unwrap_or(0);
    pb::WatchShardsResponse {
        version: map.version,
        owners: owners.iter().filter_map(|owner| map.addrs.get(owner)).map(ToString::to_string).collect(),
        shards: map.tenures.iter().map(place).collect(),
    }
}

/// For another instance.
pub(crate) fn view_wire(view: ChatView) -> pb::ChatView {
    pb::ChatView {
        chat_id: view.chat.0,
        kind: view.kind.into(),
        title: view.title,
        created_by: view.created_by.0,
        created_at_ms: view.created_at_ms,
        head: view.head.0,
        count: view.count,
        member_count: u32::try_from(view.members).unwrap_or(u32::MAX),
        role: view.role.into(),
        joined_seq: view.joined_seq.0,
        left_seq: view.left_seq.0,
        peer: view.peer.map_or(0, |peer| peer.0),
        peer_delivered: view.peer_delivered.0,
        peer_read: view.peer_read.0,
        confirmed: view.confirmed.map(|seq| seq.0),
        delivered: view.delivered.0,
        read: view.read.0,
        own: view.own.0,
        epoch: view.epoch,
        blocked: view.blocked,
        newest_after: view.newest.as_ref().map(|newest| newest.after.0),
        newest: view.newest.map(|newest| newest.events).unwrap_or_default(),
    }
}

/// From another instance.
pub(crate) fn view(view: pb::ChatView) -> ChatView {
    ChatView {
        chat: ChatId(view.chat_id),
        kind: view.kind(),
        role: view.role(),
        created_by: UserId(view.created_by),
        created_at_ms: view.created_at_ms,
        head: Seq(view.head),
        count: view.count,
        members: view.member_count as usize,
        joined_seq: Seq(view.joined_seq),
        left_seq: Seq(view.left_seq),
        peer: (view.peer > 0).then_some(UserId(view.peer)),
        peer_delivered: Seq(view.peer_delivered),
        peer_read: Seq(view.peer_read),
        confirmed: view.confirmed.map(Seq),
        delivered: Seq(view.delivered),
        read: Seq(view.read),
        own: Seq(view.own),
        epoch: view.epoch,
        blocked: view.blocked,
        expired_upto: Seq::ZERO,
        newest: view.newest_after.map(|after| Newest { after: Seq(after), events: view.newest }),
        title: view.title,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> pb::Send {
        pb::Send {
            chat_id: 1,
            user_id: 1,
            device: "default".into(),
            message_id: vec![0; 16].into(),
            content: Some(Content { text: text.into(), ..Content::default() }),
            ..pb::Send::default()
        }
    }

    #[track_caller]
    fn refused(changed: pb::Send) -> &'static str {
        send(changed).expect_err("refused").field
    }

    #[test]
    fn a_send_is_refused_by_the_name_of_its_bad_field() {
        assert!(send(text("hello")).is_ok());
        assert!(send(text(&"x".repeat(TEXT_BYTES_MAX))).is_ok());
        assert_eq!(refused(text(&"x".repeat(TEXT_BYTES_MAX + 1))), "content");
        assert_eq!(refused(text("")), "content");
        assert_eq!(refused(pb::Send { chat_id: 0, ..text("x") }), "chat_id");
        assert_eq!(refused(pb::Send { chat_id: NUMBER_LIMIT, ..text("x") }), "chat_id");
        assert_eq!(refused(pb::Send { device: "a b".into(), ..text("x") }), "device");
        assert_eq!(refused(pb::Send { client_id: "é".repeat(65), ..text("x") }), "client_id");
        assert!(send(pb::Send { client_id: "é".repeat(64), ..text("x") }).is_ok());
        let with_url = |url: &str| {
            let content = Content { media_url: url.into(), ..Content::default() };
            pb::Send { content: Some(content), ..text("") }
        };
        assert!(send(with_url("https://example.org/a.jpg")).is_ok());
        assert_eq!(refused(with_url("http://example.org/a.jpg")), "media_url");
    }

    #[test]
    fn a_chat_counts_each_member_once_and_its_creator_too() {
        let request = |members: Vec<u64>| CreateChatRequest {
            user_id: 1,
            kind: ChatKind::Group.into(),
            member_ids: members,
            device: "default".into(),
            ..CreateChatRequest::default()
        };
        let made = create(request(vec![2, 2, 1]), MessageId([0; 16])).expect("a chat");
        assert_eq!(made.members, [UserId(1), UserId(2)]);
        assert!(create(request((2..=1_000).collect()), MessageId([0; 16])).is_ok());
        let refused = create(request((2..=1_001).collect()), MessageId([0; 16])).expect_err("too many");
        assert_eq!(refused.field, "members");
    }
}
