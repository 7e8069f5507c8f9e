//! What can be refused, and the one place that makes a [`Status`] or a [`Refused`] of it.

use confab_ids::Seq;
use confab_proto::message::v1::Refused;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::core::user::{BLOCKS_MAX, MUTES_MAX};
use crate::store::{MEMBERS_MAX, StoreError};

/// After how long a retry of what was refused for a passing reason makes sense, milliseconds.
const RETRY_AFTER_MS: u32 = 1_000;

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("not a member of this chat, or there is no such chat")]
    NotMember,
    #[error("this client_id was used before, with another body")]
    Conflict,
    #[error("reply_to is beyond the chat's last event")]
    ReplyBeyondHead,
    #[error("there is no such message that this member sees, or it was deleted")]
    UnknownTarget,
    #[error("the message is another member's")]
    NotYours,
    #[error("one of the two has blocked the other: nothing is sent between them")]
    Blocked,
    #[error("the message could not be stored; it may or may not be there: send it again with its client_id")]
    Unavailable,
    #[error("the chat is another instance's now")]
    NotOwner,
}

/// Why a watermark was not raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MarkError {
    #[error("not a member of this chat, or there is no such chat")]
    NotMember,
    #[error("beyond the chat's last event, {0}")]
    BeyondHead(Seq),
    #[error("no such message among the chat's last ones")]
    UnknownMessage,
    #[error("storage is not available")]
    Unavailable,
    #[error("the chat is another instance's now")]
    NotOwner,
}

/// Why a chat was not made, changed or shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChatError {
    #[error("not a member of this chat, or there is no such chat")]
    NotMember,
    #[error("only an admin of the group may do that")]
    NotAdmin,
    #[error("a direct chat stays as it is: only a group's members and title can change")]
    DirectIsFixed,
    #[error("a chat has at most {MEMBERS_MAX} members")]
    TooManyMembers,
    #[error("not a member of this chat")]
    UnknownMember,
    #[error("the last admin stays one while others are there: make another member an admin first")]
    LastAdmin,
    #[error("this key has made another group")]
    Conflict,
    #[error("there is no such message that this member sees")]
    UnknownMessage,
    #[error("one of the two has blocked the other")]
    Blocked,
    #[error("one of them has blocked who adds them, or is blocked")]
    BlockedMember,
    #[error("a user blocks at most {BLOCKS_MAX} others")]
    TooManyBlocks,
    #[error("a user mutes at most {MUTES_MAX} chats")]
    TooManyMutes,
    #[error("as many chats are watched here as may be")]
    TooManyWatchers,
    #[error("storage is not available")]
    Unavailable,
    #[error("the chat is another instance's now")]
    NotOwner,
}

impl ChatError {
    /// What another instance has refused a view with.
    pub(crate) fn named(code: &str) -> Self {
        match code {
            "NOT_MEMBER" => Self::NotMember,
            "NOT_OWNER" => Self::NotOwner,
            _ => Self::Unavailable,
        }
    }
}

/// A request that is wrong in itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub(crate) struct Invalid {
    pub field: &'static str,
    pub why: String,
    /// It would be right if it were smaller.
    pub too_large: bool,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into(), too_large: false }
    }

    pub(crate) fn too_large(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into(), too_large: true }
    }
}

/// What every refusal says to a machine.
struct Reason {
    /// A code of docs/protocol.md.
    code: &'static str,
    field: &'static str,
    status: Code,
}

const fn reason(code: &'static str, field: &'static str, status: Code) -> Reason {
    Reason { code, field, status }
}

trait Refusal: std::error::Error {
    fn reason(&self) -> Reason;
}

impl Refusal for SendError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotMember => reason("NOT_MEMBER", "chat_id", Code::PermissionDenied),
            Self::Conflict => reason("CONFLICT", "client_id", Code::AlreadyExists),
            Self::ReplyBeyondHead => reason("NOT_FOUND", "reply_to", Code::NotFound),
            Self::UnknownTarget => reason("NOT_FOUND", "target", Code::NotFound),
            Self::NotYours => reason("FORBIDDEN", "target", Code::PermissionDenied),
            Self::Blocked => reason("FORBIDDEN", "chat_id", Code::PermissionDenied),
            Self::Unavailable => reason("UNAVAILABLE", "", Code::Unavailable),
            Self::NotOwner => reason("NOT_OWNER", "", Code::Unavailable),
        }
    }
}

impl Refusal for MarkError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotMember => reason("NOT_MEMBER", "chat_id", Code::PermissionDenied),
            Self::BeyondHead(_) => reason("NOT_FOUND", "seq", Code::NotFound),
            Self::UnknownMessage => reason("NOT_FOUND", "message_id", Code::NotFound),
            Self::Unavailable => reason("UNAVAILABLE", "", Code::Unavailable),
            Self::NotOwner => reason("NOT_OWNER", "", Code::Unavailable),
        }
    }
}

impl Refusal for ChatError {
    fn reason(&self) -> Reason {
        match self {
            Self::NotMember => reason("NOT_MEMBER", "chat_id", Code::PermissionDenied),
            Self::NotAdmin => reason("FORBIDDEN", "", Code::PermissionDenied),
            Self::DirectIsFixed => reason("FORBIDDEN", "chat_id", Code::FailedPrecondition),
            Self::TooManyMembers => reason("TOO_LARGE", "members", Code::ResourceExhausted),
            Self::UnknownMember => reason("NOT_FOUND", "user_id", Code::NotFound),
            Self::LastAdmin => reason("CONFLICT", "user_id", Code::FailedPrecondition),
            Self::Conflict => reason("CONFLICT", "client_id", Code::AlreadyExists),
            Self::UnknownMessage => reason("NOT_FOUND", "seq", Code::NotFound),
            Self::Blocked => reason("FORBIDDEN", "user_id", Code::PermissionDenied),
            Self::BlockedMember => reason("FORBIDDEN", "members", Code::PermissionDenied),
            Self::TooManyBlocks => reason("TOO_LARGE", "user_id", Code::ResourceExhausted),
            Self::TooManyMutes => reason("TOO_LARGE", "chat_id", Code::ResourceExhausted),
            Self::TooManyWatchers => reason("RATE_LIMITED", "", Code::ResourceExhausted),
            Self::Unavailable => reason("UNAVAILABLE", "", Code::Unavailable),
            Self::NotOwner => reason("NOT_OWNER", "", Code::Unavailable),
        }
    }
}

impl Refusal for Invalid {
    fn reason(&self) -> Reason {
        let code = if self.too_large { "TOO_LARGE" } else { "INVALID_FRAME" };
        reason(code, self.field, Code::InvalidArgument)
    }
}

fn refused(error: &impl Refusal) -> Refused {
    let reason = error.reason();
    Refused {
        code: reason.code.to_owned(),
        message: error.to_string(),
        field: reason.field.to_owned(),
        retry_after_ms: if reason.status == Code::Unavailable { RETRY_AFTER_MS } else { 0 },
    }
}

fn status(error: &impl Refusal) -> Status {
    let reason = error.reason();
    let mut details = ErrorDetails::with_error_info(reason.code, "confab", []);
    if !reason.field.is_empty() {
        details.add_bad_request_violation(reason.field, error.to_string());
    }
    if reason.status == Code::Unavailable {
        details.set_retry_info(Some(std::time::Duration::from_millis(RETRY_AFTER_MS.into())));
    }
    Status::with_error_details(reason.status, error.to_string(), details)
}

macro_rules! refusals {
    ($($error:ty),*) => {$(
        impl From<$error> for Status {
            fn from(error: $error) -> Self {
                status(&error)
            }
        }

        impl From<$error> for Refused {
            fn from(error: $error) -> Self {
                refused(&error)
            }
        }
    )*};
}

refusals!(SendError, MarkError, ChatError, Invalid);

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a read failed");
        status(&ChatError::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_same_in_a_stream_and_as_a_status() {
        let refused = Refused::from(SendError::Conflict);
        assert_eq!(
            (refused.code.as_str(), refused.field.as_str(), refused.retry_after_ms),
            ("CONFLICT", "client_id", 0)
        );
        let status = Status::from(SendError::Unavailable);
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("UNAVAILABLE"));
        assert!(details.retry_info().is_some());
    }
}
