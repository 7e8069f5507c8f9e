//! Which message-svc owns how many of the shards, by their own word: the map that edges follow.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use confab_mesh::identity::tls::{Credentials, Files};
use confab_mesh::{BalanceConfig, ClientConfig, ClientTls, ConnectConfig, DiscoveryConfig, Peer, Pool, Source};
use confab_mesh::{balanced, client};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{WatchShardsRequest, WatchShardsResponse};
use tokio::task::JoinSet;

use super::state::{Place, State};
use crate::harness::shards::owned;

const TARGET: &str = "message-svc";
/// After a stream has ended.
const AGAIN: Duration = Duration::from_millis(500);

/// The newest map that one of the instances has told of. Whoever stands still tells an old one, and is not heard.
#[derive(Clone, Default)]
pub struct Shards {
    newest: Arc<Mutex<Newest>>,
    /// Ends with it.
    _following: Arc<JoinSet<()>>,
}

#[derive(Default)]
struct Newest {
    version: u64,
    /// By where the owner is.
    owned: BTreeMap<String, usize>,
}

impl Shards {
    /// Follows what each message-svc tells, as an edge does: with an edge's certificate.
    ///
    /// # Errors
    /// If there is no such certificate.
    pub async fn follow(place: &Place, state: &State) -> anyhow::Result<Self> {
        let file = |name: &str| place.folder().join("certs").join(name);
        let files = Files { cert: file("edge.crt"), key: file("edge.key"), authorities: file("ca.crt") };
        let credentials = Credentials::load(files)?;
        let newest = Arc::<Mutex<Newest>>::default();
        let mut following = JoinSet::new();
        for member in state.members.iter().filter(|member| member.launch.name.starts_with(TARGET)) {
            let messages = peer(member.launch.addr, &credentials).await?;
            following.spawn(follow(messages, Arc::clone(&newest)));
        }
        Ok(Self { newest, _following: Arc::new(following) })
    }

    /// How many shards the instance at `addr` owns; none before anybody has told.
    #[must_use]
    pub fn of(&self, addr: SocketAddr) -> Option<usize> {
        // The lock is held for as long as a look or an update takes.
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        (newest.version > 0).then(|| newest.owned.get(&addr.to_string()).copied().unwrap_or(0))
    }
}

async fn peer(addr: SocketAddr, credentials: &Credentials) -> anyhow::Result<Peer> {
    let source: Source = format!("static:{addr}").parse().context("a fixed address")?;
    let discovery = source.start(TARGET, &DiscoveryConfig::default()).await?;
    let credentials = credentials.clone();
    let tls: ClientTls = Arc::new(move || credentials.client_config(TARGET));
    let mut cfg = ConnectConfig::new(TARGET);
    (cfg.tls, cfg.connections) = (Some(tls), 1);
    Ok(balanced(Pool::discover(discovery, cfg), BalanceConfig::new(TARGET).streaming(&["WatchShards"])))
}

/// Never returns.
async fn follow(messages: Peer, newest: Arc<Mutex<Newest>>) {
    let mut cfg = ClientConfig::new("edge", TARGET).streaming(&["WatchShards"]);
    // It is tried at its own measure.
    cfg.breaker_failures = 0;
    let mut messages = MessageServiceClient::new(client(cfg, messages));
    loop {
        if let Ok(maps) = messages.watch_shards(WatchShardsRequest {}).await {
            let mut maps = maps.into_inner();
            while let Ok(Some(map)) = maps.message().await {
                newest.lock().unwrap_or_else(PoisonError::into_inner).hear(&map);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Newest {
    fn hear(&mut self, map: &WatchShardsResponse) {
        if map.version < self.version {
            return;
        }
        self.version = map.version;
        self.owned = owned(map).into_iter().map(|(owner, count)| (owner.to_owned(), count)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_map_counts() {
        let shards = Shards::default();
        let [one, other] = ["127.0.0.1:1", "127.0.0.1:2"].map(|addr| addr.parse().unwrap());
        let hear = |version, owners: &[SocketAddr], places: &[u32]| {
            let owners = owners.iter().map(SocketAddr::to_string).collect();
            let map = WatchShardsResponse { version, owners, shards: places.to_vec() };
            shards.newest.lock().unwrap().hear(&map);
        };
        assert_eq!(shards.of(one), None);
        hear(2, &[one, other], &[1, 2, 2, 0]);
        assert_eq!((shards.of(one), shards.of(other)), (Some(1), Some(2)));
        hear(1, &[one], &[1, 1, 1, 1]);
        assert_eq!((shards.of(one), shards.of(other)), (Some(1), Some(2)));
        // A place that no owner has is nobody's.
        hear(3, &[other], &[1, 1, 1, 7]);
        assert_eq!((shards.of(one), shards.of(other)), (Some(0), Some(3)));
    }
}
