//! Reading a client's text frame.
//!
//! A good frame is read in one pass into [`Raw`]. Only a bad one is looked at again, as a tree, to name the field that is
//! wrong.

use std::collections::BTreeMap;

use confab_ids::{ChatId, MessageId, NUMBER_LIMIT, Seq, UserId};
use confab_proto::limits::{CLIENT_ID_CHARS_MAX, EMOJI_BYTES_MAX, MEDIA_URL_BYTES_MAX, MENTIONS_MAX, TEXT_BYTES_MAX};
use confab_proto::message::v1::{Content, Deletion, Edit, Mark, Reaction, Send};
use serde::Deserialize;
use serde_json::Value;

use super::Code;

const REF_MAX: usize = 64;
const HISTORY_MAX: u64 = 200;
const HISTORY_DEFAULT: u32 = 50;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ClientFrame {
    /// What takes a seq. Who sends it, and its id, are the session's to say.
    Send(Box<Send>),
    Delivered {
        chat: ChatId,
        at: Place,
    },
    Read {
        chat: ChatId,
        at: Place,
    },
    Sync {
        positions: BTreeMap<u64, u64>,
    },
    History {
        chat: ChatId,
        before: Seq,
        limit: u32,
    },
    Watch {
        users: Vec<UserId>,
    },
    Unwatch {
        users: Vec<UserId>,
    },
    Typing {
        chat: ChatId,
    },
    Ping,
    Auth {
        token: String,
    },
    /// A seed client announces itself; its connection speaks for it already.
    Presence,
}

/// An event, by its seq or by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Seq(Seq),
    Message(MessageId),
}

impl Place {
    /// Raises the watermark of a user's device to it.
    pub(crate) fn mark(self, chat: ChatId, user: UserId, device: &str, read: bool) -> Mark {
        let mut mark = Mark { chat_id: chat.0, user_id: user.0, device: device.to_owned(), ..Mark::default() };
        match self {
            Self::Seq(seq) if read => mark.read = seq.0,
            Self::Seq(seq) => mark.delivered = seq.0,
            Self::Message(id) => {
                mark.message_id = id.0.to_vec().into();
                mark.read = u64::from(read);
            }
        }
        mark
    }
}

/// A frame that can't be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadFrame {
    pub code: Code,
    pub field: Option<&'static str>,
    pub message: String,
}

impl BadFrame {
    pub(crate) fn new(code: Code, field: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { code, field, message: message.into() }
    }

    /// A frame of so many bytes.
    pub(crate) fn too_large(bytes: usize, max: usize) -> Self {
        Self::new(Code::TooLarge, None, format!("a frame of {bytes} bytes; at most {max} are allowed"))
    }

    fn field(field: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidFrame, Some(field), message)
    }
}

/// A frame, and what its answers carry.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub reference: Option<String>,
    /// Of what takes a seq, for the error's sake.
    pub client_id: Option<String>,
    pub trace: Option<String>,
    pub frame: Result<ClientFrame, BadFrame>,
}

impl Read {
    /// Nothing of it could be read.
    pub(super) fn nothing(bad: BadFrame) -> Self {
        Self { reference: None, client_id: None, trace: None, frame: Err(bad) }
    }
}

/// All fields that a frame can have, as they were written.
#[derive(Deserialize, Default)]
pub(super) struct Raw {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    pub traceparent: Option<String>,
    pub chat_id: Option<u64>,
    pub content: Option<String>,
    pub media_url: Option<String>,
    pub client_id: Option<String>,
    pub reply_to: Option<u64>,
    pub mentions: Option<Vec<u64>>,
    pub target: Option<u64>,
    pub emoji: Option<String>,
    pub remove: Option<bool>,
    pub seq: Option<u64>,
    pub message_id: Option<String>,
    pub chats: Option<BTreeMap<u64, u64>>,
    pub before: Option<u64>,
    pub limit: Option<u64>,
    pub user_ids: Option<Vec<u64>>,
    pub token: Option<String>,
    pub media_id: Option<serde::de::IgnoredAny>,
}

/// Reads one text frame.
pub(crate) fn read(text: &str) -> Read {
    match serde_json::from_str::<Raw>(text) {
        Ok(raw) => read_raw(raw),
        Err(error) => diagnose(text, &error),
    }
}

pub(super) fn read_raw(mut raw: Raw) -> Read {
    let reference = raw.reference.take();
    let trace = raw.traceparent.take().as_deref().and_then(trace_id);
    let client_id = raw.client_id.clone();
    let frame = match &reference {
        Some(long) if long.chars().count() > REF_MAX => {
            Err(BadFrame::field("ref", format!("ref is longer than {REF_MAX} characters")))
        }
        _ => raw.frame(),
    };
    let reference = reference.filter(|reference| reference.chars().count() <= REF_MAX);
    Read { reference, client_id, trace, frame }
}

/// The trace id of a W3C `traceparent`.
fn trace_id(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

impl Raw {
    fn frame(self) -> Result<ClientFrame, BadFrame> {
        let kind = self.kind.as_deref().ok_or_else(|| BadFrame::field("type", "type is required"))?;
        match kind {
            "message" => self.message(),
            "delivered" => Ok(ClientFrame::Delivered { chat: self.chat()?, at: self.place()? }),
            "read" => Ok(ClientFrame::Read { chat: self.chat()?, at: self.place()? }),
            "sync" => self.sync(),
            "history" => self.history(),
            "watch" => Ok(ClientFrame::Watch { users: self.users()? }),
            "unwatch" => Ok(ClientFrame::Unwatch { users: self.users()? }),
            "typing" => Ok(ClientFrame::Typing { chat: self.chat()? }),
            "ping" => Ok(ClientFrame::Ping),
            "auth" => {
                let token = self.token.ok_or_else(|| BadFrame::field("token", "token is required"))?;
                Ok(ClientFrame::Auth { token })
            }
            "presence" => Ok(ClientFrame::Presence),
            "edit" => self.edit(),
            "delete" => {
                let target = self.target()?;
                self.sent(Send {
                    deletion: Some(Box::new(Deletion { target, ..Deletion::default() })),
                    ..Send::default()
                })
            }
            "react" => self.react(),
            other => {
                let shown: String = other.chars().take(32).collect();
                Err(BadFrame::new(Code::UnknownType, Some("type"), format!("there is no frame of type {shown:?}")))
            }
        }
    }

    fn chat(&self) -> Result<ChatId, BadFrame> {
        let id = self.chat_id.ok_or_else(|| BadFrame::field("chat_id", "chat_id is required"))?;
        ChatId::checked(id).ok_or_else(|| BadFrame::field("chat_id", "chat_id is a number from 1 to 2^53 - 1"))
    }

    fn message(mut self) -> Result<ClientFrame, BadFrame> {
        if self.media_id.is_some() {
            return Err(BadFrame::new(Code::Unimplemented, Some("media_id"), "media is not there yet"));
        }
        let media_url = self.media_url.take().unwrap_or_default();
        let text = match self.content.take() {
            Some(text) => text,
            None if media_url.is_empty() => return Err(BadFrame::field("content", "content is required")),
            None => String::new(),
        };
        check_text(&text)?;
        if media_url.len() > MEDIA_URL_BYTES_MAX {
            return Err(BadFrame::field("media_url", format!("media_url is longer than {MEDIA_URL_BYTES_MAX} bytes")));
        }
        if self.mentions.as_ref().is_some_and(|users| users.len() > MENTIONS_MAX) {
            return Err(BadFrame::field("mentions", format!("mentions are more than {MENTIONS_MAX}")));
        }
        let reply_to = below_limit("reply_to", self.reply_to.unwrap_or(0))?;
        let mentions = self.mentions.take().unwrap_or_default();
        let content = Content { text, media_url, reply_to, mentions, deleted: false };
        self.sent(Send { content: Some(content), ..Send::default() })
    }

    fn edit(mut self) -> Result<ClientFrame, BadFrame> {
        let target = self.target()?;
        let text = self.content.take().filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| BadFrame::field("content", "content is required"))?;
        check_text(&text)?;
        let edit = Edit { target, text, ..Edit::default() };
        self.sent(Send { edit: Some(Box::new(edit)), ..Send::default() })
    }

    fn react(mut self) -> Result<ClientFrame, BadFrame> {
        let target = self.target()?;
        let emoji = self.emoji.take().filter(|emoji| !emoji.is_empty());
        let emoji = emoji.ok_or_else(|| BadFrame::field("emoji", "emoji is required"))?;
        if emoji.len() > EMOJI_BYTES_MAX {
            return Err(BadFrame::field("emoji", format!("emoji is longer than {EMOJI_BYTES_MAX} bytes")));
        }
        let removed = self.remove.unwrap_or(false);
        let reaction = Reaction { target, emoji, removed };
        self.sent(Send { reaction: Some(Box::new(reaction)), ..Send::default() })
    }

    fn sent(mut self, body: Send) -> Result<ClientFrame, BadFrame> {
        let chat_id = self.chat()?.0;
        let client_id = self.client_id.take().unwrap_or_default();
        if client_id.chars().count() > CLIENT_ID_CHARS_MAX {
            let why = format!("client_id is longer than {CLIENT_ID_CHARS_MAX} characters");
            return Err(BadFrame::field("client_id", why));
        }
        Ok(ClientFrame::Send(Box::new(Send { chat_id, client_id, ..body })))
    }

    fn target(&self) -> Result<u64, BadFrame> {
        let seq = self.target.ok_or_else(|| BadFrame::field("target", "target is required"))?;
        let seq =
            Seq::checked(seq).ok_or_else(|| BadFrame::field("target", "target is a number from 1 to 2^53 - 1"))?;
        Ok(seq.0)
    }

    fn place(&self) -> Result<Place, BadFrame> {
        match (self.seq, &self.message_id) {
            (Some(seq), _) => Seq::checked(seq)
                .map(Place::Seq)
                .ok_or_else(|| BadFrame::field("seq", "seq is a number from 1 to 2^53 - 1")),
            (None, Some(id)) => uuid::Uuid::parse_str(id)
                .map(|id| Place::Message(MessageId(*id.as_bytes())))
                .map_err(|_| BadFrame::field("message_id", "message_id is a UUID")),
            (None, None) => Err(BadFrame::field("seq", "seq or message_id is required")),
        }
    }

    fn sync(self) -> Result<ClientFrame, BadFrame> {
        let positions = self.chats.unwrap_or_default();
        for (chat, seq) in &positions {
            if ChatId::checked(*chat).is_none() || *seq >= NUMBER_LIMIT {
                return Err(BadFrame::field("chats", "chats maps chat ids to seqs, both numbers below 2^53"));
            }
        }
        Ok(ClientFrame::Sync { positions })
    }

    fn history(self) -> Result<ClientFrame, BadFrame> {
        let limit = match self.limit {
            None => HISTORY_DEFAULT,
            Some(limit @ 1..=HISTORY_MAX) => u32::try_from(limit).unwrap_or(HISTORY_DEFAULT),
            Some(_) => return Err(BadFrame::field("limit", format!("limit is a number from 1 to {HISTORY_MAX}"))),
        };
        let before = below_limit("before", self.before.unwrap_or(0))?;
        Ok(ClientFrame::History { chat: self.chat()?, before: Seq(before), limit })
    }

    fn users(&self) -> Result<Vec<UserId>, BadFrame> {
        let ids = self.user_ids.as_ref().ok_or_else(|| BadFrame::field("user_ids", "user_ids is required"))?;
        let user = |id: &u64| {
            UserId::checked(*id).ok_or_else(|| BadFrame::field("user_ids", "user_ids holds numbers from 1 to 2^53 - 1"))
        };
        ids.iter().map(user).collect()
    }
}

fn check_text(text: &str) -> Result<(), BadFrame> {
    if text.len() > TEXT_BYTES_MAX {
        let why = format!("content has {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len());
        return Err(BadFrame::new(Code::TooLarge, Some("content"), why));
    }
    Ok(())
}

fn below_limit(field: &'static str, value: u64) -> Result<u64, BadFrame> {
    if value < NUMBER_LIMIT {
        Ok(value)
    } else {
        Err(BadFrame::field(field, format!("{field} is a number below 2^53")))
    }
}

/// Says what is wrong with a frame that [`Raw`] does not fit.
fn diagnose(text: &str, error: &serde_json::Error) -> Read {
    let value = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Read::nothing(BadFrame::new(Code::InvalidFrame, None, "a frame is a JSON object")),
        // serde_json's words name line and column; they don't repeat what was sent.
        Err(error) => return Read::nothing(BadFrame::new(Code::InvalidFrame, None, format!("not JSON: {error}"))),
    };
    let text_of = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let wrong =
        FIELDS.iter().find(|(name, fits, _)| value.get(*name).is_some_and(|value| !value.is_null() && !fits(value)));
    let bad = match wrong {
        Some((name, _, expected)) => BadFrame::field(name, format!("{name} is {expected}")),
        None => BadFrame::new(Code::InvalidFrame, None, format!("a frame that can't be read: {error}")),
    };
    Read {
        reference: text_of("ref").filter(|reference| reference.chars().count() <= REF_MAX),
        client_id: text_of("client_id"),
        trace: None,
        frame: Err(bad),
    }
}

type Field = (&'static str, fn(&Value) -> bool, &'static str);

const NUMBER: &str = "a number from 0 to 2^53 - 1";

const FIELDS: [Field; 19] = [
    ("type", Value::is_string, "a string"),
    ("ref", Value::is_string, "a string"),
    ("traceparent", Value::is_string, "a string"),
    ("chat_id", Value::is_u64, NUMBER),
    ("content", Value::is_string, "a string"),
    ("media_url", Value::is_string, "a string"),
    ("client_id", Value::is_string, "a string"),
    ("reply_to", Value::is_u64, NUMBER),
    ("mentions", is_numbers, "a list of numbers"),
    ("target", Value::is_u64, NUMBER),
    ("emoji", Value::is_string, "a string"),
    ("remove", Value::is_boolean, "true or false"),
    ("seq", Value::is_u64, NUMBER),
    ("message_id", Value::is_string, "a string"),
    ("chats", is_positions, "an object of chat ids and seqs"),
    ("before", Value::is_u64, NUMBER),
    ("limit", Value::is_u64, NUMBER),
    ("user_ids", is_numbers, "a list of numbers"),
    ("token", Value::is_string, "a string"),
];

fn is_numbers(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(Value::is_u64))
}

fn is_positions(value: &Value) -> bool {
    value.as_object().is_some_and(|chats| chats.iter().all(|(chat, seq)| chat.parse::<u64>().is_ok() && seq.is_u64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> ClientFrame {
        read(text).frame.expect("a good frame")
    }

    #[track_caller]
    fn bad(text: &str, code: Code, field: Option<&'static str>) {
        let bad = read(text).frame.expect_err(text);
        assert_eq!((bad.code, bad.field), (code, field), "{text}: {}", bad.message);
    }

    #[test]
    fn the_seeds_message_is_read_as_it_is_written() {
        let frame = good(r#"{"type":"message","chat_id":1,"content":"Hello!","media_url":null}"#);
        let content = Content { text: "Hello!".into(), ..Content::default() };
        let send = Send { chat_id: 1, content: Some(content), ..Send::default() };
        assert_eq!(frame, ClientFrame::Send(Box::new(send)));
        assert_eq!(good(r#"{"type":"presence","user_id":"x","status":"online"}"#), ClientFrame::Presence);
    }

    #[test]
    fn a_bad_frame_names_its_field() {
        bad("{", Code::InvalidFrame, None);
        bad("[]", Code::InvalidFrame, None);
        bad(r#"{"chat_id":1}"#, Code::InvalidFrame, Some("type"));
        bad(r#"{"type":7}"#, Code::InvalidFrame, Some("type"));
        bad(r#"{"type":"dance"}"#, Code::UnknownType, Some("type"));
        bad(r#"{"type":"edit","chat_id":1,"content":"x"}"#, Code::InvalidFrame, Some("target"));
        bad(r#"{"type":"edit","chat_id":1,"target":0,"content":"x"}"#, Code::InvalidFrame, Some("target"));
        bad(r#"{"type":"edit","chat_id":1,"target":1,"content":""}"#, Code::InvalidFrame, Some("content"));
        bad(r#"{"type":"delete","target":1}"#, Code::InvalidFrame, Some("chat_id"));
        bad(r#"{"type":"react","chat_id":1,"target":1}"#, Code::InvalidFrame, Some("emoji"));
        bad(r#"{"type":"react","chat_id":1,"target":1,"emoji":"x","remove":1}"#, Code::InvalidFrame, Some("remove"));
        let long = "x".repeat(EMOJI_BYTES_MAX + 1);
        bad(
            &format!(r#"{{"type":"react","chat_id":1,"target":1,"emoji":"{long}"}}"#),
            Code::InvalidFrame,
            Some("emoji"),
        );
        for id in ["-1", "1.5", "9007199254740992", "0", "\"1\"", "1e400", "99999999999999999999"] {
            bad(
                &format!(r#"{{"type":"message","chat_id":{id},"content":"x"}}"#),
                Code::InvalidFrame,
                (id != "1e400").then_some("chat_id"),
            );
        }
        bad(r#"{"type":"message","chat_id":1}"#, Code::InvalidFrame, Some("content"));
        bad(r#"{"type":"message","chat_id":1,"content":["x"]}"#, Code::InvalidFrame, Some("content"));
        bad(r#"{"type":"delivered","chat_id":1}"#, Code::InvalidFrame, Some("seq"));
        bad(r#"{"type":"read","chat_id":1,"message_id":"x"}"#, Code::InvalidFrame, Some("message_id"));
        bad(r#"{"type":"sync","chats":{"x":1}}"#, Code::InvalidFrame, Some("chats"));
        bad(r#"{"type":"history","chat_id":1,"limit":201}"#, Code::InvalidFrame, Some("limit"));
        bad(r#"{"type":"watch","user_ids":[0]}"#, Code::InvalidFrame, Some("user_ids"));
        bad(&format!(r#"{{"type":"ping","ref":"{}"}}"#, "r".repeat(65)), Code::InvalidFrame, Some("ref"));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        bad(&format!(r#"{{"type":"message","chat_id":1,"content":{deep}}}"#), Code::InvalidFrame, None);
        // Ignored without being built.
        assert_eq!(good(&format!(r#"{{"type":"ping","x":{deep}}}"#)), ClientFrame::Ping);
    }

    #[test]
    fn what_an_answer_echoes_survives_a_bad_frame() {
        let read = read(r#"{"type":"message","chat_id":-1,"content":"x","ref":"r1","client_id":"c1"}"#);
        assert_eq!((read.reference.as_deref(), read.client_id.as_deref()), (Some("r1"), Some("c1")));
        let traced =
            super::read(r#"{"type":"ping","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#);
        assert_eq!(traced.trace.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    }
}
