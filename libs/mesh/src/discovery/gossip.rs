//! Processes that tell each other which services they have and where, over UDP (chitchat: Scuttlebutt reconciliation with
//! a phi-accrual failure detector).
//!
//! Nobody is authenticated: whoever can send to the port can announce instances. It is for trusted networks, and for
//! instances that prove by their certificates who they are.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, ProtocolVersion, spawn_chitchat,
    transport::UdpTransport,
};
use tokio::time::sleep;

use super::{Discovery, Endpoint};

/// Missed intervals after which a process counts as dead, by the failure detector's measure.
const PHI: f64 = 8.0;
/// How long what is gone is remembered, so that it does not come back by way of who has not heard.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// Keys in the gossip: this, and a service's name.
const PREFIX: &str = "service/";

/// How a process takes part. Start from [`GossipConfig::new`].
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// Where others reach it. Default: where it listens.
    pub advertise: SocketAddr,
    /// Some who take part, `host:port`; names are resolved again each minute. Default: none, which is right for the
    /// first.
    pub seeds: Vec<String>,
    /// Who names another cluster is not listened to. Default: `confab`.
    pub cluster: String,
    /// Between two rounds, in each of which it talks to three others. Default: 1 s. Who was not heard of for about eight
    /// is dead: its instances are gone.
    pub interval: Duration,
}

impl GossipConfig {
    /// The documented defaults.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        let (cluster, interval) = ("confab".to_owned(), Duration::from_secs(1));
        Self { listen, advertise: listen, seeds: Vec::new(), cluster, interval }
    }
}

/// Why a process cannot take part: its address is taken, say.
#[derive(Debug, thiserror::Error)]
#[error("no gossip on {listen}: {reason}")]
pub struct GossipError {
    listen: SocketAddr,
    reason: String,
}

/// This process's part in the gossip. It ends with the last clone, and with what was discovered by it.
#[derive(Clone)]
pub struct Gossip {
    handle: Arc<ChitchatHandle>,
    interval: Duration,
}

impl Gossip {
    /// Begins to take part, with nothing to announce.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(cfg: GossipConfig) -> Result<Self, GossipError> {
        let (listen, interval) = (cfg.listen, cfg.interval);
        let spawned = spawn_chitchat(chitchat(cfg), Vec::new(), &UdpTransport).await;
        let handle = spawned.map_err(|error| GossipError { listen, reason: format!("{error:#}") })?;
        let ended = handle.termination_watcher();
        tokio::spawn(async move {
            if let Err(error) = ended.await {
                tracing::error!(%listen, %error, "the gossip has ended: instances stay as they were");
            }
        });
        Ok(Self { handle: Arc::new(handle), interval })
    }

    /// From now on all hear that this process has an instance of `service` at `address` (`host:port`).
    pub async fn announce(&self, service: &str, address: &str) {
        let key = format!("{PREFIX}{service}");
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().set(&key, address)).await;
    }

    /// Takes back all that was announced, and stays for two rounds to tell so.
    pub async fn leave(&self) {
        let take_back = |chitchat: &mut chitchat::Chitchat| {
            let me = chitchat.self_node_state();
            let keys: Vec<String> = me.iter_prefix(PREFIX).map(|(key, _)| key.to_owned()).collect();
            keys.iter().for_each(|key| me.delete(key));
        };
        self.handle.with_chitchat(take_back).await;
        sleep(self.interval * 2).await;
    }

    /// The instances of `service` that the living announce, this process's own among them.
    pub(super) fn discover(&self, service: &str) -> Discovery {
        let (snapshots, discovery) = Discovery::channel();
        let (handle, key) = (Arc::clone(&self.handle), format!("{PREFIX}{service}"));
        tokio::spawn(async move {
            let mut live = handle.chitchat().lock().await.live_nodes_watcher();
            let following = async {
                loop {
                    snapshots.publish(announced(&live.borrow_and_update(), &key));
                    if live.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = snapshots.unwatched() => {}
                () = following => {}
            }
        });
        discovery
    }
}

type Live = BTreeMap<ChitchatId, NodeState>;

fn announced(live: &Live, key: &str) -> Vec<Endpoint> {
    live.values().filter_map(|node| node.get(key)).map(|address| Endpoint { address: address.into() }).collect()
}

fn chitchat(cfg: GossipConfig) -> ChitchatConfig {
    // A process that starts again at the same address is another, and a later one.
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let generation = u64::try_from(started.as_micros()).unwrap_or(u64::MAX);
    ChitchatConfig {
        chitchat_id: ChitchatId::new(cfg.advertise.to_string(), generation, cfg.advertise),
        cluster_id: cfg.cluster,
        gossip_interval: cfg.interval,
        listen_addr: cfg.listen,
        seed_nodes: cfg.seeds,
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: PHI,
            initial_interval: cfg.interval,
            dead_node_grace_period: REMEMBERED,
            ..FailureDetectorConfig::default()
        },
        marked_for_deletion_grace_period: REMEMBERED,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    }
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("id", self.handle.chitchat_id()).finish_non_exhaustive()
    }
}
