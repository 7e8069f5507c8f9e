//! What is asked, and what is answered.

use bytes::Bytes;
use fred::types::Value;

/// One command, whose first argument is the key: that names the node of a cluster.
#[derive(Clone, Debug)]
pub struct Command {
    pub(crate) name: &'static str,
    pub(crate) args: Vec<Value>,
}

impl Command {
    #[must_use]
    pub fn new(name: &'static str, key: impl Into<String>) -> Self {
        Self { name, args: vec![Value::String(key.into().into())] }
    }

    #[must_use]
    pub fn bytes(mut self, arg: Bytes) -> Self {
        self.args.push(Value::Bytes(arg));
        self
    }

    #[must_use]
    pub fn text(mut self, arg: impl Into<String>) -> Self {
        self.args.push(Value::String(arg.into().into()));
        self
    }

    #[must_use]
    pub fn number(mut self, arg: i64) -> Self {
        self.args.push(Value::Integer(arg));
        self
    }
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Number(i64),
    Bytes(Bytes),
    List(Vec<Reply>),
}

impl Reply {
    /// A list's items; of anything else none.
    #[must_use]
    pub fn into_list(self) -> Vec<Reply> {
        match self {
            Self::List(items) => items,
            Self::Nil | Self::Number(_) | Self::Bytes(_) => Vec::new(),
        }
    }

    #[must_use]
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Nil | Self::Number(_) | Self::List(_) => None,
        }
    }

    /// A text's, or a number, that `T` is written as.
    #[must_use]
    pub fn parsed<T: std::str::FromStr>(&self) -> Option<T> {
        match self {
            Self::Number(number) => number.to_string().parse().ok(),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            Self::Nil | Self::List(_) => None,
        }
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        match value {
            Value::Boolean(yes) => Self::Number(yes.into()),
            Value::Integer(number) => Self::Number(number),
            Value::Double(number) => Self::Bytes(number.to_string().into()),
            Value::String(text) => Self::Bytes(text.into_inner()),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Null | Value::Queued => Self::Nil,
            Value::Map(map) => {
                let pairs = map.inner().into_iter();
                Self::List(pairs.flat_map(|(key, value)| [Self::Bytes(key.into_bytes()), value.into()]).collect())
            }
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
        }
    }
}
