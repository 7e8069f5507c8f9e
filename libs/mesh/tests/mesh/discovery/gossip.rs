//! Processes that gossip, in this one.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use confab_mesh::{
    Discovery, DiscoveryConfig, Source,
    discovery::{Gossip, GossipConfig},
};
use tokio::net::UdpSocket;

use super::{Driver, expect, suite};

const INTERVAL: Duration = Duration::from_millis(100);

/// One that talks to `seeds`.
async fn node(seeds: &[SocketAddr]) -> (Gossip, SocketAddr) {
    // A port that was free a moment ago.
    let listen = UdpSocket::bind("127.0.0.1:0").await.and_then(|socket| socket.local_addr()).expect("a free port");
    let mut cfg = GossipConfig::new(listen);
    cfg.seeds = seeds.iter().map(ToString::to_string).collect();
    cfg.interval = INTERVAL;
    (Gossip::start(cfg).await.expect("the port is free"), listen)
}

async fn discover(gossip: &Gossip, service: &str) -> Discovery {
    let source: Source = "gossip:".parse().expect("a source");
    let cfg = DiscoveryConfig { gossip: Some(gossip.clone()), ..DiscoveryConfig::default() };
    source.start(service, &cfg).await.expect("it begins")
}

/// One that looks, and one for each instance.
struct Cluster {
    looks: Gossip,
    seed: SocketAddr,
    nodes: HashMap<String, Gossip>,
}

impl Driver for Cluster {
    async fn start(&self) -> Discovery {
        discover(&self.looks, "message-svc").await
    }

    async fn set(&mut self, addresses: &[&str]) {
        let gone: Vec<String> =
            self.nodes.keys().filter(|there| !addresses.contains(&there.as_str())).cloned().collect();
        for address in gone {
            self.nodes.remove(&address).expect("it is there").leave().await;
        }
        for address in addresses {
            if !self.nodes.contains_key(*address) {
                let (gossip, _) = node(&[self.seed]).await;
                gossip.announce("message-svc", address).await;
                self.nodes.insert((*address).to_owned(), gossip);
            }
        }
    }

    async fn fail(&mut self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_suite() {
    let (looks, seed) = node(&[]).await;
    suite(Cluster { looks, seed, nodes: HashMap::new() }).await;
}

#[tokio::test]
async fn each_service_has_its_own_and_who_dies_without_a_word_is_gone_in_time() {
    let (first, seed) = node(&[]).await;
    let (second, _) = node(&[seed]).await;
    let (third, _) = node(&[seed]).await;
    first.announce("message-svc", "10.0.0.1:7000").await;
    second.announce("message-svc", "10.0.0.2:7000").await;
    third.announce("message-svc", "10.0.0.3:7000").await;
    third.announce("fanout-svc", "10.0.0.3:7001").await;

    let messages = discover(&first, "message-svc").await;
    expect(&mut messages.endpoints(), &["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]).await;
    let fanout = discover(&second, "fanout-svc").await;
    expect(&mut fanout.endpoints(), &["10.0.0.3:7001"]).await;

    drop(third);
    expect(&mut messages.endpoints(), &["10.0.0.1:7000", "10.0.0.2:7000"]).await;
    expect::<&str>(&mut fanout.endpoints(), &[]).await;
}

#[tokio::test]
async fn a_taken_port_and_a_missing_part_are_said_to_be() {
    let (_first, taken) = node(&[]).await;
    let error = Gossip::start(GossipConfig::new(taken)).await.expect_err("taken").to_string();
    assert!(error.contains(&format!("no gossip on {taken}")), "{error}");
    let source: Source = "gossip:".parse().expect("a source");
    let error = source.start("message-svc", &DiscoveryConfig::default()).await.expect_err("no part").to_string();
    assert!(error.contains("configure its listen address and seeds"), "{error}");
}
