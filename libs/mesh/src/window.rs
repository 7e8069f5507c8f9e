//! HTTP/2 flow control: what may be on its way, or wait to be read, on one connection.

/// HTTP/2's own maximum (RFC 9113, 6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// Room for all streams at once, in bytes: a stream that nobody reads then stalls no other.
pub(crate) fn connection_window(streams: u32, stream_window_bytes: u32) -> u32 {
    // Less than HTTP/2's default makes no sense to ask for.
    streams.saturating_mul(stream_window_bytes).clamp(65_535, WINDOW_MAX)
}
