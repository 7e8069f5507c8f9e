//! The frames that the generator sends, and the stamp by which a receiver knows a message again.

use std::fmt::Write as _;

/// What a message's content and `client_id` start with: when it was to be sent, and which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The intended time, in ns of [`crate::clock::now_ns`].
    pub at_ns: u64,
    /// Its place in the schedule.
    pub index: u64,
}

impl Stamp {
    /// Bytes of a stamp, all digits.
    pub const LEN: usize = 30;
    const TIME_LEN: usize = 20;

    /// Reads the stamp that `text` starts with.
    pub fn read(text: &str) -> Option<Self> {
        let time = text.get(..Self::TIME_LEN)?;
        let index = text.get(Self::TIME_LEN..Self::LEN)?;
        Some(Self { at_ns: time.parse().ok()?, index: index.parse().ok()? })
    }

    /// Appends the stamp: 20 digits of time, 10 of index.
    pub fn write(self, to: &mut String) {
        // Writing to a String can't fail.
        let _ = write!(to, "{:020}{:010}", self.at_ns, self.index);
    }
}

/// Makes `message` frames of one chat whose content has a fixed length.
#[derive(Clone, Debug)]
pub struct MessageMaker {
    head: String,
    tail: String,
}

impl MessageMaker {
    /// Contents are `content_bytes` long, at least [`Stamp::LEN`].
    pub fn new(chat_id: u64, content_bytes: usize) -> Self {
        let padding = "x".repeat(content_bytes.saturating_sub(Stamp::LEN));
        Self {
            head: format!(r#"{{"type":"message","chat_id":{chat_id},"content":""#),
            tail: format!(r#"{padding}","client_id":""#),
        }
    }

    /// The frame of one message.
    pub fn make(&self, stamp: Stamp) -> String {
        let mut text = String::with_capacity(self.head.len() + self.tail.len() + 2 * Stamp::LEN + 2);
        text.push_str(&self.head);
        stamp.write(&mut text);
        let digits = self.head.len()..text.len();
        text.push_str(&self.tail);
        text.extend_from_within(digits);
        text.push_str("\"}");
        text
    }
}

/// A `delivered` frame.
pub fn delivered(chat_id: u64, seq: u64) -> String {
    format!(r#"{{"type":"delivered","chat_id":{chat_id},"seq":{seq}}}"#)
}

/// A `watch` frame.
pub fn watch(users: impl Iterator<Item = u64>) -> String {
    let users: Vec<String> = users.map(|user| user.to_string()).collect();
    format!(r#"{{"type":"watch","user_ids":[{}]}}"#, users.join(","))
}

/// A `sync` frame; chats left out start where the device's confirmations, or the chats' heads, are.
pub fn sync(positions: &[(u64, u64)]) -> String {
    let mut text = String::from(r#"{"type":"sync","chats":{"#);
    for (place, (chat_id, seq)) in positions.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let _ = write!(text, r#"{comma}"{chat_id}":{seq}"#);
    }
    text.push_str("}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::scan;

    #[test]
    fn a_message_carries_its_stamp_twice_and_has_the_length_asked_for() {
        let stamp = Stamp { at_ns: 123_456_789_012, index: 42 };
        let text = MessageMaker::new(7, 128).make(stamp);
        let frame = scan(&text).expect("a frame");
        assert_eq!((frame.kind, frame.chat_id, frame.content.len()), ("message", Some(7), 128));
        assert_eq!(Stamp::read(frame.content), Some(stamp));
        assert_eq!(Stamp::read(frame.client_id), Some(stamp));
        assert_eq!(frame.client_id.len(), Stamp::LEN);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn foreign_contents_have_no_stamp() {
        assert_eq!(Stamp::read("Hello!"), None);
        assert_eq!(Stamp::read(&"é".repeat(40)), None);
    }

    #[test]
    fn sync_delivered_and_watch_are_json() {
        let watch: serde_json::Value = serde_json::from_str(&watch(3..5)).expect("JSON");
        assert_eq!(watch, serde_json::json!({"type": "watch", "user_ids": [3, 4]}));
        let sync: serde_json::Value = serde_json::from_str(&sync(&[(1, 40), (2, 0)])).expect("JSON");
        assert_eq!(sync["chats"], serde_json::json!({"1": 40, "2": 0}));
        let delivered: serde_json::Value = serde_json::from_str(&delivered(1, 2)).expect("JSON");
        assert_eq!(delivered["seq"], 2);
    }
}
