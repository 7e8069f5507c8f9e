//! What the checker has to say: what was found, where, and what should have been.

use std::fmt;

/// Its name is what a control asserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An event that a device should have is not there, or not yet when its time was up.
    Missing,
    /// An event came again.
    Twice,
    /// An event is told in two ways that can't both be.
    Differs,
    /// Something of a chat came after its last event for this user.
    AfterRemoval,
    /// Something of a chat came that is from before the user's join.
    BeforeJoin,
    /// A watermark was told that is lower than one told before.
    ReceiptWentBack,
    /// A watermark that should have been told was not, or is none.
    Receipt,
    /// A message's text, or its reactions, are not what they should be.
    Message,
    /// A chat's members, their roles or its title are not what they should be.
    Group,
    /// A list of the HTTP API does not say what the log says.
    Listed,
    /// The log has what nobody may do.
    Illegal,
    /// An answer that nothing explains.
    Answer,
    /// A frame that can't be read, or a connection that ended.
    Connection,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub kind: Kind,
    pub chat: u64,
    /// A device, a user or the server.
    pub who: String,
    pub expected: String,
    pub found: String,
}

impl Finding {
    pub(crate) fn new(
        kind: Kind,
        chat: u64,
        who: &impl fmt::Display,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { kind, chat, who: who.to_string(), expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, chat, who, expected, found } = self;
        write!(f, "{kind:?}: chat {chat}, {who}\n    expected {expected}\n    found    {found}")
    }
}
