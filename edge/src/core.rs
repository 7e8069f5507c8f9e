//! One connection's rules, pure and synchronous: frames, items and time go in, [`Out`]s come out.
//!
//! [`session`] is the whole; [`tracks`] keeps each chat's order; [`manners`] counts bad frames. Beside it, [`routes`] is what all
//! connections share: whom their commands go to.

pub(crate) mod manners;
pub(crate) mod routes;
pub(crate) mod session;
pub(crate) mod tracks;

use std::collections::BTreeMap;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::command::Action;

use crate::frames::{Close, Frame};
use crate::mailbox::Subject;

/// What the connection's task has to do.
#[derive(Debug)]
pub(crate) enum Out {
    Frame(Frame),
    /// A frame that answers one of the client's.
    Answer(Frame),
    /// A receipt, a presence, typing.
    Passing(Subject, Frame),
    /// A WebSocket ping.
    Ping(u64),
    /// For message-svc's stream; its reply comes with this number.
    Command {
        call: u64,
        action: Action,
    },
    /// A question; its answer comes as an item.
    Ask(Question),
    Close(Close),
}

/// What is asked beside the streams.
#[derive(Debug, PartialEq)]
pub(crate) enum Question {
    Sync {
        positions: BTreeMap<u64, u64>,
        from_read: bool,
        after: ChatId,
    },
    SyncOne {
        chat: ChatId,
    },
    List {
        chat: ChatId,
        after: Seq,
    },
    History {
        chat: ChatId,
        before: Seq,
        limit: u32,
        reference: Option<String>,
    },
    /// Which of these may be watched; refused ones are told to the client, with `reference`, if it has asked just now.
    Watch {
        users: Vec<UserId>,
        /// Those of them that weren't watched before.
        fresh: Vec<UserId>,
        asked: bool,
        reference: Option<String>,
    },
    /// Watched without asking: the peers of direct chats, and who may be watched. None: the states are told again.
    WatchPeers {
        users: Vec<UserId>,
    },
    Unwatch {
        users: Vec<UserId>,
    },
}
