//! Looks at every process of the cluster: is it there, is it ready, what does it take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};

use super::kernel::{Id, Sockets};
use super::probe;
use super::shards::Shards;
use super::state::{Member, Place, State};
use super::stores::{Node, Store};
use super::table::{Health, Life, Row};

/// Looks again and again.
pub struct Sampler {
    place: Place,
    shards: Shards,
    /// The CPU time of each process at the last look. As many as the cluster has processes.
    seen: BTreeMap<u32, (Instant, Duration)>,
}

/// What was seen of a process, before it is asked anything.
struct Seen {
    name: String,
    addr: std::net::SocketAddr,
    life: Life,
    connections: usize,
}

impl Sampler {
    /// # Errors
    /// If the cluster's certificates aren't there.
    pub async fn new(place: &Place, state: &State) -> anyhow::Result<Self> {
        let shards = Shards::follow(place, state).await?;
        Ok(Self { place: place.clone(), shards, seen: BTreeMap::new() })
    }

    /// A row for each process: what clients meet first, first. Takes as long as the slowest answer, at most a second.
    pub async fn look(&mut self, state: &State) -> Vec<Row> {
        let sockets = Sockets::now();
        let before = std::mem::take(&mut self.seen);
        let place = self.place.clone();
        let mut see = |name: String, addr, last: Option<(u32, Option<Id>)>| {
            let life = last.map_or(Life::None, |(pid, id)| self.life(pid, id, &before));
            Seen { name, addr, life, connections: sockets.accepted(addr) }
        };
        let mut members = Vec::new();
        for group in state.members.chunk_by(|one, other| role(one) == role(other)).rev() {
            for member in group {
                let last = member.id.map(|id| (id.pid, Some(id).filter(|id| id.is_running())));
                members.push((see(member.launch.name.clone(), member.launch.addr, last), member.launch.ready));
            }
        }
        let nodes: Vec<Node> = [Store::Cassandra, Store::Redis].iter().flat_map(|store| store.nodes()).collect();
        let nodes: Vec<(Seen, Store)> =
            nodes.into_iter().map(|node| (see(node.name(), node.addr, node.last(&place)), node.store)).collect();
        let shards = &self.shards;
        let members = join_all(members.into_iter().map(|(seen, ready)| async move {
            let owned = shards.of(seen.addr).filter(|_| seen.name.starts_with("message-svc"));
            let words = owned.map(|count| format!("{count} shards")).unwrap_or_default();
            let answer = async { probe::is_ready(ready).await.then_some(words) };
            seen.asked(answer).await
        }));
        let nodes = join_all(nodes.into_iter().map(|(seen, store)| async move {
            let addr = seen.addr;
            seen.asked(probe::node(store, addr)).await
        }));
        let (mut rows, nodes) = join(members, nodes).await;
        rows.extend(nodes);
        rows
    }

    fn life(&mut self, pid: u32, id: Option<Id>, before: &BTreeMap<u32, (Instant, Duration)>) -> Life {
        let Some((stat, age)) = id.and_then(|id| Some((id.stat()?, id.age()?))) else { return Life::Gone { pid } };
        let now = Instant::now();
        self.seen.insert(pid, (now, stat.cpu));
        let cpu = before.get(&pid).and_then(|(then, used)| {
            let passed = now.duration_since(*then).as_secs_f64();
            // Another process of the same number has used less.
            Some(stat.cpu.checked_sub(*used)?.as_secs_f64() / passed).filter(|cores| cores.is_finite())
        });
        let state = if stat.is_frozen { Health::Frozen } else { Health::NotReady };
        Life::Running { pid, age, cpu, rss: stat.rss, state }
    }
}

/// `edge` of `edge-0`.
#[must_use]
pub fn role(member: &Member) -> &str {
    let name = member.launch.name.as_str();
    match name.rsplit_once('-') {
        Some((role, at)) if at.parse::<u32>().is_ok() => role,
        _ => name,
    }
}

impl Seen {
    /// Its row, with what it says of itself. Who isn't there, or stands still, is not asked.
    async fn asked(self, answer: impl Future<Output = Option<String>>) -> Row {
        let Self { name, addr, mut life, connections } = self;
        let mut note = String::new();
        if let Life::Running { state, .. } = &mut life
            && *state != Health::Frozen
            && let Some(said) = answer.await
        {
            *state = Health::Ready;
            note = said;
        }
        Row { name, addr: addr.to_string(), life, connections, note }
    }
}
