//! What happens, and how long it may be felt.

use std::time::Duration;

use anyhow::Context as _;

use super::paths::Struck;
use super::wiring::Wiring;

/// An owner's lease ends, is seen to have ended, and its chats are recovered by another.
const AFTER_OWNER: Duration = Duration::from_secs(12);
const AFTER_OTHERS: Duration = Duration::from_secs(5);
/// Everything is handed over before it is let go.
const IN_DRAIN: Duration = Duration::from_secs(2);

/// How long packets vanish, or a call takes longer: until whoever is cut off is known to be.
const CUT: Duration = Duration::from_secs(20);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// Nothing: the baseline.
    Nothing,
    /// A process is killed (-9), and started again when messages flow without it.
    Kill(&'static str),
    /// A process stands still (SIGSTOP) for so long, then goes on.
    Freeze(&'static str, Duration),
    /// Each process in turn is asked to end (SIGTERM), and started again.
    RollingRestart,
    /// A node of Cassandra is killed (-9), and stays away.
    KillStore(u32),
    /// A primary of Redis is killed (-9), and its replica takes its place.
    KillCache,
    /// What `caller` sends to `called` vanishes for so long; if `both`, what that answers, too.
    Cut { caller: &'static str, called: &'static str, both: bool, time: Duration },
    /// What is sent to the endpoint behind the proxy takes `by` longer, for so long.
    Slow { name: &'static str, by: Duration, time: Duration },
    /// Two more instances of message-svc join, take their part, and are asked to end.
    ScaleOut,
    /// Each process in turn is asked to end, and the next version of it started; before, the tables are brought up to date.
    RollingUpgrade,
}

impl Strike {
    /// From the strike until it is over, at the most: so long messages have to be sent.
    #[must_use]
    pub fn lasts(self) -> Duration {
        match self {
            Self::Nothing | Self::Kill(_) | Self::KillStore(_) | Self::KillCache => Duration::from_secs(5),
            Self::Freeze(_, time) => time,
            Self::Cut { time, .. } => time + Duration::from_secs(5),
            Self::Slow { time, .. } => time + Duration::from_secs(5),
            Self::ScaleOut => Duration::from_secs(60),
            Self::RollingRestart | Self::RollingUpgrade => Duration::from_secs(180),
        }
    }

    /// Whose part in a message's way is felt.
    #[must_use]
    pub(super) fn struck(self) -> Struck {
        match self {
            // Redis has no part in a message's way to who is connected.
            Self::Nothing | Self::KillCache => Struck::Nobody,
            Self::Kill(name) | Self::Freeze(name, _) | Self::Slow { name, .. } => Struck::One(name),
            Self::Cut { caller, called, .. } => Struck::Between(caller, called),
            // Every quorum has the other two nodes, and every process its turn.
            Self::RollingRestart | Self::RollingUpgrade | Self::ScaleOut | Self::KillStore(_) => Struck::All,
        }
    }

    /// The mesh that it needs.
    #[must_use]
    pub(super) fn wiring(self) -> Wiring {
        match self {
            Self::Slow { .. } => Wiring::Proxied("message-svc", 1),
            Self::ScaleOut => Wiring::Gossip,
            Self::KillCache => Wiring::Redis,
            Self::RollingUpgrade => Wiring::Before,
            _ => Wiring::Plain,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub strike: Strike,
    /// From a message's first try, no longer until its ack, nor until its last reader has it.
    pub within: Duration,
    /// Messages, at least.
    pub messages: usize,
}

const fn row_of(name: &'static str, strike: Strike, within: Duration) -> Row {
    Row { name, strike, within, messages: 5_000 }
}

const fn owner_row(name: &'static str, strike: Strike) -> Row {
    Row { name, strike, within: AFTER_OWNER, messages: 20_000 }
}

/// What the others are held against.
pub const BASELINE: Row = row_of("baseline", Strike::Nothing, AFTER_OTHERS);

/// All rows, in the order in which they are run.
pub const TABLE: [Row; 15] = [
    BASELINE,
    owner_row("kill-message-svc", Strike::Kill("message-svc-0")),
    row_of("kill-fanout-svc", Strike::Kill("fanout-svc-0"), AFTER_OTHERS),
    row_of("kill-presence-svc", Strike::Kill("presence-svc-0"), AFTER_OTHERS),
    row_of("kill-edge", Strike::Kill("edge-0"), AFTER_OTHERS),
    owner_row("freeze-message-svc", Strike::Freeze("message-svc-1", Duration::from_secs(15))),
    // Its own clients find out by its silence only: after 35 to 50 s, as docs/protocol.md says. Those who connect to it meanwhile give
    // up after 15 s.
    row_of("freeze-edge", Strike::Freeze("edge-1", Duration::from_secs(60)), Duration::from_secs(65)),
    row_of(
        "cut-two-way",
        Strike::Cut { caller: "message-svc-0", called: "fanout-svc-0", both: true, time: CUT },
        AFTER_OTHERS,
    ),
    // Nobody else may order these chats while their owner holds its lease, and that it does: its store is not cut off. They go by
    // way of the other message-svc.
    row_of(
        "cut-one-way",
        Strike::Cut { caller: "edge-0", called: "message-svc-1", both: false, time: CUT },
        AFTER_OTHERS,
    ),
    row_of("rolling-restart", Strike::RollingRestart, IN_DRAIN),
    row_of("kill-cassandra-node", Strike::KillStore(2), AFTER_OTHERS),
    row_of("kill-redis-primary", Strike::KillCache, AFTER_OTHERS),
    row_of(
        "slow-endpoint",
        Strike::Slow { name: "message-svc-1", by: Duration::from_secs(2), time: CUT },
        AFTER_OTHERS,
    ),
    row_of("scale-out", Strike::ScaleOut, IN_DRAIN),
    row_of("rolling-upgrade", Strike::RollingUpgrade, IN_DRAIN),
];

/// # Errors
/// If there is no such row.
pub fn row(name: &str) -> anyhow::Result<Row> {
    let names = TABLE.map(|row| row.name).join(", ");
    TABLE.into_iter().find(|row| row.name == name).with_context(|| format!("no fault {name}; there are {names}"))
}
