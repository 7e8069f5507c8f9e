//! The status table: what a person sees. Pure.

use std::fmt::Write as _;
use std::time::Duration;

/// A process, as it was a moment ago.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub addr: String,
    pub life: Life,
    /// TCP connections that it has accepted, and are open.
    pub connections: usize,
    /// Whatever else it says of itself.
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Life {
    /// None was started yet.
    None,
    /// The one that there was, has ended.
    Gone { pid: u32 },
    Running {
        pid: u32,
        age: Duration,
        /// Of one core, 1.0; none before there are two looks.
        cpu: Option<f64>,
        /// Bytes.
        rss: u64,
        state: Health,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    NotReady,
    /// It was stopped by a signal.
    Frozen,
}

impl Row {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.life, Life::Running { state: Health::Ready, .. })
    }

    /// What is wrong with it, in a word.
    fn trouble(&self) -> &'static str {
        match self.life {
            Life::None => "not started",
            Life::Gone { .. } => "gone",
            Life::Running { state: Health::Ready, .. } => "ready",
            Life::Running { state: Health::NotReady, .. } => "not ready",
            Life::Running { state: Health::Frozen, .. } => "frozen",
        }
    }
}

const HEAD: [&str; 9] = ["PROCESS", "ADDRESS", "PID", "UP", "CPU", "RSS", "CONNS", "STATE", ""];
/// Those that are numbers stand to the right.
const RIGHT: [bool; 9] = [false, false, true, true, true, true, true, false, false];

const BOLD: &str = "\u{1b}[1m";
const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const PLAIN: &str = "\u{1b}[0m";

/// A heading and a line for each row, each at most `width` columns.
#[must_use]
pub fn lines(rows: &[Row], width: usize, colours: bool) -> Vec<String> {
    let cells: Vec<[String; 9]> = rows.iter().map(cells).collect();
    let heads = HEAD.map(str::to_owned);
    let widths: [usize; 9] = std::array::from_fn(|column| {
        let all = cells.iter().chain([&heads]).map(|cells| cells[column].chars().count());
        all.max().unwrap_or(0)
    });
    let paint = |line: String, colour: &str| {
        let line: String = line.chars().take(width).collect();
        if colours && !colour.is_empty() { format!("{colour}{line}{PLAIN}") } else { line }
    };
    let mut lines = vec![paint(line(&heads, &widths), BOLD)];
    for (row, cells) in rows.iter().zip(&cells) {
        let colour = match row.life {
            Life::Running { state: Health::Ready, .. } => "",
            Life::Running { .. } | Life::None => YELLOW,
            Life::Gone { .. } => RED,
        };
        lines.push(paint(line(cells, &widths), colour));
    }
    lines
}

fn cells(row: &Row) -> [String; 9] {
    let dash = || "-".to_owned();
    let (pid, up, cpu, rss) = match row.life {
        Life::None => (dash(), dash(), dash(), dash()),
        Life::Gone { pid } => (pid.to_string(), dash(), dash(), dash()),
        Life::Running { pid, age, cpu, rss, .. } => {
            (pid.to_string(), span(age), cpu.map_or_else(dash, percent), mebibytes(rss))
        }
    };
    let connections = match row.life {
        Life::Running { .. } => row.connections.to_string(),
        _ => dash(),
    };
    let state = row.trouble().to_owned();
    [row.name.clone(), row.addr.clone(), pid, up, cpu, rss, connections, state, row.note.clone()]
}

fn line(cells: &[String; 9], widths: &[usize; 9]) -> String {
    let mut line = String::new();
    for ((cell, width), right) in cells.iter().zip(widths).zip(RIGHT) {
        // Into a string this does not fail.
        let _ = match right {
            true => write!(line, "{cell:>width$}  "),
            false => write!(line, "{cell:<width$}  "),
        };
    }
    line.trim_end().to_owned()
}

/// How all of it is, in one line: `15 of 17 ready: edge-0 gone, redis-1 frozen`.
#[must_use]
pub fn summary(rows: &[Row], colours: bool) -> String {
    let ready = rows.iter().filter(|row| row.is_ready()).count();
    if ready == rows.len() {
        let words = format!("all {ready} ready");
        return if colours { format!("{GREEN}{words}{PLAIN}") } else { words };
    }
    let others = rows.iter().filter(|row| !row.is_ready()).map(|row| format!("{} {}", row.name, row.trouble()));
    format!("{ready} of {} ready: {}", rows.len(), others.collect::<Vec<_>>().join(", "))
}

/// `59s`, `59m59s`, `23h59m`, `7d23h`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

fn percent(cores: f64) -> String {
    format!("{:.0}%", cores * 100.0)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(name: &str, state: Health) -> Row {
        let age = Duration::from_secs(75);
        let life = Life::Running { pid: 4_711, age, cpu: Some(0.034), rss: (50 << 20) - 1, state };
        let (addr, note) = ("127.0.0.1:25300".to_owned(), String::new());
        Row { name: name.to_owned(), addr, life, connections: 2, note }
    }

    fn rows() -> Vec<Row> {
        let mut rows = vec![running("edge-0", Health::Ready), running("message-svc-0", Health::Frozen)];
        rows[1].note = "2048 shards".to_owned();
        rows.push(Row { life: Life::Gone { pid: 12 }, ..running("edge-1", Health::Ready) });
        rows.push(Row { life: Life::None, ..running("nginx", Health::Ready) });
        rows
    }

    #[test]
    fn the_table() {
        let expected = "\
PROCESS        ADDRESS           PID     UP  CPU     RSS  CONNS  STATE
edge-0         127.0.0.1:25300  4711  1m15s   3%  50 MiB      2  ready
message-svc-0  127.0.0.1:25300  4711  1m15s   3%  50 MiB      2  frozen       2048 shards
edge-1         127.0.0.1:25300    12      -    -       -      -  gone
nginx          127.0.0.1:25300     -      -    -       -      -  not started";
        assert_eq!(lines(&rows(), 200, false).join("\n"), expected);
        assert_eq!(lines(&[], 200, false).len(), 1);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [1, 20, 60] {
            assert!(lines(&rows(), width, false).iter().all(|line| line.chars().count() <= width));
        }
    }

    #[test]
    fn colours_are_put_around_whole_lines() {
        let coloured = lines(&rows(), 10, true);
        assert_eq!(coloured[1], "edge-0    ");
        assert_eq!(coloured[3], format!("{RED}edge-1    {PLAIN}"));
        assert_eq!(coloured[2], format!("{YELLOW}message-sv{PLAIN}"));
    }

    #[test]
    fn the_summary_names_what_is_not_well() {
        let words = "1 of 4 ready: message-svc-0 frozen, edge-1 gone, nginx not started";
        assert_eq!(summary(&rows(), false), words);
        assert_eq!(summary(&[running("edge-0", Health::Ready)], false), "all 1 ready");
        assert_eq!(summary(&[running("edge-0", Health::NotReady)], false), "0 of 1 ready: edge-0 not ready");
    }

    #[test]
    fn spans() {
        for (seconds, words) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3_599, "59m59s"), (3_600, "1h00m"), (86_400 * 8 - 1, "7d23h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
    }
}
