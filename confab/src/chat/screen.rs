//! What the terminal shows, as the text that makes it show it. The last lines stay in reach, so that a tick can still change in its
//! place; older ones scroll away into the terminal's own history. Below them: a line about the chat, and the prompt.

use std::collections::VecDeque;
use std::fmt::Write as _;

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use super::editor::Editor;
use super::line::{Line, Parts, Tick};

const PROMPT: &str = "> ";
/// Continued lines begin below the text, not below the time.
const INDENT: &str = "      ";

#[derive(Debug)]
pub(crate) struct Screen {
    width: usize,
    height: usize,
    colours: bool,
    /// Lines in reach, oldest first.
    lines: VecDeque<Line>,
    /// Rows from the topmost line in reach down to the cursor.
    above: usize,
}

impl Screen {
    pub(crate) fn new(width: u16, height: u16, colours: bool) -> Self {
        let mut screen = Self { width: 0, height: 0, colours, lines: VecDeque::new(), above: 0 };
        screen.measure(width, height);
        screen
    }

    /// A new line, or a line that changes; one that has scrolled away stays as it was.
    pub(crate) fn show(&mut self, line: Line) {
        match line {
            // The line above the prompt tells who is online.
            Line::Presence { .. } => {}
            Line::Mine { id, tick, .. } => {
                let known =
                    self.lines.iter_mut().find(|shown| matches!(shown, Line::Mine { id: known, .. } if *known == id));
                match known {
                    Some(known) => *known = line,
                    None if tick == Tick::Sending || tick == Tick::Sent => self.lines.push_back(line),
                    None => {}
                }
            }
            line => self.lines.push_back(line),
        }
    }

    /// The window has another size; what the terminal made of the old rows is not known.
    pub(crate) fn resize(&mut self, width: u16, height: u16) -> String {
        self.measure(width, height);
        self.above = 0;
        "\u{1b}[2J\u{1b}[H".to_owned()
    }

    /// Draws everything in reach anew.
    pub(crate) fn draw(&mut self, status: &str, editor: &Editor) -> String {
        let input = wrap(&format!("{PROMPT}{}", visible(editor.text())), self.width, "");
        let to_cursor = wrap(&format!("{PROMPT}{}", visible(editor.before_cursor())), self.width, "");
        let mut out = self.erased();
        let mut rows = 0;
        let budget = self.height.saturating_sub(input.len() + 1).max(1);
        for line in &self.lines {
            for row in self.rows(line) {
                out.push_str(&row);
                out.push_str("\r\n");
                rows += 1;
            }
        }
        while rows > budget
            && let Some(line) = self.lines.pop_front()
        {
            rows -= self.rows(&line).len();
        }
        let status = wrap(status, self.width, "").into_iter().next().unwrap_or_default();
        // Writing to a string does not fail.
        let _ = write!(out, "{}\r\n{}", self.styled("2", &status), input.join("\r\n"));
        let (row, column) = (to_cursor.len() - 1, to_cursor.last().map_or(0, |row| row.width()));
        if input.len() > row + 1 {
            let _ = write!(out, "\u{1b}[{}A", input.len() - 1 - row);
        }
        let _ = write!(out, "\r\u{1b}[{}C", column.min(self.width - 1));
        self.above = rows + 1 + row;
        out
    }

    /// Takes the prompt away, and leaves the lines.
    pub(crate) fn leave(&mut self) -> String {
        let mut out = self.erased();
        for line in std::mem::take(&mut self.lines) {
            for row in self.rows(&line) {
                out.push_str(&row);
                out.push_str("\r\n");
            }
        }
        self.above = 0;
        out
    }

    fn erased(&self) -> String {
        if self.above == 0 { "\r\u{1b}[J".to_owned() } else { format!("\u{1b}[{}A\r\u{1b}[J", self.above) }
    }

    fn measure(&mut self, width: u16, height: u16) {
        // A window of no size is one whose size is not known.
        self.width = if width < 20 { 80 } else { width.into() };
        self.height = if height < 4 { 24 } else { height.into() };
    }

    /// A line as rows of the terminal, in colours.
    fn rows(&self, line: &Line) -> Vec<String> {
        let Parts { head, body, tail } = line.parts();
        let mut rows = wrap(&format!("{head}{body}{tail}"), self.width, INDENT);
        let (head_style, tail_style) = match line {
            Line::Theirs { .. } => ("1;36", ""),
            Line::Mine { tick: Tick::Read, .. } => ("1", "1;32"),
            Line::Mine { tick: Tick::Refused, .. } => ("1", "1;31"),
            Line::Mine { .. } => ("1", "2"),
            Line::Note(_) | Line::Presence { .. } => ("2", ""),
            Line::Problem(_) => ("1;31", ""),
        };
        if let Some(last) = rows.last_mut()
            && let Some(rest) = last.strip_suffix(tail.trim_start()).filter(|_| !tail.is_empty())
        {
            *last = format!("{rest}{}", self.styled(tail_style, tail.trim_start()));
        }
        if body.is_empty() && tail.is_empty() {
            return rows.iter().map(|row| self.styled(head_style, row)).collect();
        }
        if let Some(first) = rows.first_mut()
            && let Some(rest) = first.strip_prefix(head.trim_end())
        {
            *first = format!("{}{rest}", self.styled(head_style, head.trim_end()));
        }
        rows
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours && !style.is_empty() { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Line breaks in what is being written, as one sees them.
fn visible(text: &str) -> String {
    text.replace('\n', "⏎")
}

/// Breaks a text into rows of less than `width` columns, after a blank where there is one, so that the terminal never wraps by itself:
/// then the rows can be counted.
fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for paragraph in text.split('\n') {
        let mut row = String::new();
        for word in paragraph.split_word_bounds() {
            if row.width() + word.width() < width {
                row.push_str(word);
                continue;
            }
            if word.trim().is_empty() && !word.is_empty() && row.width() > indent.width() && !indent.is_empty() {
                rows.push(std::mem::replace(&mut row, indent.to_owned()));
                continue;
            }
            if word.width() + indent.width() < width && row.width() > indent.width() {
                rows.push(std::mem::replace(&mut row, indent.to_owned()));
            }
            for grapheme in word.graphemes(true) {
                if row.width() + grapheme.width() >= width {
                    rows.push(std::mem::replace(&mut row, indent.to_owned()));
                }
                row.push_str(grapheme);
            }
        }
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests;
