//! Reads settings one by one from the layers, and goes on after a bad one: in the end every problem is known, not the first.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::{Problem, Problems};
use super::source::{Layer, Raw, Source};

const DAY_S: f64 = 86_400.0;

pub(crate) struct Reader {
    /// The first one that has a key decides.
    layers: Vec<Layer>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(crate) fn new(layers: Vec<Layer>, problems: Vec<Problem>) -> Self {
        Self { layers, known: Vec::new(), problems }
    }

    /// A whole number within `range`; what is wrong counts as `default`, so that reading can go on.
    pub(crate) fn number<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        let Some((raw, source)) = self.find(key) else { return default };
        let number = match &raw {
            Raw::Integer(number) => Some(*number),
            Raw::Text(text) => text.trim().replace('_', "").parse().ok(),
            Raw::String(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        let number = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            let right = format!("must be a whole number from {} to {}", range.start(), range.end());
            self.problem(key, Some(raw.to_string()), Some(source), right);
            default
        })
    }

    pub(crate) fn seconds(&mut self, key: &'static str, default: Duration, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, default.as_secs(), range))
    }

    /// Days, or parts of one; 0, and where nothing is written: none.
    pub(crate) fn days(&mut self, key: &'static str, max: u32) -> Option<Duration> {
        let (raw, source) = self.find(key)?;
        let days = match &raw {
            Raw::Integer(number) => u32::try_from(*number).ok().map(f64::from),
            Raw::Text(text) | Raw::Other(text) => text.trim().parse::<f64>().ok(),
            Raw::String(_) | Raw::List(_) => None,
        };
        let Some(days) = days.filter(|days| (0.0..=f64::from(max)).contains(days)) else {
            self.problem(key, Some(raw.to_string()), Some(source), format!("must be a number from 0 to {max}"));
            return None;
        };
        (days > 0.0).then(|| Duration::from_secs_f64(days * DAY_S))
    }

    /// A text that `parse` understands; `right` says what that would be, as in "must be …".
    pub(crate) fn parsed<T>(&mut self, key: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (raw, source) = self.find(key)?;
        let parsed = match &raw {
            Raw::Text(text) | Raw::String(text) => parse(text),
            Raw::Integer(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        if parsed.is_none() {
            self.problem(key, Some(raw.to_string()), Some(source), format!("must be {right}"));
        }
        parsed
    }

    /// A text that may hold what nobody should read in an error.
    pub(crate) fn secret(&mut self, key: &'static str) -> Option<String> {
        let (raw, source) = self.find(key)?;
        match raw {
            Raw::Text(text) | Raw::String(text) => Some(text),
            Raw::Integer(_) | Raw::List(_) | Raw::Other(_) => {
                self.problem(key, Some(raw.to_string()), Some(source), "must be a text");
                None
            }
        }
    }

    /// A list of texts, or one text with commas.
    pub(crate) fn list<T>(&mut self, key: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let Some((raw, source)) = self.find(key) else { return Vec::new() };
        let items = match &raw {
            Raw::Text(text) | Raw::String(text) => text.split(',').map(|item| parse(item.trim())).collect(),
            Raw::List(items) => {
                items.iter().map(|item| if let Raw::String(text) = item { parse(text) } else { None }).collect()
            }
            Raw::Integer(_) | Raw::Other(_) => None,
        };
        items.unwrap_or_else(|| {
            self.problem(key, Some(raw.to_string()), Some(source), format!("must be {right}"));
            Vec::new()
        })
    }

    pub(crate) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.parsed(key, "a path", |text| (!text.is_empty()).then(|| PathBuf::from(text)))
    }

    /// The path of a file that is there and can be read.
    pub(crate) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = self.path(key)?;
        if let Err(error) = readable(&path) {
            self.reject(key, format!("must be a file that can be read: {error}"));
        }
        Some(path)
    }

    /// The same of a list of them.
    pub(crate) fn files(&mut self, key: &'static str, right: &str) -> Vec<PathBuf> {
        let paths = self.list(key, right, |text| (!text.is_empty()).then(|| PathBuf::from(text)));
        for path in &paths {
            if let Err(error) = readable(path) {
                self.reject(key, format!("must be files that can be read: {}: {error}", path.display()));
            }
        }
        paths
    }

    /// Whether anything is written for `key`, good or bad.
    pub(crate) fn is_written(&self, key: &str) -> bool {
        self.written(key).is_some()
    }

    /// Says that the value of `key`, fine by itself, can't stay as it is.
    pub(crate) fn reject(&mut self, key: &'static str, right: impl Into<String>) {
        let (value, source) = match self.written(key) {
            Some((raw, source)) => (Some(raw.to_string()), Some(source.clone())),
            None => (None, None),
        };
        self.problem(key, value, source, right);
    }

    /// All is read: what nobody asked for is unknown.
    pub(crate) fn finish<T>(mut self, config: T) -> Result<T, Problems> {
        for layer in &self.layers {
            for (key, (raw, source)) in layer {
                if !self.known.contains(&key.as_str()) {
                    self.problems.push(Problem::unknown(key, raw.to_string(), source.clone(), &self.known));
                }
            }
        }
        if self.problems.is_empty() { Ok(config) } else { Err(Problems(self.problems)) }
    }

    fn find(&mut self, key: &'static str) -> Option<(Raw, Source)> {
        self.known.push(key);
        self.written(key).cloned()
    }

    fn written(&self, key: &str) -> Option<&(Raw, Source)> {
        self.layers.iter().find_map(|layer| layer.get(key))
    }

    fn problem(&mut self, key: &str, value: Option<String>, source: Option<Source>, right: impl Into<String>) {
        self.problems.push(Problem::new(key, value, source, right));
    }
}

fn readable(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path).and_then(|file| file.metadata()).and_then(is_file)
}

fn is_file(metadata: std::fs::Metadata) -> std::io::Result<()> {
    if metadata.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
}
