//! The line that is being written. What a person sees as one character is one: a flag, an emoji with a skin tone.

use unicode_segmentation::UnicodeSegmentation as _;

/// Lines that the up key brings back.
const HISTORY_MAX: usize = 100;
/// Nothing longer can be sent: the protocol's bound of a message.
const BYTES_MAX: usize = 16 * 1_024;

#[derive(Debug, Default)]
pub(crate) struct Editor {
    text: String,
    /// In bytes, between two graphemes.
    cursor: usize,
    history: Vec<String>,
    /// Which line of the history is shown; its length: none.
    recalled: usize,
    /// What was being written before the history was looked at.
    draft: String,
}

impl Editor {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Typed or pasted; line breaks stay within the message.
    pub(crate) fn insert(&mut self, text: &str) {
        let text: String =
            text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        if self.text.len() + text.len() <= BYTES_MAX {
            self.text.insert_str(self.cursor, &text);
            self.cursor += text.len();
        }
    }

    /// The line is done.
    pub(crate) fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.text);
        self.cursor = 0;
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
            if self.history.len() > HISTORY_MAX {
                self.history.remove(0);
            }
        }
        self.recalled = self.history.len();
        line
    }

    pub(crate) fn backspace(&mut self) {
        self.delete_from(self.before());
    }

    pub(crate) fn delete(&mut self) {
        self.text.drain(self.cursor..self.after());
    }

    pub(crate) fn delete_word(&mut self) {
        let before = self.before_cursor().trim_end();
        let start = before
            .rfind(char::is_whitespace)
            .map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        self.delete_from(start);
    }

    pub(crate) fn delete_to_start(&mut self) {
        self.delete_from(0);
    }

    pub(crate) fn delete_to_end(&mut self) {
        self.text.truncate(self.cursor);
    }

    pub(crate) fn left(&mut self) {
        self.cursor = self.before();
    }

    pub(crate) fn right(&mut self) {
        self.cursor = self.after();
    }

    pub(crate) fn home(&mut self) {
        self.cursor = 0;
    }

    pub(crate) fn end(&mut self) {
        self.cursor = self.text.len();
    }

    pub(crate) fn up(&mut self) {
        if self.recalled == self.history.len() {
            self.draft.clone_from(&self.text);
        }
        self.recall(self.recalled.saturating_sub(1));
    }

    pub(crate) fn down(&mut self) {
        self.recall((self.recalled + 1).min(self.history.len()));
    }

    fn recall(&mut self, at: usize) {
        self.recalled = at;
        self.text = self.history.get(at).unwrap_or(&self.draft).clone();
        self.end();
    }

    fn before(&self) -> usize {
        self.before_cursor().grapheme_indices(true).next_back().map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        self.cursor + self.text[self.cursor..].graphemes(true).next().map_or(0, str::len)
    }

    fn delete_from(&mut self, start: usize) {
        self.text.drain(start..self.cursor);
        self.cursor = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn editor(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(text);
        editor
    }

    #[test]
    fn one_press_takes_what_looks_like_one() {
        let mut editor = editor("ä👍🏽🇩🇪");
        editor.backspace();
        assert_eq!(editor.text(), "ä👍🏽");
        editor.backspace();
        assert_eq!(editor.text(), "ä");
        editor.backspace();
        editor.backspace();
        assert_eq!(editor.text(), "");
    }

    #[test]
    fn the_cursor_goes_through_the_line() {
        let mut editor = editor("helo");
        editor.left();
        editor.insert("l");
        assert_eq!((editor.text(), editor.before_cursor()), ("hello", "hell"));
        editor.home();
        editor.left();
        editor.delete();
        editor.end();
        editor.right();
        editor.delete();
        assert_eq!((editor.text(), editor.before_cursor()), ("ello", "ello"));
    }

    #[test]
    fn words_and_halves() {
        let mut words = editor("one two  ");
        words.delete_word();
        assert_eq!(words.text(), "one ");
        words.delete_word();
        words.delete_word();
        assert_eq!(words.text(), "");
        let mut halves = editor("one two");
        for _ in 0..4 {
            halves.left();
        }
        halves.delete_to_end();
        assert_eq!(halves.text(), "one");
        halves.delete_to_start();
        assert_eq!(halves.text(), "");
    }

    #[test]
    fn up_brings_back_and_down_the_draft() {
        let mut editor = editor("one");
        editor.take();
        editor.insert("two");
        editor.take();
        editor.insert("dra");
        editor.up();
        assert_eq!(editor.text(), "two");
        editor.up();
        editor.up();
        assert_eq!(editor.text(), "one");
        editor.down();
        editor.down();
        editor.down();
        assert_eq!(editor.text(), "dra");
    }

    #[test]
    fn a_paste_is_one_message_of_bounded_length() {
        let mut pasted = editor("one\r\ntwo\u{1b}[2J");
        assert_eq!(pasted.text(), "one\ntwo[2J");
        pasted.insert(&"x".repeat(BYTES_MAX));
        assert_eq!(pasted.text(), "one\ntwo[2J");
    }
}
