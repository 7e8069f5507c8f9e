//! Chatting in a pipe: input lines are messages, messages are output lines. Everything else goes to stderr.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, Write as _};

use tokio::sync::mpsc;

use super::line::{Line, Tick};
use super::view::Input;

/// Lines that are read ahead.
const AHEAD: usize = 16;
/// Own messages whose later ticks are recognized.
const REMEMBERED_MAX: usize = 1_000;

pub(crate) struct Plain {
    lines: mpsc::Receiver<String>,
    printed: Printed,
}

/// Which own messages were printed.
#[derive(Debug, Default)]
struct Printed(BTreeSet<u64>);

/// A line of output.
#[derive(Debug, PartialEq, Eq)]
enum Out {
    Stdout(String),
    Stderr(String),
    Nothing,
}

impl Plain {
    pub(crate) fn open() -> Self {
        let (sender, lines) = mpsc::channel(AHEAD);
        // A thread, as a read of stdin can't be given up: at the program's end it is left behind.
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                let sent = line.map(|line| sender.blocking_send(line));
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
        });
        Self { lines, printed: Printed::default() }
    }

    pub(crate) fn show(&mut self, line: &Line) -> io::Result<()> {
        match self.printed.out(line) {
            Out::Stdout(text) => {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{text}")?;
                stdout.flush()
            }
            Out::Stderr(text) => writeln!(io::stderr(), "{text}"),
            Out::Nothing => Ok(()),
        }
    }

    pub(crate) async fn input(&mut self) -> Input {
        self.lines.recv().await.map_or(Input::End, Input::Line)
    }
}

impl Printed {
    /// An own message is printed when it is acked; after that, only how far it has got.
    fn out(&mut self, line: &Line) -> Out {
        match line {
            Line::Theirs { .. } => Out::Stdout(line.text()),
            Line::Mine { tick: Tick::Sending, .. } => Out::Nothing,
            Line::Mine { id, text, tick, .. } => {
                if !self.0.insert(*id) {
                    return Out::Stdout(format!("{}: {text}", tick.mark()));
                }
                if self.0.len() > REMEMBERED_MAX {
                    self.0.pop_first();
                }
                Out::Stdout(line.text())
            }
            Line::Presence { .. } | Line::Note(_) | Line::Problem(_) => Out::Stderr(line.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_printed_once_and_its_ticks_after_it() {
        let mut printed = Printed::default();
        let mine = |tick| Line::Mine { id: 1, at: "12:03".to_owned(), text: "hello".to_owned(), tick };
        assert_eq!(printed.out(&mine(Tick::Sending)), Out::Nothing);
        assert_eq!(printed.out(&mine(Tick::Sent)), Out::Stdout("12:03 you: hello ✓".to_owned()));
        assert_eq!(printed.out(&mine(Tick::Delivered)), Out::Stdout("✓✓: hello".to_owned()));
        assert_eq!(printed.out(&mine(Tick::Read)), Out::Stdout("✓✓ read: hello".to_owned()));
    }

    #[test]
    fn stdout_has_messages_only() {
        let mut printed = Printed::default();
        let theirs = Line::Theirs { at: "12:03".to_owned(), user: 2, text: "hi".to_owned() };
        assert_eq!(printed.out(&theirs), Out::Stdout("12:03 user 2: hi".to_owned()));
        assert_eq!(printed.out(&Line::Presence { user: 2, online: true }), Out::Stderr("user 2 is online".to_owned()));
        assert_eq!(printed.out(&Line::Problem("bad".to_owned())), Out::Stderr("! bad".to_owned()));
    }
}
