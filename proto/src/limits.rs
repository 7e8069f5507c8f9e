//! The bounds of what a message holds, as `event.proto` and `message.proto` state them: the edge checks them before a frame
//! goes on the stream that all connections share, message-svc because it trusts no caller.

/// Bytes of a content's text.
pub const TEXT_BYTES_MAX: usize = 16 * 1_024;

/// Bytes of a media URL.
pub const MEDIA_URL_BYTES_MAX: usize = 2_048;

/// Characters of a client id.
pub const CLIENT_ID_CHARS_MAX: usize = 64;

/// Bytes of a reaction's emoji: the longest of Unicode 16 has 35.
pub const EMOJI_BYTES_MAX: usize = 64;

/// Users that one message mentions.
pub const MENTIONS_MAX: usize = 100;
