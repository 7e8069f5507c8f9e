//! The client protocol's frames: [`client`] reads what clients say, [`server`] writes what they are told.
//! docs/protocol.md is the contract.

pub(crate) mod client;
pub(crate) mod server;

use serde::Serialize;

/// The reasons of an `error` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
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
            "UNAVAILABLE" => Self::Unavailable,
            "DEADLINE" => Self::Deadline,
            "UNIMPLEMENTED" => Self::Unimplemented,
            _ => Self::Internal,
        }
    }

    /// Whether the same frame may do better later.
    pub(crate) fn retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Deadline | Self::RateLimited)
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
