//! An event of a chat, as a frame, a history or the HTTP API tells it.

use std::fmt;

use anyhow::{Context as _, bail};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Admin,
    Member,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }

    pub(crate) fn named(name: &Value) -> Self {
        if name == "admin" { Self::Admin } else { Self::Member }
    }
}

/// What a `chat` frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Created { title: String },
    Added(Vec<u64>),
    Removed(Vec<u64>),
    Role(Vec<u64>, Role),
    Renamed(String),
    Deleted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// `text`: as it was when this was told; none: deleted.
    Message {
        text: Option<String>,
    },
    /// `text`: none where a later event has changed the message again.
    Edited {
        target: u64,
        text: Option<String>,
    },
    Deleted {
        target: u64,
    },
    Reacted {
        target: u64,
        emoji: String,
        removed: bool,
    },
    Chat {
        change: Change,
        members: u64,
    },
}

impl Body {
    pub(crate) fn target(&self) -> Option<u64> {
        match self {
            Self::Edited { target, .. } | Self::Deleted { target } | Self::Reacted { target, .. } => Some(*target),
            Self::Message { .. } | Self::Chat { .. } => None,
        }
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat { change, .. } => write!(f, "{change:?}"),
            _ => write!(f, "{self:?}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub chat: u64,
    pub seq: u64,
    /// Messages of the chat up to it.
    pub n: u64,
    pub id: String,
    pub by: u64,
    pub body: Body,
}

/// Whether a frame is an event of a chat.
pub(crate) fn is_event(frame: &Value) -> bool {
    matches!(frame["type"].as_str(), Some("message" | "edited" | "deleted" | "reacted" | "chat"))
}

impl Event {
    pub(crate) fn read(frame: &Value) -> anyhow::Result<Self> {
        let number = |name: &str| frame[name].as_u64().with_context(|| format!("no {name}: {frame}"));
        let text = |name: &str| frame[name].as_str().map(str::to_owned);
        let (by, body) = match frame["type"].as_str() {
            Some("message") => {
                let text = text("content").filter(|_| frame["deleted"] != true);
                ("sender_id", Body::Message { text })
            }
            Some("edited") => ("user_id", Body::Edited { target: number("target")?, text: text("content") }),
            Some("deleted") => ("user_id", Body::Deleted { target: number("target")? }),
            Some("reacted") => {
                let emoji = text("emoji").with_context(|| format!("no emoji: {frame}"))?;
                let removed = frame["removed"].as_bool().with_context(|| format!("no removed: {frame}"))?;
                ("user_id", Body::Reacted { target: number("target")?, emoji, removed })
            }
            Some("chat") => ("by", Body::Chat { change: change(frame)?, members: number("members")? }),
            _ => bail!("no event: {frame}"),
        };
        let id = text("message_id").with_context(|| format!("no message_id: {frame}"))?;
        Ok(Self { chat: number("chat_id")?, seq: number("seq")?, n: number("n")?, id, by: number(by)?, body })
    }

    /// Whether two tellings can be of one event: a message's text, and an edit's, may have changed between them.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let what = |event: &Self| match &event.body {
            Body::Message { .. } => Body::Message { text: None },
            Body::Edited { target, .. } => Body::Edited { target: *target, text: None },
            body => body.clone(),
        };
        let names = |event: &Self| (event.chat, event.seq, event.n, event.by);
        names(self) == names(other) && self.id == other.id && what(self) == what(other)
    }

    pub(crate) fn change(&self) -> Option<&Change> {
        match &self.body {
            Body::Chat { change, .. } => Some(change),
            _ => None,
        }
    }

    /// Nothing before it is `user`'s to see.
    pub(crate) fn introduces(&self, user: u64) -> bool {
        match self.change() {
            Some(Change::Created { .. }) => true,
            Some(Change::Added(users)) => users.contains(&user),
            _ => false,
        }
    }
}

fn change(frame: &Value) -> anyhow::Result<Change> {
    let title = || frame["title"].as_str().unwrap_or_default().to_owned();
    let users = || -> anyhow::Result<Vec<u64>> {
        let users = frame["user_ids"].as_array().with_context(|| format!("no user_ids: {frame}"))?;
        Ok(users.iter().filter_map(Value::as_u64).collect())
    };
    Ok(match frame["event"].as_str() {
        Some("created") => Change::Created { title: title() },
        Some("added") => Change::Added(users()?),
        Some("removed") => Change::Removed(users()?),
        Some("role") => Change::Role(users()?, Role::named(&frame["role"])),
        Some("renamed") => Change::Renamed(title()),
        Some("deleted") => Change::Deleted,
        _ => bail!("an unknown event of a chat: {frame}"),
    })
}
