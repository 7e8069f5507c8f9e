//! Either a person at a terminal, or a pipe.

use std::io::{self, IsTerminal as _};

use super::line::Line;
use super::plain::Plain;
use super::terminal::Terminal;

pub(crate) enum View {
    Terminal(Box<Terminal>),
    Plain(Plain),
}

/// What comes from the person, or the pipe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Line(String),
    Redraw,
    /// Leave at once.
    Leave,
    /// There is no more input; what was written still wants its acks.
    End,
}

impl View {
    pub(crate) fn open() -> io::Result<Self> {
        if is_person() { Ok(Self::Terminal(Box::new(Terminal::open()?))) } else { Ok(Self::Plain(Plain::open())) }
    }

    pub(crate) fn is_person(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub(crate) fn show(&mut self, line: Line) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => {
                terminal.show(line);
                Ok(())
            }
            Self::Plain(plain) => plain.show(&line),
        }
    }

    pub(crate) fn draw(&mut self, status: &str) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => terminal.draw(status),
            Self::Plain(_) => Ok(()),
        }
    }

    pub(crate) async fn input(&mut self) -> io::Result<Input> {
        match self {
            Self::Terminal(terminal) => terminal.input().await,
            Self::Plain(plain) => Ok(plain.input().await),
        }
    }
}

/// Whether a person sees what is shown.
pub(crate) fn is_person() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}
