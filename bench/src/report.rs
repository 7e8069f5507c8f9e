//! The table that a run ends with.

use std::fmt::Write as _;

/// What a figure is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bar {
    /// The benchmark fails without it.
    Must(String, bool),
    /// Worth reaching.
    Aim(String, bool),
}

impl Bar {
    fn describe(&self) -> String {
        match self {
            Self::Must(text, true) => format!("must {text}: pass"),
            Self::Must(text, false) => format!("must {text}: **FAIL**"),
            Self::Aim(text, true) => format!("aim {text}: reached"),
            Self::Aim(text, false) => format!("aim {text}: missed"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// How much it was, with its unit.
    pub measured: String,
    /// What the baseline did, with its unit; empty if there is none.
    pub baseline: String,
    /// Measured over baseline.
    pub ratio: Option<f64>,
    /// What it is held against.
    pub bars: Vec<Bar>,
}

impl Figure {
    /// A figure by itself.
    pub fn new(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), ..Self::default() }
    }

    /// Puts it beside a baseline: its description, and measured over baseline.
    pub fn against(mut self, baseline: impl Into<String>, ratio: f64) -> Self {
        self.baseline = baseline.into();
        self.ratio = Some(ratio);
        self
    }

    /// Holds it against a must.
    pub fn must(mut self, text: impl Into<String>, held: bool) -> Self {
        self.bars.push(Bar::Must(text.into(), held));
        self
    }

    /// Holds it against an aim.
    pub fn aim(mut self, text: impl Into<String>, held: bool) -> Self {
        self.bars.push(Bar::Aim(text.into(), held));
        self
    }
}

/// All figures of a run, and what one should know about them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The table's lines.
    pub figures: Vec<Figure>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}

impl Report {
    /// Appends another's figures and notes.
    pub fn extend(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.notes.extend(other.notes);
    }

    /// The musts that were missed.
    pub fn missed(&self) -> Vec<String> {
        let missed = |figure: &Figure| {
            let bars = figure.bars.iter().filter(|bar| matches!(bar, Bar::Must(_, false)));
            bars.map(|bar| format!("{} ({}): {}", figure.what, figure.measured, bar.describe())).collect::<Vec<_>>()
        };
        self.figures.iter().flat_map(missed).collect()
    }

    /// The report as markdown, under a heading and a line about the machine.
    pub fn markdown(&self, quick: bool) -> String {
        let mut text = format!("# Benchmark\n\n{}\n\n", machine());
        if quick {
            text.push_str("**A quick run**: a smoke test whose figures mean little.\n\n");
        }
        text.push_str("| figure | measured | baseline | ratio | must, aim |\n|---|---|---|---|---|\n");
        for figure in &self.figures {
            let ratio = figure.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let bars: Vec<String> = figure.bars.iter().map(Bar::describe).collect();
            let bars = bars.join("; ");
            // Writing to a String can't fail.
            let _ =
                writeln!(text, "| {} | {} | {} | {ratio} | {bars} |", figure.what, figure.measured, figure.baseline);
        }
        text.push('\n');
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

/// Date, cores and kernel: no host names, no paths.
fn machine() -> String {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown CPU");
    let cpu = cpu.trim_start_matches([' ', '\t', ':']);
    let kernel = kernel.trim();
    format!(
        "{date}, {cores} cores ({cpu}), Linux {kernel}; server and load generator share the machine, over loopback."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_must_is_told_and_a_missed_aim_is_not() {
        let report = Report {
            figures: vec![
                Figure::new("rate", "900 /s").against("10000 /s", 0.09).must("≥ 0.25", false).aim("≥ 10,000 /s", false),
                Figure::new("p99", "5 ms").must("≤ 100 ms", true),
            ],
            notes: vec!["a note".to_owned()],
        };
        assert_eq!(report.missed(), ["rate (900 /s): must ≥ 0.25: **FAIL**"]);
        let text = report.markdown(false);
        assert!(text.contains("| rate | 900 /s | 10000 /s | 0.09 | must ≥ 0.25: **FAIL**; aim ≥ 10,000 /s: missed |"));
        assert!(text.contains("| p99 | 5 ms |  |  | must ≤ 100 ms: pass |") && text.contains("- a note"));
    }
}
