//! The frames of full mode that this client speaks and understands; what it doesn't know it ignores. See `docs/protocol.md`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ClientFrame {
    Message {
        chat_id: u64,
        client_id: String,
        content: String,
    },
    Delivered {
        chat_id: u64,
        seq: u64,
    },
    Read {
        chat_id: u64,
        seq: u64,
    },
    Sync {
        chats: BTreeMap<u64, u64>,
    },
    History {
        chat_id: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        limit: u32,
        #[serde(rename = "ref")]
        reference: &'static str,
    },
    Watch {
        user_ids: Vec<u64>,
    },
    Auth {
        token: String,
    },
}

/// What takes a `seq` in a chat.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Event {
    pub(crate) chat_id: u64,
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) created_at: Timestamp,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum What {
    Message {
        sender_id: u64,
        #[serde(default)]
        content: String,
        media_url: Option<String>,
        client_id: Option<String>,
        #[serde(default)]
        deleted: bool,
    },
    Edited {
        user_id: u64,
        target: u64,
        /// None: it was changed again.
        content: Option<String>,
    },
    Deleted {
        user_id: u64,
        target: u64,
    },
    Reacted {
        user_id: u64,
        target: u64,
        emoji: String,
        #[serde(default)]
        removed: bool,
    },
    Chat {
        event: String,
        by: u64,
        #[serde(default)]
        user_ids: Vec<u64>,
        #[serde(default)]
        title: String,
        #[serde(default)]
        role: String,
    },
    /// Of a later version: its seq still counts.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerFrame {
    Hello {
        limits: Limits,
    },
    Ack {
        client_id: Option<String>,
        chat_id: u64,
        seq: u64,
        created_at: Timestamp,
    },
    Receipt(Receipt),
    Presence {
        user_id: u64,
        status: String,
        last_seen: Option<Timestamp>,
    },
    Typing {
        chat_id: u64,
        user_id: u64,
    },
    History {
        chat_id: u64,
        events: Vec<Event>,
        more: bool,
    },
    Gap {
        chat_id: u64,
        from: u64,
        to: u64,
    },
    Synced {},
    Error(Refusal),
    Reconnect {
        after_ms: u64,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Limits {
    pub(crate) watch_max: usize,
}

/// Watermarks: of one member, or in a large chat how many members have got how far.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(crate) enum Receipt {
    Member { chat_id: u64, user_id: u64, delivered: u64, read: u64 },
    Many { chat_id: u64, seq: u64, delivered_by: u64, read_by: u64, members: u64 },
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) client_id: Option<String>,
    #[serde(default)]
    pub(crate) retryable: bool,
    pub(crate) retry_after_ms: Option<u64>,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    Event(Event),
    Frame(ServerFrame),
}

/// Reads a frame; `None`: not one that this version understands.
pub(crate) fn read(text: &str) -> Option<Incoming> {
    let value: Value = serde_json::from_str(text).ok()?;
    let kind = value.get("type")?.as_str()?;
    // Answers and receipts have seqs, too, but are no events.
    let event =
        value.get("seq").is_some() && value.get("chat_id").is_some() && !["ack", "receipt", "error"].contains(&kind);
    if event {
        serde_json::from_value(value).ok().map(Incoming::Event)
    } else {
        serde_json::from_value(value).ok().map(Incoming::Frame)
    }
}

impl ClientFrame {
    pub(crate) fn text(&self) -> String {
        // Numbers, strings and maps with integer keys always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_the_protocol_has_them() {
        let text = |frame: ClientFrame| frame.text();
        assert_eq!(
            text(ClientFrame::Message { chat_id: 1, client_id: "c".to_owned(), content: "Hello!".to_owned() }),
            r#"{"type":"message","chat_id":1,"client_id":"c","content":"Hello!"}"#
        );
        assert_eq!(text(ClientFrame::Sync { chats: BTreeMap::from([(1, 40)]) }), r#"{"type":"sync","chats":{"1":40}}"#);
        assert_eq!(
            text(ClientFrame::History { chat_id: 1, before: None, limit: 20, reference: "r" }),
            r#"{"type":"history","chat_id":1,"limit":20,"ref":"r"}"#
        );
    }

    #[test]
    fn events_are_told_from_answers() {
        let message = r#"{"type":"message","message_id":"x","chat_id":1,"sender_id":2,"content":"Hello!","created_at":"2026-11-24T12:03:04.000Z","seq":7,"n":6}"#;
        let Some(Incoming::Event(event)) = read(message) else { panic!("an event") };
        assert_eq!(event.seq, 7);
        assert!(
            matches!(event.what, What::Message { sender_id: 2, ref content, client_id: None, .. } if content == "Hello!")
        );
        let ack = r#"{"type":"ack","client_id":"c","message_id":"x","chat_id":1,"seq":7,"created_at":"2026-11-24T12:03:04.000Z"}"#;
        assert!(matches!(read(ack), Some(Incoming::Frame(ServerFrame::Ack { seq: 7, .. }))));
    }

    #[test]
    fn both_kinds_of_receipts() {
        let one = r#"{"type":"receipt","chat_id":1,"user_id":2,"delivered":41,"read":40}"#;
        assert!(matches!(
            read(one),
            Some(Incoming::Frame(ServerFrame::Receipt(Receipt::Member { user_id: 2, delivered: 41, .. })))
        ));
        let many = r#"{"type":"receipt","chat_id":1,"seq":9,"delivered_by":830,"read_by":512,"members":1000}"#;
        assert!(matches!(
            read(many),
            Some(Incoming::Frame(ServerFrame::Receipt(Receipt::Many { delivered_by: 830, .. })))
        ));
    }

    #[test]
    fn what_a_later_version_says_is_no_error() {
        assert_eq!(read(r#"{"type":"confetti","amount":3}"#), Some(Incoming::Frame(ServerFrame::Unknown)));
        let Some(Incoming::Event(event)) = read(r#"{"type":"poll","chat_id":1,"seq":8,"options":[]}"#) else {
            panic!("an event")
        };
        assert_eq!((event.seq, event.what), (8, What::Unknown));
        assert_eq!(read("not JSON"), None);
        let synced = r#"{"type":"synced","chats":{"1":41},"new":true}"#;
        assert_eq!(read(synced), Some(Incoming::Frame(ServerFrame::Synced {})));
    }
}
