//! The layers a setting can come from: flags, environment, file. Each is a flat map from a dotted key to what was written there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// Where a value was written, as an error names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(&'static str),
    Env(String),
    File { path: PathBuf, line: usize },
}

/// A value as it was written, before anyone knows what it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw {
    /// From a flag or the environment, where everything is text: a number or a comma-separated list, if the key wants one.
    Text(String),
    Integer(i128),
    String(String),
    List(Vec<Raw>),
    /// A type that no setting has; kept to be shown.
    Other(String),
}

pub(crate) type Layer = BTreeMap<String, (Raw, Source)>;

/// The prefix of every variable that is ours.
const PREFIX: &str = "CONFAB_";

/// Not settings: the config file's path, and what the tests, the benchmark and the service scripts use for themselves.
const RESERVED: [&str; 10] = [
    "CONFAB_CONFIG",
    "CONFAB_TEST_",
    "CONFAB_BENCH_",
    "CONFAB_SEED",
    "CONFAB_BIN",
    "CONFAB_OTEL_",
    "CONFAB_REDIS_DIR",
    "CONFAB_REDIS_PORT",
    "CONFAB_REDIS_REPLICAS",
    "CONFAB_UNSAFE_",
];

pub(crate) fn from_env(vars: impl IntoIterator<Item = (String, String)>) -> Layer {
    vars.into_iter()
        .filter(|(name, value)| is_setting(name, value))
        .map(|(name, value)| {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            (key, (Raw::Text(value), Source::Env(name)))
        })
        .collect()
}

/// An empty variable counts as unset, as in a compose file's `CONFAB_DATA=`.
fn is_setting(name: &str, value: &str) -> bool {
    name.starts_with(PREFIX)
        && !value.is_empty()
        && !RESERVED.iter().any(|reserved| name.starts_with(reserved))
        && !is_service_link(name, value)
}

/// Kubernetes sets `CONFAB_PORT=tcp://…`, `CONFAB_SERVICE_HOST=…` and more in every pod beside a Service named `confab`:
/// they must not stop a start.
fn is_service_link(name: &str, value: &str) -> bool {
    let port_of_service =
        name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || port_of_service
}

/// Reads a TOML file's text. What can't be read is a problem; the rest of the file still counts, so that its other problems show.
pub(crate) fn from_toml(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Layer {
    let file = File { path, text };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let source = file.source(error.span().map_or(0, |span| span.start));
        problems.push(Problem::of_file(source, error.message()));
    }
    let mut layer = Layer::new();
    file.flatten("", root.get_ref(), &mut layer);
    layer
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn source(&self, at: usize) -> Source {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Source::File { path: self.path.to_owned(), line }
    }

    fn flatten(&self, prefix: &str, table: &DeTable<'_>, layer: &mut Layer) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.flatten(&format!("{key}."), inner, layer),
                leaf => {
                    layer.insert(key, (raw(leaf), self.source(name.span().start)));
                }
            }
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other(number.to_string()),
        },
        DeValue::Float(number) => Raw::Other(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Raw::Other(yes.to_string()),
        DeValue::Datetime(time) => Raw::Other(time.to_string()),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(_) => Raw::Other("{…}".to_owned()),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Env(name) => write!(f, "{name}"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", shown(text)),
            Self::Other(text) => write!(f, "{text}"),
            Self::String(text) => write!(f, "{:?}", shown(text)),
            Self::Integer(number) => write!(f, "{number}"),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Raw::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

/// A text without what may be a password in it: of an address with one, as Redis's can be, only the scheme. It goes by the
/// text, for a setting whose name is wrong is shown, too.
fn shown(text: &str) -> Cow<'_, str> {
    let secret = text.contains('@') || text.to_lowercase().contains("password=");
    match text.split_once("://") {
        Some((scheme, _)) if secret => Cow::Owned(format!("{scheme}://…")),
        None if secret => Cow::Borrowed("…"),
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<String> {
        from_env(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string()))).into_keys().collect()
    }

    #[test]
    fn a_double_underscore_nests() {
        assert_eq!(
            env(&[("CONFAB_EDGE__FRAME_BYTES_MAX", "1"), ("CONFAB_LISTEN", "x")]),
            ["edge.frame_bytes_max", "listen"]
        );
    }

    #[test]
    fn what_is_not_a_setting_is_left_alone() {
        let others = [
            ("CONFAB_SERVICE_HOST", "10.0.0.1"),
            ("CONFAB_EDGE_SERVICE_PORT_HTTP", "8080"),
            ("CONFAB_PORT", "tcp://10.0.0.1:8080"),
            ("CONFAB_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("CONFAB_TEST_SEED", "7"),
            ("CONFAB_CONFIG", "confab.toml"),
            ("CONFAB_DATA", ""),
            ("HOME", "/root"),
        ];
        assert_eq!(env(&others), Vec::<String>::new());
    }

    #[test]
    fn a_file_says_its_lines() {
        let mut problems = Vec::new();
        let layer = from_toml(Path::new("c.toml"), "listen = \"x\"\n\n[edge]\nin_flight_max = 0x10\n", &mut problems);
        assert!(problems.is_empty());
        let (value, source) = &layer["edge.in_flight_max"];
        assert_eq!((value, source.to_string().as_str()), (&Raw::Integer(16), "c.toml, line 4"));
    }

    #[test]
    fn a_broken_line_does_not_hide_the_others() {
        let mut problems = Vec::new();
        let layer = from_toml(Path::new("c.toml"), "listen = \n[edge]\nin_flight_max = 3\n", &mut problems);
        assert_eq!(problems.len(), 1);
        assert!(layer.contains_key("edge.in_flight_max"));
    }
}
