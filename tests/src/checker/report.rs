//! What the checker found, in numbers and words.

use std::fmt;

/// How many violations are kept in words.
const WORDS_MAX: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: usize,
    /// Distinct messages acked.
    pub acked: usize,
    /// Acks that said `duplicate`.
    pub duplicates: usize,
    pub deliveries: usize,
    /// Times that a device was too far behind, and fetched a part itself.
    pub gaps: usize,
    pub chats: usize,
    /// (device, chat) pairs that were to get everything.
    pub streams: usize,
    pub connections: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub counts: Counts,
    /// All violations, also those beyond the ones kept in words.
    pub violation_count: usize,
    /// The first ten.
    pub violations: Vec<String>,
}

impl Report {
    pub(super) fn violation(&mut self, words: impl FnOnce() -> String) {
        self.violation_count += 1;
        if self.violations.len() < WORDS_MAX {
            self.violations.push(words());
        }
    }

    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violation_count == 0
    }

    /// # Panics
    /// If there is a violation; prints the report before.
    pub fn assert_clean(&self) {
        println!("{self}");
        assert!(self.is_clean(), "the history is broken:\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { sent, acked, duplicates, deliveries, gaps, chats, streams, connections } = self.counts;
        write!(
            f,
            "CONFAB_SEED={}: {sent} sent, {acked} acked ({duplicates} acks were of repeats), {deliveries} deliveries to \
             {streams} members of {chats} chats over {connections} connections, {gaps} gaps fetched: ",
            self.seed
        )?;
        match self.violation_count {
            0 => write!(f, "no violation"),
            count => {
                write!(f, "{count} violations")?;
                self.violations.iter().try_for_each(|words| write!(f, "\n  - {words}"))
            }
        }
    }
}
