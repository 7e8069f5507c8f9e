//! Chatting with a person: raw mode, keys in, the screen out.

use std::io::{self, Write as _};

use crossterm::event::{
    DisableBracketedPaste, EnableBracketedPaste, Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use crossterm::{queue, terminal};
use futures_util::StreamExt as _;

use super::editor::Editor;
use super::line::Line;
use super::screen::Screen;
use super::view::Input;

pub(crate) struct Terminal {
    events: EventStream,
    editor: Editor,
    screen: Screen,
    status: String,
    /// Something has changed since the last drawing.
    stale: bool,
}

impl Terminal {
    /// Takes the terminal over, until this is dropped.
    pub(crate) fn open() -> io::Result<Self> {
        let (width, height) = terminal::size()?;
        terminal::enable_raw_mode()?;
        queue!(io::stdout(), EnableBracketedPaste)?;
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let screen = Screen::new(width, height, colours);
        Ok(Self { events: EventStream::new(), editor: Editor::default(), screen, status: String::new(), stale: true })
    }

    pub(crate) fn show(&mut self, line: Line) {
        self.screen.show(line);
        self.stale = true;
    }

    /// Brings the screen up to date.
    pub(crate) fn draw(&mut self, status: &str) -> io::Result<()> {
        if self.stale || self.status != status {
            status.clone_into(&mut self.status);
            self.stale = false;
            write(&self.screen.draw(&self.status, &self.editor))?;
        }
        Ok(())
    }

    /// The next thing that the person wants; after other keys, `Redraw`.
    pub(crate) async fn input(&mut self) -> io::Result<Input> {
        let Some(event) = self.events.next().await.transpose()? else { return Ok(Input::End) };
        self.stale = true;
        Ok(match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
            Event::Paste(text) => {
                self.editor.insert(&text);
                Input::Redraw
            }
            Event::Resize(width, height) => {
                write(&self.screen.resize(width, height))?;
                Input::Redraw
            }
            _ => Input::Redraw,
        })
    }

    fn key(&mut self, key: KeyEvent) -> Input {
        let editor = &mut self.editor;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Input::Leave,
                KeyCode::Char('d') if editor.text().is_empty() => return Input::Leave,
                KeyCode::Char('d') => editor.delete(),
                KeyCode::Char('a') => editor.home(),
                KeyCode::Char('e') => editor.end(),
                KeyCode::Char('u') => editor.delete_to_start(),
                KeyCode::Char('k') => editor.delete_to_end(),
                KeyCode::Char('w') => editor.delete_word(),
                KeyCode::Char('h') => editor.backspace(),
                KeyCode::Char('j') => editor.insert("\n"),
                _ => {}
            }
            return Input::Redraw;
        }
        match key.code {
            KeyCode::Enter if key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SHIFT) => editor.insert("\n"),
            KeyCode::Enter => return Input::Line(editor.take()),
            KeyCode::Char(c) => editor.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Backspace => editor.backspace(),
            KeyCode::Delete => editor.delete(),
            KeyCode::Left => editor.left(),
            KeyCode::Right => editor.right(),
            KeyCode::Home => editor.home(),
            KeyCode::End => editor.end(),
            KeyCode::Up => editor.up(),
            KeyCode::Down => editor.down(),
            _ => {}
        }
        Input::Redraw
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody left to tell of a failure.
        let _ = write(&self.screen.leave());
        let _ = queue!(io::stdout(), DisableBracketedPaste);
        let _ = io::stdout().flush();
        let _ = terminal::disable_raw_mode();
    }
}

/// Between marks that keep the terminal from showing half a drawing.
fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "\u{1b}[?2026h{text}\u{1b}[?2026l")?;
    stdout.flush()
}
