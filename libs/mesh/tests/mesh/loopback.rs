//! Servers on the loopback, and pools that connect to them. Real sockets, so the clock is real: waits are on conditions,
//! with a bound.

use std::{net::SocketAddr, time::Duration};

use confab_mesh::{
    ClientConfig, ConnectConfig, DiscoveryConfig, ListenConfig, Member, Members, Peer, Pool, Source, client,
    drain::{self, Drainer},
    serve,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// What must come comes within this time, on a busy machine, too.
const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Loopback {
    pub(crate) address: SocketAddr,
    pub(crate) drainer: Drainer,
    pub(crate) served: JoinHandle<()>,
}

impl Loopback {
    pub(crate) async fn start(peer: Peer, cfg: ListenConfig) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), peer, cfg).await
    }

    pub(crate) async fn start_at(address: SocketAddr, peer: Peer, cfg: ListenConfig) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (drainer, drain) = drain::channel();
        let served = tokio::spawn(async move { serve(listener, peer, cfg, &drain).await });
        Self { address, drainer, served }
    }

    /// As the death of its process would: nobody is told.
    pub(crate) async fn kill(self) {
        self.served.abort();
        let _ = self.served.await;
    }
}

/// A pool of the instances at `addresses`.
pub(crate) async fn pool_of(addresses: &[SocketAddr], cfg: ConnectConfig) -> Pool {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let source: Source = format!("static:{}", addresses.join(",")).parse().expect("a source");
    Pool::discover(source.start(cfg.target, &DiscoveryConfig::default()).await.expect("it begins"), cfg)
}

pub(crate) fn quick() -> ConnectConfig {
    let mut cfg = ConnectConfig::new("test-svc");
    cfg.backoff_max = Duration::from_millis(50);
    cfg
}

/// As soon as the members are as `wanted`.
pub(crate) async fn when(pool: &Pool, wanted: impl Fn(&[Member]) -> bool) -> Members {
    let mut watch = pool.watch();
    let members = promptly(watch.wait_for(|members| wanted(members))).await;
    members.expect("the pool is there").clone()
}

/// The client's stack around the only member, once it is up.
pub(crate) async fn only(pool: &Pool) -> Peer {
    let members = when(pool, |members| matches!(members, [member] if member.up)).await;
    client(ClientConfig::new("edge", "test-svc"), members[0].peer.clone())
}

pub(crate) async fn promptly<F: Future>(awaited: F) -> F::Output {
    tokio::time::timeout(SOON, awaited).await.expect("it does not come")
}
