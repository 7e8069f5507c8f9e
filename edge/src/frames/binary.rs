//! The protocol in protobuf (`confab.client.v1`), by the same fields and with the same checks as in JSON.

use bytes::Bytes;
use confab_proto::client::v1 as wire;
use confab_proto::client::v1::client_frame::Frame as Asked;
use confab_proto::client::v1::server_frame::Frame as Told;
use prost::Message as _;
use uuid::Uuid;

use super::Code;
use super::client::{self, BadFrame, Raw, Read};
use super::event::{Change, EventBody};
use super::server::{Limits, ServerFrame};

/// Reads one frame.
pub(crate) fn read(bytes: &[u8]) -> Read {
    match wire::ClientFrame::decode(bytes) {
        Ok(frame) => client::read_raw(raw(frame)),
        Err(_) => Read::nothing(BadFrame::new(Code::InvalidFrame, None, "not a confab.client.v1.ClientFrame")),
    }
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// In the place of 0, which is no seq: it isn't there.
fn place(seq: u64) -> Option<u64> {
    (seq > 0).then_some(seq)
}

/// As JSON has it. One that isn't 16 bytes is none there, either.
fn message_id(bytes: &[u8]) -> Option<String> {
    let id = Uuid::from_slice(bytes).map_or_else(|_| "not 16 bytes".to_owned(), |id| id.to_string());
    (!bytes.is_empty()).then_some(id)
}

fn raw(frame: wire::ClientFrame) -> Raw {
    let wire::ClientFrame { r#ref, traceparent, frame } = frame;
    Raw { reference: given(r#ref), traceparent: given(traceparent), ..fields(frame) }
}

fn fields(frame: Option<Asked>) -> Raw {
    let plain = |kind: &str| Raw { kind: Some(kind.to_owned()), ..Raw::default() };
    let of = |kind: &str, chat_id: u64| Raw { chat_id: Some(chat_id), ..plain(kind) };
    match frame {
        None => plain("of another version"),
        Some(Asked::Message(frame)) => Raw {
            content: Some(frame.content),
            media_url: given(frame.media_url),
            client_id: given(frame.client_id),
            reply_to: Some(frame.reply_to),
            mentions: Some(frame.mentions),
            ..of("message", frame.chat_id)
        },
        Some(Asked::Delivered(frame)) => {
            Raw { seq: place(frame.seq), message_id: message_id(&frame.message_id), ..of("delivered", frame.chat_id) }
        }
        Some(Asked::Read(frame)) => {
            Raw { seq: place(frame.seq), message_id: message_id(&frame.message_id), ..of("read", frame.chat_id) }
        }
        Some(Asked::Sync(frame)) => Raw { chats: Some(frame.chats.into_iter().collect()), ..plain("sync") },
        Some(Asked::History(frame)) => {
            Raw { before: Some(frame.before), limit: place(frame.limit.into()), ..of("history", frame.chat_id) }
        }
        Some(Asked::Watch(frame)) => Raw { user_ids: Some(frame.user_ids), ..plain("watch") },
        Some(Asked::Unwatch(frame)) => Raw { user_ids: Some(frame.user_ids), ..plain("unwatch") },
        Some(Asked::Ping(_)) => plain("ping"),
        Some(Asked::Auth(frame)) => Raw { token: Some(frame.token), ..plain("auth") },
        Some(Asked::Edit(frame)) => Raw {
            target: Some(frame.target),
            content: Some(frame.content),
            client_id: given(frame.client_id),
            ..of("edit", frame.chat_id)
        },
        Some(Asked::Delete(frame)) => {
            Raw { target: Some(frame.target), client_id: given(frame.client_id), ..of("delete", frame.chat_id) }
        }
        Some(Asked::React(frame)) => Raw {
            target: Some(frame.target),
            emoji: Some(frame.emoji),
            remove: Some(frame.remove),
            client_id: given(frame.client_id),
            ..of("react", frame.chat_id)
        },
        Some(Asked::Typing(frame)) => of("typing", frame.chat_id),
    }
}

fn told(reference: Option<&str>, frame: Told) -> wire::ServerFrame {
    wire::ServerFrame { r#ref: text(reference), frame: Some(frame) }
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn id(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(super) fn encoded(frame: &ServerFrame<'_>) -> Bytes {
    server(frame).encode_to_vec().into()
}

fn server(frame: &ServerFrame<'_>) -> wire::ServerFrame {
    match *frame {
        ServerFrame::Hello { session_id, user_id, device, heartbeat_ms, limits, server_time } => {
            let device = device.to_owned();
            let limits = Some(bounds(limits));
            let session_id = session_id.to_string();
            told(None, Told::Hello(wire::HelloFrame { session_id, user_id, device, heartbeat_ms, limits, server_time }))
        }
        ServerFrame::Ack { client_id, message_id, chat_id, seq, created_at, duplicate, trace_id, reference } => {
            let ack = wire::AckFrame {
                client_id: text(client_id),
                message_id: id(message_id),
                chat_id,
                seq,
                created_at,
                duplicate,
                trace_id: text(trace_id),
            };
            told(reference, Told::Ack(ack))
        }
        ServerFrame::Receipt { chat_id, user_id, delivered, read } => {
            let receipt = wire::ReceiptFrame { chat_id, user_id, delivered, read, ..wire::ReceiptFrame::default() };
            told(None, Told::Receipt(receipt))
        }
        ServerFrame::ReceiptCounts { chat_id, seq, delivered_by, read_by, members } => {
            let counts = wire::ReceiptFrame { seq, delivered_by, read_by, members, ..wire::ReceiptFrame::default() };
            told(None, Told::Receipt(wire::ReceiptFrame { chat_id, ..counts }))
        }
        ServerFrame::Typing { chat_id, user_id } => told(None, Told::Typing(wire::TypistFrame { chat_id, user_id })),
        ServerFrame::Presence { user_id, status, last_seen } => {
            let last_seen = last_seen.unwrap_or_default();
            told(None, Told::Presence(wire::PresenceFrame { user_id, status: status.to_owned(), last_seen }))
        }
        ServerFrame::History { chat_id, ref events, more, reference } => {
            told(reference, Told::History(wire::EventsFrame { chat_id, events: events.wire(), more }))
        }
        ServerFrame::Gap { chat_id, from, to } => told(None, Told::Gap(wire::GapFrame { chat_id, from, to })),
        ServerFrame::Synced { chats, reference } => {
            let chats = chats.iter().map(|(chat, seq)| (*chat, *seq)).collect();
            told(reference, Told::Synced(wire::SyncedFrame { chats }))
        }
        ServerFrame::Pong { reference } => told(reference, Told::Pong(wire::PongFrame {})),
        ServerFrame::Authed { expires_at, reference } => {
            told(reference, Told::Authed(wire::AuthedFrame { expires_at }))
        }
        ServerFrame::Error { code, message, field, client_id, retryable, retry_after_ms, reference } => {
            let error = wire::ErrorFrame {
                code: code.name().to_owned(),
                message: message.to_owned(),
                field: text(field),
                client_id: text(client_id),
                retryable,
                retry_after_ms: retry_after_ms.unwrap_or_default(),
            };
            told(reference, Told::Error(error))
        }
        ServerFrame::Reconnect { after_ms } => told(None, Told::Reconnect(wire::ReconnectFrame { after_ms })),
    }
}

fn bounds(limits: Limits) -> wire::FrameLimits {
    let number = |bound: usize| u64::try_from(bound).unwrap_or(u64::MAX);
    wire::FrameLimits {
        content_bytes: number(limits.content_bytes),
        frame_bytes: number(limits.frame_bytes),
        watch_max: number(limits.watch_max),
        chats_max: number(limits.chats_max),
    }
}

pub(super) fn event(body: &EventBody<'_>) -> wire::ServerFrame {
    let frame = match *body {
        EventBody::Message {
            message_id,
            chat_id,
            sender_id,
            content,
            created_at,
            seq,
            n,
            media_url,
            reply_to,
            mentions,
            client_id,
            deleted,
        } => Told::Message(wire::MessageFrame {
            message_id: id(message_id),
            chat_id,
            sender_id,
            content: content.to_owned(),
            created_at,
            seq,
            n,
            media_url: media_url.to_owned(),
            reply_to,
            mentions: mentions.to_vec(),
            client_id: text(client_id),
            deleted,
        }),
        EventBody::Edited { ref of, content } => {
            Told::Edited(wire::EditedFrame { of: Some(change(of)), content: text(content) })
        }
        EventBody::Deleted { ref of } => Told::Deleted(wire::DeletedFrame { of: Some(change(of)) }),
        EventBody::Reacted { ref of, emoji, removed } => {
            Told::Reacted(wire::ReactedFrame { of: Some(change(of)), emoji: emoji.to_owned(), removed })
        }
        EventBody::Chat {
            event,
            message_id,
            chat_id,
            seq,
            n,
            by,
            created_at,
            kind,
            title,
            user_ids,
            role,
            members,
        } => Told::Chat(wire::ChatFrame {
            event: event.to_owned(),
            message_id: id(message_id),
            chat_id,
            seq,
            n,
            by,
            created_at,
            kind: kind.to_owned(),
            title: title.map(str::to_owned),
            user_ids: user_ids.to_vec(),
            role: text(role),
            members,
        }),
    };
    told(None, frame)
}

fn change(of: &Change<'_>) -> wire::ChangeOf {
    wire::ChangeOf {
        message_id: id(of.message_id),
        chat_id: of.chat_id,
        seq: of.seq,
        n: of.n,
        target: of.target,
        user_id: of.user_id,
        created_at: of.created_at,
        client_id: text(of.client_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::client::{ClientFrame, Place};
    use confab_ids::{ChatId, Seq};

    fn bytes(frame: Asked) -> Vec<u8> {
        wire::ClientFrame { r#ref: "r".into(), traceparent: String::new(), frame: Some(frame) }.encode_to_vec()
    }

    /// The same frame in both ways is read as the same.
    #[test]
    fn a_frame_is_the_same_as_in_json() {
        let cases = [
            (
                Asked::Message(wire::SendFrame {
                    chat_id: 1,
                    content: "Hello!".into(),
                    client_id: "c".into(),
                    reply_to: 4,
                    mentions: vec![2],
                    ..wire::SendFrame::default()
                }),
                r#"{"type":"message","chat_id":1,"content":"Hello!","client_id":"c","reply_to":4,"mentions":[2]}"#,
            ),
            (
                Asked::Delivered(wire::DeliveredFrame { chat_id: 1, seq: 4, message_id: Bytes::new() }),
                r#"{"type":"delivered","chat_id":1,"seq":4}"#,
            ),
            (
                Asked::Read(wire::ReadFrame { chat_id: 1, seq: 0, message_id: vec![7; 16].into() }),
                r#"{"type":"read","chat_id":1,"message_id":"07070707-0707-0707-0707-070707070707"}"#,
            ),
            (
                Asked::Sync(wire::SyncFrame { chats: [(1, 2)].into_iter().collect() }),
                r#"{"type":"sync","chats":{"1":2}}"#,
            ),
            (
                Asked::History(wire::HistoryFrame { chat_id: 1, before: 0, limit: 0 }),
                r#"{"type":"history","chat_id":1}"#,
            ),
            (Asked::Watch(wire::WatchFrame { user_ids: vec![2] }), r#"{"type":"watch","user_ids":[2]}"#),
            (Asked::Unwatch(wire::UnwatchFrame { user_ids: vec![2] }), r#"{"type":"unwatch","user_ids":[2]}"#),
            (Asked::Ping(wire::PingFrame {}), r#"{"type":"ping"}"#),
            (Asked::Auth(wire::AuthFrame { token: "t".into() }), r#"{"type":"auth","token":"t"}"#),
            (
                Asked::Edit(wire::EditFrame { chat_id: 1, target: 3, content: "x".into(), client_id: "c".into() }),
                r#"{"type":"edit","chat_id":1,"target":3,"content":"x","client_id":"c"}"#,
            ),
            (
                Asked::Delete(wire::DeleteFrame { chat_id: 1, target: 3, client_id: String::new() }),
                r#"{"type":"delete","chat_id":1,"target":3}"#,
            ),
            (
                Asked::React(wire::ReactFrame {
                    chat_id: 1,
                    target: 3,
                    emoji: "+".into(),
                    remove: true,
                    client_id: String::new(),
                }),
                r#"{"type":"react","chat_id":1,"target":3,"emoji":"+","remove":true}"#,
            ),
            (Asked::Typing(wire::TypingFrame { chat_id: 1 }), r#"{"type":"typing","chat_id":1}"#),
        ];
        for (frame, json) in cases {
            let read = read(&bytes(frame));
            assert_eq!(read.frame, client::read(json).frame, "{json}");
            assert_eq!(read.reference.as_deref(), Some("r"));
        }
    }

    #[test]
    fn what_is_wrong_is_named_as_in_json() {
        let field = |frame| read(&bytes(frame)).frame.map_err(|bad| (bad.code, bad.field));
        let typing = wire::TypingFrame { chat_id: 0 };
        assert_eq!(field(Asked::Typing(typing)), Err((Code::InvalidFrame, Some("chat_id"))));
        let short = wire::ReadFrame { chat_id: 1, seq: 0, message_id: vec![7; 15].into() };
        assert_eq!(field(Asked::Read(short)), Err((Code::InvalidFrame, Some("message_id"))));
        let nothing = wire::DeliveredFrame { chat_id: 1, ..wire::DeliveredFrame::default() };
        assert_eq!(field(Asked::Delivered(nothing)), Err((Code::InvalidFrame, Some("seq"))));
        let unknown = read(&wire::ClientFrame::default().encode_to_vec()).frame;
        assert_eq!(unknown.map_err(|bad| bad.code), Err(Code::UnknownType));
        assert_eq!(read(b"\xff\xff").frame.map_err(|bad| bad.code), Err(Code::InvalidFrame));
        let seq = wire::DeliveredFrame { chat_id: 1, seq: 9, message_id: Bytes::new() };
        let expected = ClientFrame::Delivered { chat: ChatId(1), at: Place::Seq(Seq(9)) };
        assert_eq!(field(Asked::Delivered(seq)), Ok(expected));
    }
}
