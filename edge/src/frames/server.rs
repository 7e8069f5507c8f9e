//! Writing what clients are told beside events.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use confab_proto::message::v1::{Accepted, ChatKind, Role};
use confab_proto::presence::v1::{Presence, PresenceStatus};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Serialize, Serializer};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::event::Shown;
use super::{Code, Frame, Wire, binary};

static TIMES: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// Unix milliseconds as RFC 3339, UTC, with milliseconds.
pub(crate) fn time(ms: i64) -> String {
    let mut text = String::with_capacity(24);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    // Writing to a string does not fail.
    let _written = TIMES.print_timestamp(&time, &mut text);
    text
}

pub(super) fn as_time<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time(*ms))
}

fn as_time_if_any<S: Serializer>(ms: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    ms.map(time).serialize(serializer)
}

pub(crate) fn uuid(bytes: &[u8]) -> Uuid {
    Uuid::from_slice(bytes).unwrap_or_default()
}

/// A frame as text.
pub(crate) fn text(frame: &impl Serialize) -> Utf8Bytes {
    // Structs of strings and numbers always serialize.
    serde_json::to_string(frame).unwrap_or_default().into()
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

/// What a client is told.
#[derive(Debug, Serialize)]
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
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_time_if_any")]
        last_seen: Option<i64>,
    },
    History {
        chat_id: u64,
        events: Shown,
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

/// `None`: not known.
pub(crate) fn presence_name(status: PresenceStatus) -> Option<&'static str> {
    match status {
        PresenceStatus::Online => Some("online"),
        PresenceStatus::Offline => Some("offline"),
        PresenceStatus::Unspecified => None,
    }
}

/// A presence as its frame. `None`: not known, which is not told.
pub(crate) fn presence(presence: &Presence) -> Option<SharedFrame> {
    let status = presence_name(presence.status())?;
    let last_seen = (presence.last_seen_ms > 0).then_some(presence.last_seen_ms);
    Some(SharedFrame::new(ServerFrame::Presence { user_id: presence.user_id, status, last_seen }))
}

impl<'a> ServerFrame<'a> {
    pub(crate) fn ack(
        accepted: &Accepted,
        client_id: Option<&'a str>,
        trace_id: Option<&'a str>,
        reference: Option<&'a str>,
    ) -> Self {
        Self::Ack {
            client_id,
            message_id: uuid(&accepted.message_id),
            chat_id: accepted.chat_id,
            seq: accepted.seq,
            created_at: accepted.created_at_ms,
            duplicate: accepted.duplicate,
            trace_id,
            reference,
        }
    }

    pub(crate) fn write(&self, wire: Wire) -> Frame {
        match wire {
            Wire::Json => Frame::Text(text(self)),
            Wire::Proto => Frame::Binary(binary::encoded(self)),
        }
    }
}

/// Watermarks: they only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub delivered: u64,
    pub read: u64,
}

impl Marks {
    /// Whether these are of before `known`.
    pub(crate) fn is_behind(self, known: Self) -> bool {
        self.delivered < known.delivered || self.read < known.read
    }
}

/// What many are told: written once for each way that they speak.
#[derive(Debug)]
pub(crate) struct SharedFrame {
    frame: ServerFrame<'static>,
    json: OnceLock<Frame>,
    proto: OnceLock<Frame>,
}

impl SharedFrame {
    pub(crate) fn new(frame: ServerFrame<'static>) -> Self {
        Self { frame, json: OnceLock::new(), proto: OnceLock::new() }
    }

    /// Of a receipt: its watermarks.
    pub(crate) fn marks(&self) -> Marks {
        match self.frame {
            ServerFrame::Receipt { delivered, read, .. } => Marks { delivered, read },
            _ => Marks::default(),
        }
    }

    pub(crate) fn of(&self, wire: Wire) -> Frame {
        let written = match wire {
            Wire::Json => &self.json,
            Wire::Proto => &self.proto,
        };
        written.get_or_init(|| self.frame.write(wire)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_even_where_they_are_zero() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
    }
}
