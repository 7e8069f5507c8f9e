//! `docs/faults.md`: a part for the capacity and a line for each row, each written when it is measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::capacity::Capacity;
use super::cluster::{Outcome, P50_TIMES, P99_TIMES};
use super::load::{Population, SHARE};
use super::table::{Row, TABLE};
use super::watching::Spread;
use confab_bench::mix::{GROUP_EVERY, HELD_P99_MS};

const CAPACITY: &str = "## Capacity";
const ROWS: &str = "## Rows";

/// The page as it is.
pub struct Page {
    text: String,
    path: PathBuf,
}

impl Page {
    #[must_use]
    pub fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
        let text = std::fs::read_to_string(&path).ok();
        let text = text.filter(|text| text.contains(CAPACITY)).unwrap_or_else(|| "# Faults\n\n".to_owned());
        Self { text, path }
    }

    /// # Errors
    /// If it can't be written.
    pub fn write(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.path, &self.text)?)
    }

    /// In the place of the capacity that was there.
    pub fn set_capacity(&mut self, capacity: &Capacity, population: Population) {
        self.text = replaced(&self.text, CAPACITY, &capacity_part(capacity, population));
    }

    /// In the place of what this row came to before. `capacity`: messages/s.
    pub fn set_row(&mut self, row: &Row, outcome: &Result<Outcome, String>, seed: u64, capacity: u32) {
        let line =
            outcome.as_ref().map_or_else(|error| error_line(row, error, seed), |outcome| line(outcome, seed, capacity));
        let mut lines = lines(&self.text);
        lines.insert(row.name, line);
        self.text = replaced(&self.text, ROWS, &rows_part(&lines));
    }
}

/// What the rows of the page came to, by their names.
fn lines(page: &str) -> BTreeMap<&'static str, String> {
    let part = page.find(ROWS).map_or("", |at| &page[at..]);
    let of = |row: Row| {
        let begin = format!("| {} |", row.name);
        part.lines().find(|line| line.starts_with(&begin)).map(|line| (row.name, line.to_owned()))
    };
    TABLE.into_iter().filter_map(of).collect()
}

/// `page` with `body` below `heading`, up to the next heading of its level; a new one comes last.
fn replaced(page: &str, heading: &str, body: &str) -> String {
    let part = format!("{heading}\n\n{}\n", body.trim_end());
    let Some(at) = page.find(heading) else { return format!("{}\n\n{part}", page.trim_end()) };
    let rest = page[at + heading.len()..].find("\n## ").map_or("", |next| &page[at + heading.len() + next..]);
    format!("{}{part}{rest}", &page[..at])
}

fn capacity_part(capacity: &Capacity, population: Population) -> String {
    let Population { pairs, groups, members } = population;
    let hold = &capacity.hold;
    let mut part = format!(
        "`cargo xtask faults capacity`: {} two of each role over mutual TLS, on three nodes of Cassandra and with the load, all on \
         this machine, in the build that tests use. An open loop over {pairs} pairs and {groups} groups of {members}, everyone \
         connected; one message in {GROUP_EVERY} goes to a group. A rate holds if 99 % are acked within the step, none is refused, \
         the backlog doesn't grow, and p99 to the last reader's socket is at most {HELD_P99_MS} ms.\n\n\
         **{} messages/s**, which are {:.0} deliveries/s. At 70 % of it, {}/s for a minute: p50 {:.0}, p99 {:.0} ms to the last \
         reader in pairs, p50 {:.0}, p99 {:.0} ms to the last member of groups (must be < {HELD_P99_MS} ms: {}).\n\n",
        machine(),
        capacity.rate,
        f64::from(capacity.rate) * deliveries_per_message(population),
        hold.rate,
        hold.pairs.ms(0.5),
        hold.pairs.ms(0.99),
        hold.groups.ms(0.5),
        hold.groups.ms(0.99),
        if capacity.holds() { "holds" } else { "**does not hold**" },
    );
    for step in &capacity.steps {
        // Writing to a String can't fail.
        let _ = writeln!(part, "- {step}");
    }
    part
}

/// To all members, the sender's own copy among them.
fn deliveries_per_message(population: Population) -> f64 {
    let group = 1.0 / f64::from(GROUP_EVERY);
    (1.0 - group) * 2.0 + group * population.members as f64
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let gib = total.unwrap_or(0_u64) >> 20;
    format!("{cores} cores, {gib} GiB:")
}

fn rows_part(lines: &BTreeMap<&'static str, String>) -> String {
    let mut part = format!(
        "What `cargo xtask faults [NAME]` saw last of each: clients that keep sending, drop and reconnect at random, and are checked; \
         at {:.0} % of the capacity that was measured before.\n\n\
         - *acked after*, *read after*: the longest from a message's first try to its ack, and until its last reader had it, however \
         it came; of what wasn't over before the strike.\n\
         - *first tries*: answered by an ack on their connection, of all that were; retryable errors and breaks are failures, a \
         client that leaves by itself is neither.\n\
         - *spared*: from the first try to each socket that was connected and had caught up, of messages with nobody who is struck on \
         their way, in all of the time from the strike on. The way is the edges of sender and reader, the owner by `WatchShards`, and \
         the fanout that rendezvous hashing gives the chat; for a cut, one that has both ends. Of two presence instances both know \
         everyone, so all ways count there. In brackets: how many times the baseline's, which \
         is run on the same mesh at most ten minutes before (the last of them is below); at most {P50_TIMES} (p50) and \
         {P99_TIMES} (p99).\n\n\
         | what happens | messages/s | acked | lost, doubled, out of order | acked after, s | read after, s | at most, s | first tries, % | \
         spared p50, ms | p99, ms | other ways p50, ms | p99, ms | connects | seed | holds |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        SHARE * 100.0,
    );
    for line in TABLE.iter().filter_map(|row| lines.get(row.name)) {
        part.push_str(line);
        part.push('\n');
    }
    part
}

fn error_line(row: &Row, error: &str, seed: u64) -> String {
    let error = error.replace(['\n', '|'], " ");
    format!("| {} | {error} | | | | | | | | | | | | {seed} | **no** |", row.name)
}

fn line(outcome: &Outcome, seed: u64, capacity: u32) -> String {
    let Outcome { row, report, figures, baseline, .. } = outcome;
    let times =
        |ms: f64, of: Option<f64>| of.map_or_else(|| format!("{ms:.0}"), |of| format!("{ms:.0} ({:.1})", ms / of));
    let spread = |spread: Spread, of: Option<Spread>| match spread.count {
        0 => "– | –".to_owned(),
        _ => format!(
            "{} | {}",
            times(spread.p50_ms, of.map(|of| of.p50_ms)),
            times(spread.p99_ms, of.map(|of| of.p99_ms))
        ),
    };
    format!(
        "| {} | {:.0} of {capacity} | {} | {} | {:.1} | {:.1} | {} | {:.2} | {} | {} | {} | {seed} | {} |",
        row.name,
        f64::from(capacity) * SHARE,
        report.counts.acked,
        report.violation_count,
        figures.acked_after.as_secs_f64(),
        figures.read_after.as_secs_f64(),
        row.within.as_secs(),
        figures.success() * 100.0,
        spread(figures.spared, *baseline),
        spread(figures.hit, None),
        figures.connects,
        if outcome.holds() { "yes" } else { "**no**" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_the_place_of_what_was_there() {
        let page = replaced("# Faults\n\n", ROWS, "one");
        assert_eq!(page, "# Faults\n\n## Rows\n\none\n");
        let page = replaced(&page, "## Other", "two");
        assert_eq!(page, "# Faults\n\n## Rows\n\none\n\n## Other\n\ntwo\n");
        assert_eq!(replaced(&page, ROWS, "three\n"), "# Faults\n\n## Rows\n\nthree\n\n## Other\n\ntwo\n");
    }

    #[test]
    fn a_row_takes_the_place_of_its_own_line_only() {
        let mut page = Page { text: "# Faults\n\n".to_owned(), path: PathBuf::new() };
        let [first, second, ..] = TABLE;
        page.set_row(&second, &Err("one".to_owned()), 7, 100);
        page.set_row(&first, &Err("two".to_owned()), 7, 100);
        page.set_row(&second, &Err("three\n|".to_owned()), 8, 100);
        let seen: Vec<_> = page.text.lines().filter(|line| line.ends_with("**no** |")).collect();
        let [one, two] = seen[..] else { panic!("{seen:?}") };
        assert!(one.starts_with(&format!("| {} | two |", first.name)) && one.contains("| 7 |"), "{one}");
        assert!(two.starts_with(&format!("| {} | three   |", second.name)) && two.contains("| 8 |"), "{two}");
        assert_eq!(two.matches('|').count(), 16, "as many columns as the head has");
        assert_eq!(page.text.matches(ROWS).count(), 1);
    }
}
