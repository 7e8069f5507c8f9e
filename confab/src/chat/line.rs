//! What the person sees: lines of text, free of anything that a terminal would obey.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What `/help` says.
pub(crate) const HELP: &str = "\
A line is a message. ✓ on the server's disk, ✓✓ delivered to everyone, ✓✓ read: seen by everyone.
/who  who is in the chat    /history  older messages    /quit  leave    //text  a message that begins with /";

/// One line on the screen, or in the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Somebody's message.
    Theirs {
        at: String,
        user: u64,
        text: String,
    },
    /// One's own; the same `id` comes again when its tick changes.
    Mine {
        id: u64,
        at: String,
        text: String,
        tick: Tick,
    },
    /// Came or went.
    Presence {
        user: u64,
        online: bool,
    },
    Note(String),
    Problem(String),
}

/// How far an own message has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tick {
    Sending,
    /// On the server's disk.
    Sent,
    /// With everyone in the chat.
    Delivered,
    /// Seen by everyone in the chat.
    Read,
    Refused,
}

impl Tick {
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Sending => "…",
            Self::Sent => "✓",
            Self::Delivered => "✓✓",
            Self::Read => "✓✓ read",
            Self::Refused => "✗ not sent",
        }
    }
}

/// A line in three parts, of which a terminal shows the first and the last in other colours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) tail: String,
}

impl Line {
    pub(crate) fn parts(&self) -> Parts {
        let parts = |head: String, body: &str, tail: String| Parts { head, body: body.to_owned(), tail };
        match self {
            Self::Theirs { at, user, text } => parts(format!("{at} user {user}: "), text, String::new()),
            Self::Mine { at, text, tick, .. } => parts(format!("{at} you: "), text, format!(" {}", tick.mark())),
            Self::Presence { user, online } => {
                parts(format!("user {user} is {}", online_word(*online)), "", String::new())
            }
            Self::Note(text) => parts(text.clone(), "", String::new()),
            Self::Problem(text) => parts("! ".to_owned(), text, String::new()),
        }
    }

    pub(crate) fn text(&self) -> String {
        let Parts { head, body, tail } = self.parts();
        format!("{head}{body}{tail}")
    }
}

pub(crate) fn online_word(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// What somebody wrote must not move the cursor, turn the text around or pretend to be another line: control characters and
/// direction overrides become visible, line breaks are indented.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.trim_end_matches('\n').chars() {
        match c {
            '\n' => shown.push_str("\n      "),
            '\t' => shown.push_str("    "),
            '\r' => {}
            c if c.is_control() || is_invisible_switch(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// Overrides and isolates of direction, and the line separators that are no control characters.
fn is_invisible_switch(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// `12:03` of today, `Nov 21 12:03` of another day.
pub(crate) fn clock(time: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (time, now) = (time.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let format = if time.date() == now.date() { "%H:%M" } else { "%b %d %H:%M" };
    time.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_people_see_them() {
        let mine = |tick| Line::Mine { id: 1, at: "12:03".to_owned(), text: "hello".to_owned(), tick }.text();
        assert_eq!(mine(Tick::Sent), "12:03 you: hello ✓");
        assert_eq!(mine(Tick::Delivered), "12:03 you: hello ✓✓");
        assert_eq!(mine(Tick::Read), "12:03 you: hello ✓✓ read");
        let theirs = Line::Theirs { at: "12:03".to_owned(), user: 2, text: "hello".to_owned() };
        assert_eq!(theirs.text(), "12:03 user 2: hello");
        assert_eq!(Line::Presence { user: 2, online: true }.text(), "user 2 is online");
    }

    #[test]
    fn a_message_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\u{7}\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(harmless("\u{202e}evil"), "\u{fffd}evil");
        assert_eq!(harmless("one\r\ntwo\n\n"), "one\n      two");
        assert_eq!(harmless("👩‍👩‍👧 ä"), "👩‍👩‍👧 ä");
    }

    #[test]
    fn another_day_has_its_date() {
        let now: Timestamp = "2026-11-24T12:30:00Z".parse().expect("a time");
        let at = |time: &str| clock(time.parse().expect("a time"), now, &TimeZone::UTC);
        assert_eq!(at("2026-11-24T12:03:59.999Z"), "12:03");
        assert_eq!(at("2026-11-21T09:05:00Z"), "Nov 21 09:05");
    }
}
