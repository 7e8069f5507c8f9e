//! `confab.v1.proto` for tests: what is said in JSON goes out in protobuf, and what comes in protobuf is shown as JSON has it, so that a
//! test that reads like the protocol runs in both.

use anyhow::{Context as _, bail};
use confab_proto::client::v1::client_frame::Frame as Said;
use confab_proto::client::v1::server_frame::Frame as Told;
use confab_proto::client::v1::{self as wire, ClientFrame, ServerFrame};
use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A client's frame in protobuf.
///
/// # Errors
/// If it is of an unknown type, or a field is not of its type.
pub(super) fn encode(frame: &Value) -> anyhow::Result<Vec<u8>> {
    let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| frame[name].as_u64().unwrap_or_default();
    let numbers =
        |name: &str| -> Vec<u64> { frame[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect() };
    let chat_id = number("chat_id");
    let message_id = match frame["message_id"].as_str() {
        Some(id) => Uuid::parse_str(id)?.as_bytes().to_vec().into(),
        None => Vec::new().into(),
    };
    let said = match frame["type"].as_str().context("a frame without a type")? {
        "message" => Said::Message(wire::SendFrame {
            chat_id,
            content: text("content"),
            media_url: text("media_url"),
            client_id: text("client_id"),
            reply_to: number("reply_to"),
            mentions: numbers("mentions"),
        }),
        "delivered" => Said::Delivered(wire::DeliveredFrame { chat_id, seq: number("seq"), message_id }),
        "read" => Said::Read(wire::ReadFrame { chat_id, seq: number("seq"), message_id }),
        "sync" => {
            let chats = frame["chats"].as_object().cloned().unwrap_or_default();
            let chats = chats.iter().map(|(chat, seq)| Ok((chat.parse()?, seq.as_u64().context("a seq")?)));
            Said::Sync(wire::SyncFrame { chats: chats.collect::<anyhow::Result<_>>()? })
        }
        "history" => {
            let limit = u32::try_from(number("limit"))?;
            Said::History(wire::HistoryFrame { chat_id, before: number("before"), limit })
        }
        "watch" => Said::Watch(wire::WatchFrame { user_ids: numbers("user_ids") }),
        "unwatch" => Said::Unwatch(wire::UnwatchFrame { user_ids: numbers("user_ids") }),
        "ping" => Said::Ping(wire::PingFrame {}),
        "auth" => Said::Auth(wire::AuthFrame { token: text("token") }),
        "edit" => Said::Edit(wire::EditFrame {
            chat_id,
            target: number("target"),
            content: text("content"),
            client_id: text("client_id"),
        }),
        "delete" => Said::Delete(wire::DeleteFrame { chat_id, target: number("target"), client_id: text("client_id") }),
        "react" => Said::React(wire::ReactFrame {
            chat_id,
            target: number("target"),
            emoji: text("emoji"),
            remove: frame["remove"].as_bool().unwrap_or_default(),
            client_id: text("client_id"),
        }),
        "typing" => Said::Typing(wire::TypingFrame { chat_id }),
        other => bail!("protobuf has no {other}"),
    };
    let frame = ClientFrame { r#ref: text("ref"), traceparent: text("traceparent"), frame: Some(said) };
    Ok(frame.encode_to_vec())
}

/// A server's frame as JSON has it.
///
/// # Errors
/// If it can't be read.
pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<Value> {
    shown(ServerFrame::decode(bytes).context("not a ServerFrame")?)
}

/// Without what isn't there.
struct Fields(Map<String, Value>);

impl Fields {
    fn new(kind: &str) -> Self {
        Self(Map::from_iter([("type".to_owned(), json!(kind))]))
    }

    fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn text(self, name: &str, text: String) -> Self {
        if text.is_empty() { self } else { self.set(name, text) }
    }

    fn number(self, name: &str, number: u64) -> Self {
        if number == 0 { self } else { self.set(name, number) }
    }

    fn flag(self, name: &str, flag: bool) -> Self {
        if flag { self.set(name, true) } else { self }
    }

    fn id(self, bytes: &[u8]) -> anyhow::Result<Self> {
        Ok(self.set("message_id", Uuid::from_slice(bytes)?.to_string()))
    }

    fn time(self, name: &str, ms: i64) -> anyhow::Result<Self> {
        Ok(self.set(name, format!("{:.3}", Timestamp::from_millisecond(ms)?)))
    }

    fn change(self, of: Option<wire::ChangeOf>) -> anyhow::Result<Self> {
        let of = of.context("a change of nothing")?;
        let fields = self.id(&of.message_id)?.set("chat_id", of.chat_id).set("seq", of.seq).set("n", of.n);
        let fields = fields.set("target", of.target).set("user_id", of.user_id).time("created_at", of.created_at)?;
        Ok(fields.text("client_id", of.client_id))
    }
}

fn shown(frame: ServerFrame) -> anyhow::Result<Value> {
    let fields = match frame.frame.context("a frame of an unknown type")? {
        Told::Hello(hello) => {
            let limits = hello.limits.context("no limits")?;
            let limits = json!({
                "content_bytes": limits.content_bytes,
                "frame_bytes": limits.frame_bytes,
                "watch_max": limits.watch_max,
                "chats_max": limits.chats_max,
            });
            let fields = Fields::new("hello").set("session_id", hello.session_id).set("user_id", hello.user_id);
            let fields =
                fields.set("device", hello.device).set("heartbeat_ms", hello.heartbeat_ms).set("limits", limits);
            fields.time("server_time", hello.server_time)?
        }
        Told::Ack(ack) => {
            let fields = Fields::new("ack").text("client_id", ack.client_id).id(&ack.message_id)?;
            let fields = fields.set("chat_id", ack.chat_id).set("seq", ack.seq).time("created_at", ack.created_at)?;
            fields.flag("duplicate", ack.duplicate).text("trace_id", ack.trace_id)
        }
        Told::Error(error) => {
            let fields = Fields::new("error").set("code", error.code).set("message", error.message);
            let fields = fields.text("field", error.field).text("client_id", error.client_id);
            let retry = (error.retry_after_ms > 0).then_some(error.retry_after_ms);
            fields.set("retryable", error.retryable).set("retry_after_ms", json!(retry))
        }
        Told::Message(message) => {
            let fields = Fields::new("message").id(&message.message_id)?.set("chat_id", message.chat_id);
            let fields = fields.set("sender_id", message.sender_id).set("content", message.content);
            let fields = fields.time("created_at", message.created_at)?.set("seq", message.seq).set("n", message.n);
            let fields = fields.text("media_url", message.media_url).number("reply_to", message.reply_to);
            let fields = match message.mentions.is_empty() {
                true => fields,
                false => fields.set("mentions", message.mentions),
            };
            fields.text("client_id", message.client_id).flag("deleted", message.deleted)
        }
        Told::Edited(edited) => Fields::new("edited").change(edited.of)?.text("content", edited.content),
        Told::Deleted(deleted) => Fields::new("deleted").change(deleted.of)?,
        Told::Reacted(reacted) => {
            let fields = Fields::new("reacted").change(reacted.of)?.set("emoji", reacted.emoji);
            fields.set("removed", reacted.removed)
        }
        Told::Chat(chat) => {
            let fields =
                Fields::new("chat").set("event", chat.event).id(&chat.message_id)?.set("chat_id", chat.chat_id);
            let fields = fields.set("seq", chat.seq).set("n", chat.n).set("by", chat.by);
            let fields = fields.time("created_at", chat.created_at)?.set("kind", chat.kind);
            let fields = match chat.title {
                Some(title) => fields.set("title", title),
                None => fields,
            };
            let fields = match chat.user_ids.is_empty() {
                true => fields,
                false => fields.set("user_ids", chat.user_ids),
            };
            fields.text("role", chat.role).set("members", chat.members)
        }
        Told::Receipt(counts) if counts.members > 0 => {
            let fields = Fields::new("receipt").set("chat_id", counts.chat_id).set("seq", counts.seq);
            let fields = fields.set("delivered_by", counts.delivered_by).set("read_by", counts.read_by);
            fields.set("members", counts.members)
        }
        Told::Receipt(receipt) => {
            let fields = Fields::new("receipt").set("chat_id", receipt.chat_id).set("user_id", receipt.user_id);
            fields.set("delivered", receipt.delivered).set("read", receipt.read)
        }
        Told::Presence(presence) => {
            let fields = Fields::new("presence").set("user_id", presence.user_id).set("status", presence.status);
            match presence.last_seen {
                0 => fields,
                ms => fields.time("last_seen", ms)?,
            }
        }
        Told::Typing(typing) => Fields::new("typing").set("chat_id", typing.chat_id).set("user_id", typing.user_id),
        Told::History(history) => {
            let events = history.events.into_iter().map(shown).collect::<anyhow::Result<Vec<Value>>>()?;
            Fields::new("history").set("chat_id", history.chat_id).set("events", events).set("more", history.more)
        }
        Told::Gap(gap) => Fields::new("gap").set("chat_id", gap.chat_id).set("from", gap.from).set("to", gap.to),
        Told::Synced(synced) => {
            let chats: Map<String, Value> =
                synced.chats.into_iter().map(|(chat, seq)| (chat.to_string(), json!(seq))).collect();
            Fields::new("synced").set("chats", chats)
        }
        Told::Pong(_) => Fields::new("pong"),
        Told::Authed(authed) => Fields::new("authed").time("expires_at", authed.expires_at)?,
        Told::Reconnect(reconnect) => Fields::new("reconnect").set("after_ms", reconnect.after_ms),
    };
    Ok(Value::Object(fields.text("ref", frame.r#ref).0))
}
