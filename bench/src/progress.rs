//! Progress for a person on stderr: a bar on a terminal, a line per phase otherwise.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Where the run is.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    /// Shows nothing until the first phase.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, terminal }
    }

    /// What is being done now.
    pub fn phase(&self, text: impl Into<String>) {
        let text = text.into();
        if self.terminal {
            self.bar.enable_steady_tick(Duration::from_millis(100));
            self.bar.set_message(text);
        } else {
            // Progress is a courtesy: a closed stderr is no reason to stop.
            let _ = writeln!(std::io::stderr(), "… {text}");
        }
    }

    /// Something found out, which stays on the screen.
    pub fn note(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        if self.terminal {
            self.bar.println(text);
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
