//! Three nodes of Cassandra and a Redis cluster, by the scripts in `tests/services/`, with their folders in the cluster's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::kernel::Id;
use super::state::Place;

pub const CASSANDRA_NODES: u8 = 3;
/// Three that own slots, each with a replica.
pub const REDIS_NODES: u8 = 6;

const CQL: u16 = 19_042;
const STORAGE: u16 = 19_000;
/// The first node's; each has its own.
const JMX: u16 = 19_199;
/// The first node's; each has its own, and another one 10,000 above it for the other nodes.
const REDIS: u16 = 17_001;
const REDIS_BUS: u16 = 10_000;

/// Cassandra's own timeouts are for machines of its own; this one may have a compiler running.
const TIMEOUTS: &str = "read_request_timeout: 10s\nwrite_request_timeout: 10s\ncas_contention_timeout: 5s\n\
                        request_timeout: 10s\nrange_request_timeout: 10s\n";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Cassandra,
    Redis,
}

/// One of its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub store: Store,
    /// From 0, as all that there are several of.
    pub at: u8,
    /// Where clients connect.
    pub addr: SocketAddr,
}

impl Store {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cassandra => "cassandra",
            Self::Redis => "redis",
        }
    }

    #[must_use]
    pub fn nodes(self) -> Vec<Node> {
        let count = match self {
            Self::Cassandra => CASSANDRA_NODES,
            Self::Redis => REDIS_NODES,
        };
        (0..count).map(|at| Node { store: self, at, addr: self.addr(at) }).collect()
    }

    /// What the setting `redis.url` says of the cluster: one node, and the others in case that it is away.
    #[must_use]
    pub fn redis_url() -> String {
        let nodes: Vec<String> = Self::Redis.nodes().iter().map(|node| node.addr.to_string()).collect();
        format!("redis-cluster://{}", nodes.join("&node=").replacen('&', "?", 1))
    }

    fn addr(self, at: u8) -> SocketAddr {
        match self {
            Self::Cassandra => (Ipv4Addr::new(127, 0, 0, 1 + at), CQL).into(),
            Self::Redis => (Ipv4Addr::LOCALHOST, REDIS + u16::from(at)).into(),
        }
    }

    /// Every port that its nodes take, and whose it is.
    #[must_use]
    pub fn ports(self) -> Vec<(SocketAddr, String)> {
        let of = |node: Node| {
            let (ip, port, name) = (node.addr.ip(), node.addr.port(), node.name());
            let others = match self {
                Self::Cassandra => {
                    vec![(ip, STORAGE), (Ipv4Addr::LOCALHOST.into(), JMX + u16::from(node.at))]
                }
                Self::Redis => vec![(ip, port + REDIS_BUS)],
            };
            let all = std::iter::once((ip, port)).chain(others);
            all.map(move |addr| (SocketAddr::from(addr), name.clone())).collect::<Vec<_>>()
        };
        self.nodes().into_iter().flat_map(of).collect()
    }

    /// Starts what doesn't run, and waits until all is ready. `note`: what it says meanwhile.
    ///
    /// # Errors
    /// What the script says.
    pub async fn up(self, place: &Place, note: impl Fn(&str)) -> anyhow::Result<()> {
        match self {
            Self::Cassandra => self.run(place, &["up", &CASSANDRA_NODES.to_string()], note).await,
            Self::Redis => self.run(place, &["up", "cluster"], note).await,
        }
    }

    /// Ends all nodes, and removes their data. Also where there are none.
    ///
    /// # Errors
    /// What the script says.
    pub async fn wipe(self, place: &Place) -> anyhow::Result<()> {
        match self {
            Self::Cassandra => self.run(place, &["wipe"], |_| {}).await,
            Self::Redis => self.run(place, &["wipe", "cluster"], |_| {}).await,
        }
    }

    async fn run(self, place: &Place, arguments: &[&str], note: impl Fn(&str)) -> anyhow::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(self.name());
        let mut command = Command::new("bash");
        command.arg(&script).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C is for who called this: what is started here has to be ended in order.
        command.process_group(0).kill_on_drop(true);
        let data = self.data(place);
        match self {
            Self::Cassandra => command
                .env("CASSANDRA_DATA", data)
                .env("CASSANDRA_PORT", CQL.to_string())
                .env("CASSANDRA_STORAGE_PORT", STORAGE.to_string())
                .env("CASSANDRA_JMX_PORT", JMX.to_string())
                .env("CASSANDRA_YAML", TIMEOUTS),
            Self::Redis => command
                .env("CONFAB_REDIS_DIR", data)
                .env("CONFAB_REDIS_PORT", REDIS.to_string())
                .env("CONFAB_REDIS_REPLICAS", "1"),
        };
        let mut child = command.spawn().context("bash")?;
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr.take(SAID_BYTES_MAX)).lines();
            while let Some(line) = lines.next_line().await? {
                note(&line);
                said.push(line);
            }
        }
        let status = child.wait().await?;
        if !status.success() {
            bail!("{}: {}", self.name(), said.join("\n"));
        }
        Ok(())
    }

    fn data(self, place: &Place) -> PathBuf {
        place.folder().join(self.name())
    }
}

/// Of what a script says; it says little.
const SAID_BYTES_MAX: u64 = 64 * 1_024;

impl Node {
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.store.name(), self.at)
    }

    /// The process that was started last, and whether it is there.
    #[must_use]
    pub fn last(&self, place: &Place) -> Option<(u32, Option<Id>)> {
        match self.store {
            Store::Cassandra => {
                let folder = self.store.data(place).join(format!("node{}", self.at + 1));
                let pid = fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()?;
                // The script writes down no start: what the process was given tells it from another one.
                let mark = format!("-Dconfab.node={}", folder.display());
                Some((pid, Id::of(pid).filter(|id| id.arguments().contains(&mark))))
            }
            Store::Redis => {
                let file = self.store.data(place).join(format!("cluster/redis{}.pid", self.at));
                let text = fs::read_to_string(file).ok()?;
                let mut lines = text.lines();
                let id = Id { pid: lines.next()?.parse().ok()?, started: lines.next()?.parse().ok()? };
                Some((id.pid, Some(id).filter(|id| id.is_running())))
            }
        }
    }

    /// Ends it if it runs, and starts it.
    ///
    /// # Errors
    /// What the script says.
    pub async fn restart(&self, place: &Place) -> anyhow::Result<()> {
        let runs = matches!(self.last(place), Some((_, Some(_))));
        match self.store {
            Store::Cassandra => {
                let number = (self.at + 1).to_string();
                self.store.run(place, &["stop", &number], |_| {}).await?;
                self.store.run(place, &["start", &number], |_| {}).await
            }
            Store::Redis => {
                if runs {
                    let process = format!("redis{}", self.at);
                    self.store.run(place, &["signal", "cluster", &process, "TERM"], |_| {}).await?;
                }
                // Whatever else has ended comes back with it.
                self.store.run(place, &["up", "cluster"], |_| {}).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_every_node() {
        let url = Store::redis_url();
        assert!(url.starts_with("redis-cluster://127.0.0.1:17001?node=127.0.0.1:17002&node=127.0.0.1:17003&"), "{url}");
        assert_eq!(url.matches("127.0.0.1:").count(), usize::from(REDIS_NODES));
    }

    #[test]
    fn no_two_of_them_have_the_same_address() {
        let mut ports = [Store::Cassandra, Store::Redis].map(Store::ports).concat();
        let count = ports.len();
        ports.sort();
        ports.dedup_by_key(|(addr, _)| *addr);
        assert_eq!(ports.len(), count);
    }
}
