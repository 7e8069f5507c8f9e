//! The client protocol's frames: [`client`] reads what clients say, [`server`] and [`event`] write what they are told, in JSON;
//! [`binary`] does both in protobuf. docs/protocol.md is the contract.

pub(crate) mod binary;
pub(crate) mod client;
pub(crate) mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod server;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// How a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Json,
    Proto,
}

/// One frame, written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(Utf8Bytes),
    Binary(Bytes),
}

impl Frame {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text),
            Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

/// The reasons of an `error` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidFrame,
    UnknownType,
    Unimplemented,
    TooLarge,
    NotMember,
    NotFound,
    Forbidden,
    Conflict,
    Unauthenticated,
    RateLimited,
    Unavailable,
    Deadline,
    Internal,
    /// Of a long poll only.
    SessionGone,
}

impl Code {
    /// The code of that name, as a service's refusal has it.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "INVALID_FRAME" => Self::InvalidFrame,
            "TOO_LARGE" => Self::TooLarge,
            "NOT_MEMBER" => Self::NotMember,
            "NOT_FOUND" => Self::NotFound,
            "FORBIDDEN" => Self::Forbidden,
            "CONFLICT" => Self::Conflict,
            "RATE_LIMITED" => Self::RateLimited,
            // An owner that moves is none of a client's business.
            "UNAVAILABLE" | "NOT_OWNER" => Self::Unavailable,
            "DEADLINE" => Self::Deadline,
            "UNIMPLEMENTED" => Self::Unimplemented,
            _ => Self::Internal,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InvalidFrame => "INVALID_FRAME",
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::TooLarge => "TOO_LARGE",
            Self::NotMember => "NOT_MEMBER",
            Self::NotFound => "NOT_FOUND",
            Self::Forbidden => "FORBIDDEN",
            Self::Conflict => "CONFLICT",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::RateLimited => "RATE_LIMITED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Deadline => "DEADLINE",
            Self::Internal => "INTERNAL",
            Self::SessionGone => "SESSION_GONE",
        }
    }

    /// Whether the same frame may do better later.
    pub(crate) fn retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Deadline | Self::RateLimited)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Why a WebSocket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    GoingAway,
    InvalidUtf8,
    TooBig,
    TokenExpired,
    ProtocolViolation,
    Revoked,
    TooManyConnections,
    TooSlow,
    TooManyBadFrames,
}

impl Close {
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::InvalidUtf8 => 1007,
            Self::TooBig => 1009,
            Self::TokenExpired => 4001,
            Self::ProtocolViolation => 4002,
            Self::Revoked => 4003,
            Self::TooManyConnections => 4004,
            Self::TooSlow => 4008,
            Self::TooManyBadFrames => 4009,
        }
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "the server is leaving",
            Self::InvalidUtf8 => "a text frame that is not UTF-8",
            Self::TooBig => "a frame over the hard limit",
            Self::TokenExpired => "the token has expired",
            Self::ProtocolViolation => "this is not WebSocket",
            Self::Revoked => "the token is not valid here",
            Self::TooManyConnections => "this device has another eight connections",
            Self::TooSlow => "too slow or silent",
            Self::TooManyBadFrames => "too many bad frames",
        }
    }
}
