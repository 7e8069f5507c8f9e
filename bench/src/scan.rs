//! Reads the few fields of a server frame that the generator needs, in one pass and without building a tree: the
//! generator shares its cores with the server that it measures.

use memchr::memchr2;

/// The top-level fields of a frame, as they stand in it: strings are not unescaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `type`.
    pub kind: &'a str,
    /// `chat_id`.
    pub chat_id: Option<u64>,
    /// `seq`.
    pub seq: Option<u64>,
    /// `content`.
    pub content: &'a str,
    /// `client_id`.
    pub client_id: &'a str,
    /// `code`, of an error.
    pub code: &'a str,
    /// `message`, of an error.
    pub message: &'a str,
}

/// The frame's fields; `None` if it isn't a JSON object with a `type`. What is nested is skipped, not checked.
pub fn scan(text: &str) -> Option<Frame<'_>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut frame = Frame::default();
    scanner.expect(b'{')?;
    loop {
        match scanner.peek()? {
            b'}' => break,
            b',' => scanner.at += 1,
            b'"' => {
                let key = scanner.string()?;
                scanner.expect(b':')?;
                scanner.value(key, &mut frame)?;
            }
            _ => return None,
        }
    }
    (!frame.kind.is_empty()).then_some(frame)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte that isn't white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// A string without its quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let found = self.at + memchr2(b'"', b'\\', rest)?;
            if self.text.as_bytes()[found] == b'"' {
                self.at = found + 1;
                return self.text.get(start..found);
            }
            self.at = found + 2;
        }
    }

    fn value(&mut self, key: &str, frame: &mut Frame<'a>) -> Option<()> {
        match self.peek()? {
            b'"' => {
                let value = self.string()?;
                match key {
                    "type" => frame.kind = value,
                    "content" => frame.content = value,
                    "client_id" => frame.client_id = value,
                    "code" => frame.code = value,
                    "message" => frame.message = value,
                    _ => {}
                }
            }
            b'{' | b'[' => self.skip_nested()?,
            _ => {
                let number = self.bare()?;
                match key {
                    "chat_id" => frame.chat_id = number.parse().ok(),
                    "seq" => frame.seq = number.parse().ok(),
                    _ => {}
                }
            }
        }
        Some(())
    }

    /// A number, `true`, `false` or `null`.
    fn bare(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let len = rest.find([',', '}', ' ', '\n', '\r', '\t'])?;
        self.at += len;
        (len > 0).then(|| &rest[..len])
    }

    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0_u32;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_in_any_order_of_fields() {
        let text = r#"{"seq":41,"message_id":"0190","chat_id":12345,"media":{"a":["}",{"seq":1}]},
            "content":"00x \"quoted\" \\","media_url":null , "type":"message"}"#;
        let frame = scan(text).expect("a frame");
        assert_eq!((frame.kind, frame.seq, frame.chat_id), ("message", Some(41), Some(12345)));
        assert_eq!(frame.content, r#"00x \"quoted\" \\"#);
        assert_eq!(frame.client_id, "");
    }

    #[test]
    fn an_ack_and_an_error() {
        let ack = scan(r#"{"type":"ack","client_id":"c1","chat_id":1,"seq":7,"created_at":"…"}"#).expect("a frame");
        assert_eq!((ack.kind, ack.client_id, ack.seq), ("ack", "c1", Some(7)));
        let error = scan(r#"{"type":"error","code":"RATE_LIMITED","message":"slow down","retryable":true}"#);
        let error = error.expect("a frame");
        assert_eq!((error.code, error.message), ("RATE_LIMITED", "slow down"));
    }

    #[test]
    fn what_is_no_frame() {
        for text in ["", "{", "[]", "{}", r#"{"a":1}"#, r#"{"type":"x"#, r#"{"type":"x","seq":"#, r#"{"type" 1}"#] {
            assert_eq!(scan(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_parser(chat_id in 0_u64..1 << 53, seq in 0_u64..1 << 53, content in "[ -~é]{0,40}") {
            let value = serde_json::json!({
                "type": "message", "content": content, "seq": seq, "chat_id": chat_id,
                "nested": {"list": [content, 1, {"seq": 0}]},
            });
            let text = value.to_string();
            let frame = scan(&text).expect("a frame");
            prop_assert_eq!((frame.chat_id, frame.seq), (Some(chat_id), Some(seq)));
            let unescaped: String = serde_json::from_str(&format!("\"{}\"", frame.content)).expect("a string");
            prop_assert_eq!(unescaped, content);
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            scan(&text);
        }
    }
}
