//! Events of a chat as frames: one event is decoded once, and written once for each way that clients speak, however many get it.

use std::sync::OnceLock;

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::client::v1 as wire;
use confab_proto::message::v1::{Accepted, Event, Membership, MembershipKind, event};
use prost::Message as _;
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use super::server::{as_time, kind_name, role_name, text, uuid};
use super::{Frame, Wire, binary};

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum EventBody<'a> {
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
pub(super) struct Change<'a> {
    pub message_id: Uuid,
    pub chat_id: u64,
    pub seq: u64,
    pub n: u64,
    pub target: u64,
    pub user_id: u64,
    #[serde(serialize_with = "as_time")]
    pub created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a str>,
}

/// `own`: with what only the sender's devices see. `None`: a kind that this version doesn't know.
fn body(event: &Event, own: bool) -> Option<EventBody<'_>> {
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
    Some(match event.body.as_ref()? {
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
    })
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

/// One event on its way to clients: decoded once, and written at most once for others and once for the sender's devices, in JSON and in
/// protobuf.
#[derive(Debug)]
pub(crate) struct EventFrame {
    event: Event,
    /// All seqs up to this one have reached their edges.
    pub settled: Seq,
    others: Written,
    own: Written,
}

/// Few connections speak in protobuf: what is written for them is boxed.
#[derive(Debug, Default)]
struct Written {
    json: OnceLock<Option<Frame>>,
    proto: OnceLock<Option<Box<Frame>>>,
}

impl EventFrame {
    /// An encoded event, as the log has it. `None`: damaged.
    pub(crate) fn decode(bytes: &[u8], settled: Seq) -> Option<Self> {
        let event = Event::decode(bytes).ok()?;
        Some(Self { event, settled, others: Written::default(), own: Written::default() })
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
    pub(crate) fn frame_for(&self, user: UserId, wire: Wire) -> Option<Frame> {
        let own = self.event.sender_id == user.0;
        let written = if own { &self.own } else { &self.others };
        let body = || body(&self.event, own);
        match wire {
            Wire::Json => written.json.get_or_init(|| body().map(|body| Frame::Text(text(&body)))).clone(),
            Wire::Proto => {
                let frame = || body().map(|body| Box::new(Frame::Binary(encoded(&body))));
                written.proto.get_or_init(frame).as_deref().cloned()
            }
        }
    }

    /// The same as a part of another answer.
    pub(crate) fn json_for(&self, user: UserId) -> Option<Value> {
        // Structs of strings and numbers always serialize.
        serde_json::to_value(self.body_for(user)?).ok()
    }

    fn body_for(&self, user: UserId) -> Option<EventBody<'_>> {
        body(&self.event, self.event.sender_id == user.0)
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

fn encoded(body: &EventBody<'_>) -> Bytes {
    binary::event(body).encode_to_vec().into()
}

/// Events as one user sees them.
#[derive(Debug)]
pub(crate) struct Shown {
    events: Vec<EventFrame>,
    user: UserId,
}

impl Shown {
    /// Encoded events, as a log has them.
    pub(crate) fn new(encoded: &[Bytes], user: UserId) -> Self {
        Self { events: encoded.iter().filter_map(|bytes| EventFrame::decode(bytes, Seq::ZERO)).collect(), user }
    }

    fn bodies(&self) -> impl Iterator<Item = EventBody<'_>> {
        self.events.iter().filter_map(|frame| frame.body_for(self.user))
    }

    pub(super) fn wire(&self) -> Vec<wire::ServerFrame> {
        self.bodies().map(|body| binary::event(&body)).collect()
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        self.bodies().try_for_each(|body| list.serialize_element(&body))?;
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::message::v1::{self as pb, Content, Deletion, Edit, Reaction, Role};

    fn json(frame: &EventFrame, user: u64) -> String {
        match frame.frame_for(UserId(user), Wire::Json).expect("a frame") {
            Frame::Text(text) => text.as_str().to_owned(),
            Frame::Binary(_) => panic!("not JSON"),
        }
    }

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
        let others = json(&frame, 1);
        assert_eq!(
            others,
            r#"{"type":"message","message_id":"07070707-0707-0707-0707-070707070707","chat_id":12345,"sender_id":67890,"content":"Hello!","created_at":"2023-11-14T22:13:20.123Z","seq":41,"n":40}"#
        );
        let own = json(&frame, 67_890);
        assert!(own.ends_with(r#""client_id":"c-1"}"#), "{own}");
    }

    #[test]
    fn what_names_a_message_says_which() {
        let of = |body| {
            let event = Event { body: Some(body), ..event() };
            let frame = EventFrame::decode(&event.encode_to_vec(), Seq::ZERO).expect("an event");
            json(&frame, 1)
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
            let text = json(&frame, 1);
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
}
