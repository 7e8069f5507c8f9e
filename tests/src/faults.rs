//! The fault table: what befalls a mesh on Cassandra under load, and what may come of it. Nothing that was acked is lost,
//! doubled or out of order; every chat's messages flow again within a bound.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use confab_test_servers::Cassandra;
use tokio::time::sleep;

use crate::checker::{Device, History, Report};
use crate::harness::{Mesh, Shape, Signal, Store, wait_for};
use crate::roam::{Field, roam};

/// Members of each group.
const MEMBERS: usize = 6;
const GROUPS: usize = 16;

/// How long a row may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at the chats' heads.
const LOOK: Duration = Duration::from_millis(50);

/// An owner's lease ends, is seen to have ended, and its chats are recovered by another.
const AFTER_OWNER: Duration = Duration::from_secs(12);
const AFTER_OTHERS: Duration = Duration::from_secs(5);

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
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub strike: Strike,
    /// From the strike on, no chat is without an ack for longer.
    pub within: Duration,
}

/// All rows, in the order in which they are run.
pub const TABLE: [Row; 9] = [
    Row { name: "baseline", strike: Strike::Nothing, within: AFTER_OTHERS },
    Row { name: "kill-message-svc", strike: Strike::Kill("message-svc-0"), within: AFTER_OWNER },
    Row { name: "kill-fanout-svc", strike: Strike::Kill("fanout-svc-0"), within: AFTER_OTHERS },
    Row { name: "kill-presence-svc", strike: Strike::Kill("presence-svc-0"), within: AFTER_OTHERS },
    Row { name: "kill-edge", strike: Strike::Kill("edge-0"), within: AFTER_OTHERS },
    Row {
        name: "freeze-message-svc",
        strike: Strike::Freeze("message-svc-1", Duration::from_secs(15)),
        within: AFTER_OWNER,
    },
    Row {
        name: "freeze-edge",
        strike: Strike::Freeze("edge-1", Duration::from_secs(60)),
        // Its own clients find out by their pings only, as a client of a frozen server does.
        within: Duration::from_secs(75),
    },
    Row { name: "rolling-restart", strike: Strike::RollingRestart, within: AFTER_OTHERS },
    Row { name: "kill-cassandra-node", strike: Strike::KillStore(2), within: AFTER_OTHERS },
];

/// # Errors
/// If there is no such row.
pub fn row(name: &str) -> anyhow::Result<Row> {
    let names = TABLE.map(|row| row.name).join(", ");
    TABLE.into_iter().find(|row| row.name == name).with_context(|| format!("no fault {name}; there are {names}"))
}

/// What clients do meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub messages: usize,
    /// How long the sending takes where nothing is in the way.
    pub lasts: Duration,
}

/// What came of a row.
pub struct Outcome {
    pub row: Row,
    pub report: Report,
    /// The longest that a chat was without an ack while it had messages to send, from the strike on.
    pub stalled: Duration,
    pub reconnects: u64,
    pub took: Duration,
}

impl Outcome {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.report.is_clean() && self.stalled <= self.row.within
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, report, stalled, reconnects, took } = self;
        write!(
            f,
            "{}: {} acked, {} violations, longest stall {:.1} s (at most {} s), {reconnects} reconnects, {:.0} s",
            row.name,
            report.counts.acked,
            report.violation_count,
            stalled.as_secs_f64(),
            row.within.as_secs(),
            took.as_secs_f64()
        )
    }
}

/// A mesh of two of each role on a Cassandra.
pub struct Cluster {
    pub mesh: Mesh,
    cassandra: Cassandra,
}

impl Cluster {
    /// # Errors
    /// If something doesn't start.
    pub async fn start(nodes: u32) -> anyhow::Result<Self> {
        let cassandra = tokio::task::spawn_blocking(move || Cassandra::start(nodes)).await??;
        let store = Store::plain(cassandra.points());
        let shape = Shape { message: 2, cassandra: Some(store), ..Shape::default() };
        Ok(Self { mesh: Mesh::start(shape).await?, cassandra })
    }

    /// Puts the load on while it happens, and judges. `first`: a user id above all that were used before.
    ///
    /// # Errors
    /// If a client can't get through at all.
    pub async fn run(&mut self, row: Row, load: Load, seed: u64, first: u64) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let users: Vec<u64> = (first..).take(MEMBERS * GROUPS).collect();
        let mut chats = Vec::new();
        for part in users.chunks(MEMBERS) {
            chats.push(self.mesh.group(0, part[0], &part[1..]).await?);
        }
        let per_user = load.messages.div_ceil(users.len());
        let addrs = [self.mesh.edge(0), self.mesh.edge(1)];
        let mut field = Field::new(addrs, seed, 400..4_000, &chats, users.len());
        field.pace = load.lasts / u32::try_from(per_user).unwrap_or(u32::MAX);
        let field = Arc::new(field);
        let mut roamers = Vec::new();
        for (at, user) in users.iter().enumerate() {
            let (field, token, chat) = (Arc::clone(&field), self.mesh.token(*user), chats[at / MEMBERS]);
            let device = Device { user: *user, name: "default".to_owned() };
            roamers.push(tokio::spawn(async move { roam(&field, device, token, &[chat], per_user, PATIENCE).await }));
        }
        let under_way = (users.len() * per_user / 5) as u64;
        wait_for("acks before it happens", PATIENCE, || std::future::ready((field.acked() >= under_way).then_some(())))
            .await?;
        let watched = tokio::spawn(longest_stall(Arc::clone(&field)));
        self.strike(row.strike).await?;
        let mut history = History::new(seed);
        for roamer in roamers {
            history.absorb(roamer.await??);
        }
        let report = history.judge();
        ensure!(report.counts.acked >= users.len() * per_user, "only {} acked", report.counts.acked);
        let (stalled, reconnects) = (watched.await?, field.reconnects());
        self.mend(row.strike).await?;
        Ok(Outcome { row, report, stalled, reconnects, took: started.elapsed() })
    }

    async fn strike(&mut self, strike: Strike) -> anyhow::Result<()> {
        match strike {
            Strike::Nothing => {}
            Strike::Kill(name) => self.mesh.process(name).kill9()?,
            Strike::Freeze(name, time) => {
                self.mesh.process(name).signal(Signal::Stop)?;
                sleep(time).await;
                self.mesh.process(name).signal(Signal::Cont)?;
            }
            Strike::RollingRestart => {
                let names: Vec<String> = self.mesh.processes.keys().cloned().collect();
                for name in names {
                    let process = self.mesh.process(&name);
                    process.signal(Signal::Term)?;
                    process.wait_exit(Duration::from_secs(40)).await?;
                    process.respawn()?;
                    process.wait_ready().await?;
                }
            }
            Strike::KillStore(node) => self.cassandra.node("kill", node)?,
        }
        Ok(())
    }

    /// For the next row.
    async fn mend(&mut self, strike: Strike) -> anyhow::Result<()> {
        match strike {
            Strike::Kill(name) => {
                self.mesh.process(name).respawn()?;
                self.mesh.process(name).wait_ready().await
            }
            Strike::KillStore(node) => self.cassandra.node("start", node),
            _ => Ok(()),
        }
    }
}

/// Until all is sent. A chat whose messages are all acked is not looked at any more, as its head doesn't change.
async fn longest_stall(field: Arc<Field>) -> Duration {
    let mut since: BTreeMap<u64, (u64, Instant)> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    loop {
        let now = Instant::now();
        for (chat, head) in field.heads() {
            let (known, at) = since.entry(chat).or_insert((head, now));
            if *known != head {
                // Only when it goes on: the end of a chat's messages is no stall.
                longest = longest.max(now - *at);
                (*known, *at) = (head, now);
            }
        }
        if field.is_done() {
            return longest;
        }
        sleep(LOOK).await;
    }
}
