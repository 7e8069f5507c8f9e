//! Writing what clients are told. A frame is text that can be shared: one event is written once, however many get it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{Accepted, ChatKind, Event, Membership, MembershipKind, Role, event};
use confab_proto::presence::v1::{Presence, PresenceStatus};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use prost::Message as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::Code;

static TIMES: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// Unix milliseconds as RFC 3339, UTC, with milliseconds.
pub(crate) fn time(ms: i64) -> String {
    let mut text = String::with_capacity(24);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    // Writing to a string does not fail.
    let _written = TIMES.print_timestamp(&time, &mut text);
    text
}

fn as_time<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time(*ms))
}

pub(crate) fn uuid(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}

/// A frame as text.
pub(crate) fn text(frame: &impl Serialize) -> Utf8Bytes {
    // Structs of strings and numbers always serialize.
    serde_json::to_string(frame).unwrap_or_default().into()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum EventBody<'a> {
    Message {
        message_id: Uuid,
        chat_id: u64,
        sender_id: u64,
        content: &'a str,
        #[serde(serialize_with = "as_time")]
        created_at: i64,
        seq: u64,
        n: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        media_url: &'a str,
        #[serde(skip_serializing_if = "is_zero")]
        reply_to: u64,
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        mentions: &'a [u64],
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deleted: bool,
    },
    Edited {
        #[serde(flatten)]
        of: Change<'a>,
        /// Unless a later event has changed the message again.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<&'a str>,
    },
    Deleted {
        #[serde(flatten)]
        of: Change<'a>,
    },
    Reacted {
        #[serde(flatten)]
        of: Change<'a>,
        emoji: &'a str,
        removed: bool,
    },
    Chat {
        event: &'static str,
        message_id: Uuid,
        chat_id: u64,
        seq: u64,
        n: u64,
        by: u64,
        #[serde(serialize_with = "as_time")]
        created_at: i64,
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        user_ids: &'a [u64],
        #[serde(skip_serializing_if = "Option::is_none")]
        role: Option<&'static str>,
        members: u32,
    },
}

/// What all events say that name a message.
#[derive(Serialize)]
struct Change<'a> {
    message_id: Uuid,
    chat_id: u64,
    seq: u64,
    n: u64,
    target: u64,
    user_id: u64,
    #[serde(serialize_with = "as_time")]
    created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

/// An event as its frame; `own`: with what only the sender's devices see. `None`: a kind that this version doesn't know.
fn event_text(event: &Event, own: bool) -> Option<Utf8Bytes> {
    let client_id = (own && !event.client_id.is_empty()).then_some(event.client_id.as_str());
    let change = |target| Change {
        message_id: uuid(&event.message_id),
        chat_id: event.chat_id,
        seq: event.seq,
        n: event.count,
        target,
        user_id: event.sender_id,
        created_at: event.created_at_ms,
        client_id,
    };
    let body = match event.body.as_ref()? {
        event::Body::Edit(edit) => {
            EventBody::Edited { of: change(edit.target), content: (!edit.text.is_empty()).then_some(&edit.text) }
        }
        event::Body::Deletion(deletion) => EventBody::Deleted { of: change(deletion.target) },
        event::Body::Reaction(reaction) => {
            EventBody::Reacted { of: change(reaction.target), emoji: &reaction.emoji, removed: reaction.removed }
        }
        event::Body::Content(content) => EventBody::Message {
            message_id: uuid(&event.message_id),
            chat_id: event.chat_id,
            sender_id: event.sender_id,
            content: &content.text,
            created_at: event.created_at_ms,
            seq: event.seq,
            n: event.count,
            media_url: &content.media_url,
            reply_to: content.reply_to,
            mentions: &content.mentions,
            client_id,
            deleted: content.deleted,
        },
        event::Body::Membership(membership) => EventBody::Chat {
            event: membership_name(membership.kind())?,
            message_id: uuid(&event.message_id),
            chat_id: event.chat_id,
            seq: event.seq,
            n: event.count,
            by: event.sender_id,
            created_at: event.created_at_ms,
            kind: kind_name(membership.chat_kind()),
            title: (membership.kind() == MembershipKind::Renamed || !membership.title.is_empty())
                .then_some(&membership.title),
            user_ids: &membership.user_ids,
            role: (membership.kind() == MembershipKind::Role).then(|| role_name(membership.role())),
            members: membership.member_count,
        },
    };
    Some(text(&body))
}

/// `None`: a kind that this version doesn't know.
fn membership_name(kind: MembershipKind) -> Option<&'static str> {
    Some(match kind {
        MembershipKind::Created => "created",
        MembershipKind::Added => "added",
        MembershipKind::Removed => "removed",
        MembershipKind::Role => "role",
        MembershipKind::Renamed => "renamed",
        MembershipKind::Deleted => "deleted",
        MembershipKind::Unspecified => return None,
    })
}

pub(crate) fn role_name(role: Role) -> &'static str {
    if role == Role::Admin { "admin" } else { "member" }
}

pub(crate) fn kind_name(kind: ChatKind) -> &'static str {
    match kind {
        ChatKind::Direct => "direct",
        ChatKind::Group => "group",
        ChatKind::Unspecified => "unknown",
    }
}

/// One event on its way to clients: decoded once, written at most once for others and once for the sender's devices.
#[derive(Debug)]
pub(crate) struct EventFrame {
    event: Event,
    /// All seqs up to this one have reached their edges.
    pub settled: Seq,
    others: OnceLock<Option<Utf8Bytes>>,
    own: OnceLock<Option<Utf8Bytes>>,
}

impl EventFrame {
    /// An encoded event, as the log has it. `None`: damaged.
    pub(crate) fn decode(bytes: &[u8], settled: Seq) -> Option<Self> {
        let event = Event::decode(bytes).ok()?;
        Some(Self { event, settled, others: OnceLock::new(), own: OnceLock::new() })
    }

    pub(crate) fn chat(&self) -> ChatId {
        ChatId(self.event.chat_id)
    }

    pub(crate) fn seq(&self) -> Seq {
        Seq(self.event.seq)
    }

    pub(crate) fn message_id(&self) -> &[u8] {
        &self.event.message_id
    }

    /// What its sender's ack says.
    pub(crate) fn accepted(&self) -> Accepted {
        Accepted {
            chat_id: self.event.chat_id,
            seq: self.event.seq,
            message_id: self.event.message_id.clone(),
            created_at_ms: self.event.created_at_ms,
            duplicate: false,
        }
    }

    /// Bytes that its text takes, about.
    pub(crate) fn weight(&self) -> usize {
        match &self.event.body {
            Some(event::Body::Content(content)) => 256 + content.text.len() + content.media_url.len(),
            Some(event::Body::Membership(membership)) => 256 + membership.user_ids.len() * 8,
            Some(event::Body::Edit(edit)) => 256 + edit.text.len(),
            Some(event::Body::Deletion(_) | event::Body::Reaction(_)) | None => 256,
        }
    }

    /// The frame for one of `user`'s connections.
    pub(crate) fn text_for(&self, user: UserId) -> Option<Utf8Bytes> {
        if self.event.sender_id == user.0 {
            self.own.get_or_init(|| event_text(&self.event, true)).clone()
        } else {
            self.others.get_or_init(|| event_text(&self.event, false)).clone()
        }
    }

    fn membership(&self) -> Option<&Membership> {
        match &self.event.body {
            Some(event::Body::Membership(membership)) => Some(membership),
            _ => None,
        }
    }

    /// The chat begins with it for `user`: nothing before it is theirs to see.
    pub(crate) fn introduces(&self, user: UserId) -> bool {
        self.membership().is_some_and(|membership| match membership.kind() {
            MembershipKind::Created => true,
            MembershipKind::Added => membership.user_ids.contains(&user.0),
            _ => false,
        })
    }

    /// The chat ends with it for `user`: they have left, or it is deleted.
    pub(crate) fn removes(&self, user: UserId) -> bool {
        self.membership().is_some_and(|membership| match membership.kind() {
            MembershipKind::Deleted => true,
            MembershipKind::Removed => membership.user_ids.contains(&user.0),
            _ => false,
        })
    }
}

/// What a client is told at once, beside events.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerFrame<'a> {
    Hello {
        session_id: Uuid,
        user_id: u64,
        device: &'a str,
        heartbeat_ms: u64,
        limits: Limits,
        #[serde(serialize_with = "as_time")]
        server_time: i64,
    },
    Ack {
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
        message_id: Uuid,
        chat_id: u64,
        seq: u64,
        #[serde(serialize_with = "as_time")]
        created_at: i64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace_id: Option<&'a str>,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    },
    Receipt {
        chat_id: u64,
        user_id: u64,
        delivered: u64,
        read: u64,
    },
    /// In a chat with many members.
    #[serde(rename = "receipt")]
    ReceiptCounts {
        chat_id: u64,
        seq: u64,
        delivered_by: u32,
        read_by: u32,
        members: u32,
    },
    Typing {
        chat_id: u64,
        user_id: u64,
    },
    Presence {
        user_id: u64,
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_seen: Option<String>,
    },
    History {
        chat_id: u64,
        events: Vec<Box<RawValue>>,
        more: bool,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    },
    Gap {
        chat_id: u64,
        from: u64,
        to: u64,
    },
    Synced {
        chats: &'a BTreeMap<u64, u64>,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    },
    Pong {
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    },
    Authed {
        #[serde(serialize_with = "as_time")]
        expires_at: i64,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    },
    Error {
        code: Code,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
        retryable: bool,
        retry_after_ms: Option<u32>,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a str>,
    },
    Reconnect {
        after_ms: u64,
    },
}

/// What `hello` says of bounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Limits {
    pub content_bytes: usize,
    pub frame_bytes: usize,
    pub watch_max: usize,
    pub chats_max: usize,
}

/// A presence as its frame. `None`: not known, which is not told.
pub(crate) fn presence(presence: &Presence) -> Option<Utf8Bytes> {
    let status = match presence.status() {
        PresenceStatus::Online => "online",
        PresenceStatus::Offline => "offline",
        PresenceStatus::Unspecified => return None,
    };
    let last_seen = (presence.last_seen_ms > 0).then(|| time(presence.last_seen_ms));
    Some(text(&ServerFrame::Presence { user_id: presence.user_id, status, last_seen }))
}

/// Encoded events as the frames that `history` holds, for one user.
pub(crate) fn events(encoded: &[bytes::Bytes], user: UserId) -> Vec<Box<RawValue>> {
    let frames = encoded.iter().filter_map(|bytes| EventFrame::decode(bytes, Seq::ZERO));
    let texts = frames.filter_map(|frame| frame.text_for(user));
    texts.filter_map(|text| RawValue::from_string(text.as_str().to_owned()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::message::v1::{self as pb, Content, Deletion, Edit, Reaction};

    fn event() -> Event {
        Event {
            chat_id: 12_345,
            seq: 41,
            message_id: vec![7; 16].into(),
            sender_id: 67_890,
            client_id: "c-1".into(),
            created_at_ms: 1_700_000_000_123,
            count: 40,
            body: Some(event::Body::Content(Content { text: "Hello!".into(), ..Content::default() })),
            ..Event::default()
        }
    }

    #[test]
    fn a_message_looks_as_the_protocol_says_and_keeps_the_senders_key_to_the_sender() {
        let frame = EventFrame::decode(&event().encode_to_vec(), Seq::ZERO).expect("an event");
        let others = frame.text_for(UserId(1)).expect("a frame");
        assert_eq!(
            others.as_str(),
            r#"{"type":"message","message_id":"07070707-0707-0707-0707-070707070707","chat_id":12345,"sender_id":67890,"content":"Hello!","created_at":"2023-11-14T22:13:20.123Z","seq":41,"n":40}"#
        );
        let own = frame.text_for(UserId(67_890)).expect("a frame");
        assert!(own.as_str().ends_with(r#""client_id":"c-1"}"#), "{own}");
    }

    #[test]
    fn what_names_a_message_says_which() {
        let of = |body| {
            let event = Event { body: Some(body), ..event() };
            let frame = EventFrame::decode(&event.encode_to_vec(), Seq::ZERO).expect("an event");
            frame.text_for(UserId(1)).expect("a frame").as_str().to_owned()
        };
        let common = r#""message_id":"07070707-0707-0707-0707-070707070707","chat_id":12345,"seq":41,"n":40,"target":7,"user_id":67890,"created_at":"2023-11-14T22:13:20.123Z""#;
        let edit = |text: &str| event::Body::Edit(Edit { target: 7, text: text.into(), rows: vec![vec![1].into()] });
        assert_eq!(of(edit("new")), format!(r#"{{"type":"edited",{common},"content":"new"}}"#));
        assert_eq!(of(edit("")), format!(r#"{{"type":"edited",{common}}}"#));
        let deletion = event::Body::Deletion(Deletion { target: 7, rows: Vec::new() });
        assert_eq!(of(deletion), format!(r#"{{"type":"deleted",{common}}}"#));
        let reaction = event::Body::Reaction(Reaction { target: 7, emoji: "👍".into(), removed: false });
        assert_eq!(of(reaction), format!(r#"{{"type":"reacted",{common},"emoji":"👍","removed":false}}"#));
    }

    #[test]
    fn what_changes_a_group_says_how() {
        let of = |membership: Membership| {
            let chat_kind = pb::ChatKind::Group.into();
            let body = event::Body::Membership(Membership { chat_kind, member_count: 3, ..membership });
            let event = Event { body: Some(body), ..event() };
            let frame = EventFrame::decode(&event.encode_to_vec(), Seq::ZERO).expect("an event");
            let text = frame.text_for(UserId(1)).expect("a frame").as_str().to_owned();
            let (event, rest) = text.split_once(r#","message_id""#).expect("the event first");
            let (_, what) = rest.split_once(r#""kind":"group","#).expect("the kind");
            format!("{event} {what}")
        };
        let kind = |kind: MembershipKind| Membership { kind: kind.into(), ..Membership::default() };
        let removed = Membership { user_ids: vec![7], ..kind(MembershipKind::Removed) };
        assert_eq!(of(removed), r#"{"type":"chat","event":"removed" "user_ids":[7],"members":3}"#);
        let role = Membership { user_ids: vec![7], role: Role::Admin.into(), ..kind(MembershipKind::Role) };
        assert_eq!(of(role), r#"{"type":"chat","event":"role" "user_ids":[7],"role":"admin","members":3}"#);
        assert_eq!(of(kind(MembershipKind::Renamed)), r#"{"type":"chat","event":"renamed" "title":"","members":3}"#);
        assert_eq!(of(kind(MembershipKind::Deleted)), r#"{"type":"chat","event":"deleted" "members":3}"#);
    }

    #[test]
    fn times_have_three_digits_even_where_they_are_zero() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
    }
}
