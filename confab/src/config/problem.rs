//! What is wrong with a configuration, all of it at once.

use std::fmt;

use super::source::Source;

/// One thing that is wrong, where it was written and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The dotted key; empty when the file itself can't be read.
    key: String,
    value: Option<String>,
    source: Option<Source>,
    right: String,
}

/// At least one [`Problem`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problem {
    pub(crate) fn new(key: &str, value: Option<String>, source: Option<Source>, right: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value, source, right: right.into() }
    }

    /// The file is not TOML.
    pub(crate) fn of_file(source: Source, message: &str) -> Self {
        Self::new("", None, Some(source), message)
    }

    /// `key` is no setting. What it is close to is named the way its source would write it.
    pub(crate) fn unknown(key: &str, value: String, source: Source, known: &[&'static str]) -> Self {
        let right = if known.iter().any(|name| name.starts_with(&format!("{key}."))) {
            format!("is a section: its settings go below [{key}]")
        } else {
            match closest(key, known) {
                Some(name) => format!("is not a setting; did you mean {}?", as_written(name, &source)),
                None => "is not a setting; `confab default-config` shows them all".to_owned(),
            }
        };
        Self::new(key, Some(value), Some(source), right)
    }
}

/// The setting that was probably meant. A `.` and a `_` count as the same: `CONFAB_EDGE_WATCH_MAX` lacks a mere underscore.
fn closest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let flat = |name: &str| name.replace(['.', '-'], "_");
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let moved = known.iter().find(|name| last(name) == last(key));
    let near = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&flat(name), &flat(key)), name))
        .filter(|(distance, name)| distance * 4 <= name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    near.or(moved).copied()
}

fn as_written(key: &str, source: &Source) -> String {
    match source {
        Source::Env(_) => format!("CONFAB_{}", key.to_uppercase().replace('.', "__")),
        Source::Flag(_) | Source::File { .. } => key.to_owned(),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = self.key.clone();
        if let Some(value) = &self.value {
            head = format!("{head} = {value}");
        }
        match (&self.source, head.is_empty()) {
            (Some(source), true) => write!(f, "{source}")?,
            (Some(source), false) => write!(f, "{head} ({source})")?,
            (None, _) => write!(f, "{head}")?,
        }
        for line in self.right.lines() {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "1 problem in the configuration")?,
            count => writeln!(f, "{count} problems in the configuration")?,
        }
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["listen", "edge.watch_max", "edge.in_flight_max"];

    fn unknown(key: &str, source: Source) -> String {
        Problem::unknown(key, "1".to_owned(), source, &KNOWN).to_string()
    }

    #[test]
    fn a_misspelling_is_guessed() {
        let source = Source::File { path: "c.toml".into(), line: 3 };
        assert_eq!(
            unknown("edge.wach_max", source.clone()),
            "edge.wach_max = 1 (c.toml, line 3)\n    is not a setting; did you mean edge.watch_max?"
        );
        assert_eq!(
            unknown("watch_max", source.clone()),
            "watch_max = 1 (c.toml, line 3)\n    is not a setting; did you mean edge.watch_max?"
        );
        assert!(unknown("colour", source).ends_with("is not a setting; `confab default-config` shows them all"));
    }

    #[test]
    fn the_guess_is_in_the_words_of_its_source() {
        assert!(
            unknown("edge_watch_max", Source::Env("CONFAB_EDGE_WATCH_MAX".to_owned()))
                .ends_with("is not a setting; did you mean CONFAB_EDGE__WATCH_MAX?")
        );
    }

    #[test]
    fn a_section_is_no_setting() {
        assert!(
            unknown("edge", Source::Env("CONFAB_EDGE".to_owned()))
                .ends_with("is a section: its settings go below [edge]")
        );
    }
}
