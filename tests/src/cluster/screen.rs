//! What is written to the terminal, or to a pipe.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// How often a step's time is written anew.
const TICK: Duration = Duration::from_millis(200);
/// Without a terminal to ask.
const SIZE: (usize, usize) = (120, 40);

/// Columns and lines.
#[must_use]
pub fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map(|size| (size.ws_col.into(), size.ws_row.into())).ok().filter(|size| *size > (0, 0)).unwrap_or(SIZE)
}

#[must_use]
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[must_use]
pub fn has_colours() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Steps of something that takes its time, a line each.
#[derive(Default)]
pub struct Steps {
    /// What the one under way says. A line of it.
    note: RefCell<String>,
}

impl Steps {
    /// What the step under way says of itself.
    pub fn note(&self, words: &str) {
        if !is_terminal() {
            say(&format!("    {words}"));
        }
        words.clone_into(&mut self.note.borrow_mut());
    }

    /// Does it, and says how long it took: on a terminal meanwhile, too.
    ///
    /// # Errors
    /// What it says.
    pub async fn step<T>(&self, name: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let started = Instant::now();
        self.note.borrow_mut().clear();
        let _cursor = is_terminal().then(HiddenCursor::hide);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick(), if is_terminal() => {
                    let line = step_line('·', name, started.elapsed(), &self.note.borrow());
                    put(&format!("\r{}\u{1b}[K", line.chars().take(size().0.saturating_sub(1)).collect::<String>()));
                }
            }
        };
        let mark = if result.is_ok() { '✓' } else { '✗' };
        let line = step_line(mark, name, started.elapsed(), "");
        put(&if is_terminal() { format!("\r{line}\u{1b}[K\n") } else { format!("{line}\n") });
        result
    }
}

fn step_line(mark: char, name: &str, took: Duration, note: &str) -> String {
    let line = format!("  {mark} {name:<52}{:>6.1} s  {note}", took.as_secs_f64());
    line.trim_end().to_owned()
}

/// Lines that are drawn over again, in place.
#[derive(Default)]
pub struct Canvas {
    drawn: usize,
    size: (usize, usize),
    cursor: Option<HiddenCursor>,
}

impl Canvas {
    /// Each line must fit the terminal's width. If there are too many for its height, some of `lines` are left out; `foot` stays.
    pub fn draw(&mut self, lines: &[String], foot: &[String]) {
        self.cursor.get_or_insert_with(HiddenCursor::hide);
        let size = size();
        // What is wrapped anew is not where it was.
        let moved = self.drawn > 0 && self.size != size;
        self.size = size;
        let lines = fitting(lines, foot, size.1);
        put(&repaint(if moved { None } else { Some(self.drawn) }, &lines));
        self.drawn = lines.len();
    }
}

/// With a line that says so if some don't fit.
fn fitting(lines: &[String], foot: &[String], height: usize) -> Vec<String> {
    // The cursor stands on a line of its own.
    let room = height.saturating_sub(1 + foot.len());
    if lines.len() <= room {
        return [lines, foot].concat();
    }
    let shown = room.saturating_sub(1);
    let more = format!("… {} more lines: the window is too low", lines.len() - shown);
    [&lines[..shown], &[more], foot].concat()
}

/// `above`: how many lines were drawn before; none: the screen begins anew. Between marks that keep the terminal from showing half a
/// drawing; nothing is blank in between.
fn repaint(above: Option<usize>, lines: &[String]) -> String {
    let mut text = String::from("\u{1b}[?2026h");
    match above {
        None => text += "\u{1b}[2J\u{1b}[H",
        Some(0) => {}
        Some(count) => {
            // Into a string this does not fail.
            let _ = write!(text, "\r\u{1b}[{count}A");
        }
    }
    for line in lines {
        text += line;
        text += "\u{1b}[K\n";
    }
    text + "\u{1b}[J\u{1b}[?2026l"
}

/// Until it is dropped.
struct HiddenCursor;

impl HiddenCursor {
    fn hide() -> Self {
        put("\u{1b}[?25l");
        Self
    }
}

impl Drop for HiddenCursor {
    fn drop(&mut self) {
        put("\u{1b}[?25h");
    }
}

fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    // A terminal that is gone, or a reader that has left, is no reason to leave the cluster half started.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// A line, whether or not somebody reads it.
pub fn say(line: &str) {
    put(&format!("{line}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("line {at}")).collect()
    }

    #[test]
    fn a_drawing_goes_over_the_one_before() {
        let first = repaint(Some(0), &texts(2));
        assert_eq!(first, "\u{1b}[?2026hline 0\u{1b}[K\nline 1\u{1b}[K\n\u{1b}[J\u{1b}[?2026l");
        assert!(repaint(Some(2), &texts(1)).starts_with("\u{1b}[?2026h\r\u{1b}[2Aline 0"));
        assert!(repaint(None, &texts(1)).starts_with("\u{1b}[?2026h\u{1b}[2J\u{1b}[Hline 0"));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let foot = ["foot".to_owned()];
        assert_eq!(fitting(&texts(3), &foot, 5), ["line 0", "line 1", "line 2", "foot"]);
        assert_eq!(fitting(&texts(3), &foot, 4), ["line 0", "… 2 more lines: the window is too low", "foot"]);
        assert_eq!(fitting(&texts(3), &foot, 0), ["… 3 more lines: the window is too low", "foot"]);
    }

    #[test]
    fn a_step_has_its_time() {
        let line = step_line('✓', "Redis", Duration::from_millis(2_340), "");
        assert!(line.starts_with("  ✓ Redis  ") && line.ends_with("   2.3 s"), "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_gives_what_came_of_it() {
        let steps = Steps::default();
        assert_eq!(steps.step("good", async { Ok(1) }).await.unwrap(), 1);
        assert!(steps.step("bad", async { anyhow::bail!("so bad") as anyhow::Result<()> }).await.is_err());
    }
}
