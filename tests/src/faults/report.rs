//! `docs/faults.md`: a part for the capacity and one for the rows, each written when it is measured.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::capacity::Capacity;
use super::cluster::Outcome;
use super::load::Population;
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

    /// In the place of the rows that were there. `rate`: the load's, messages/s.
    pub fn set_rows(&mut self, outcomes: &[Result<Outcome, String>], seed: u64, rate: f64, capacity: u32) {
        self.text = replaced(&self.text, ROWS, &rows_part(outcomes, seed, rate, capacity));
    }
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

fn rows_part(outcomes: &[Result<Outcome, String>], seed: u64, rate: f64, capacity: u32) -> String {
    let mut part = format!(
        "What `cargo xtask faults` saw last: {rate:.0} messages/s, of a capacity of {capacity}, by clients that keep sending, drop \
         and reconnect at random, and are checked. CONFAB_SEED={seed}.\n\n\
         - *acked after*, *read after*: the longest from a message's first try to its ack, and until its last reader had it, however \
         it came; of what wasn't over before the strike.\n\
         - *first tries*: answered by an ack on their connection, of all that were; retryable errors and breaks are failures, a \
         client that leaves by itself is neither.\n\
         - *spared*: from the first try to each socket that was connected and had caught up, of messages with nobody who is struck on \
         their way, in all of the time from the strike on. The way is the edges of sender and reader, the owner by `WatchShards`, and \
         the fanout that rendezvous hashing gives the chat; for a cut, one that has both ends. Of two presence instances both know \
         everyone, so all ways count there. At most 1.5 × (p50) and 3 × (p99) of the baseline's.\n\n\
         | what happens | acked | lost, doubled, out of order | acked after, s | read after, s | at most, s | first tries, % | \
         spared p50, ms | p99, ms | other ways p50, ms | p99, ms | connects | holds |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for outcome in outcomes {
        // Writing to a String can't fail.
        let _ = match outcome {
            Ok(outcome) => writeln!(part, "{}", line(outcome)),
            Err(error) => writeln!(part, "| {error} | | | | | | | | | | | | **no** |"),
        };
    }
    part
}

fn line(outcome: &Outcome) -> String {
    let Outcome { row, report, figures, .. } = outcome;
    let of = |spread: Spread| match spread.count {
        0 => "– | –".to_owned(),
        _ => format!("{:.0} | {:.0}", spread.p50_ms, spread.p99_ms),
    };
    format!(
        "| {} | {} | {} | {:.1} | {:.1} | {} | {:.2} | {} | {} | {} | {} |",
        row.name,
        report.counts.acked,
        report.violation_count,
        figures.acked_after.as_secs_f64(),
        figures.read_after.as_secs_f64(),
        row.within.as_secs(),
        figures.success() * 100.0,
        of(figures.spared),
        of(figures.hit),
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
}
