//! One suite for every source of endpoints.

mod dns;
mod gossip;
#[cfg(feature = "kube")]
mod kube;

use std::{sync::Arc, time::Duration};

use confab_mesh::{Discovery, DiscoveryConfig, Endpoint, Source};
use tokio::{sync::watch, time::timeout};

use crate::loopback::promptly;

/// What a source asks, in the suite's hand.
trait Driver {
    /// Begins to discover what was [set](Driver::set).
    async fn start(&self) -> Discovery;
    /// These instances are there from now on.
    async fn set(&mut self, addresses: &[&str]);
    /// The source cannot be asked any more: returns once it was asked in vain. Whether it can be broken at all.
    async fn fail(&mut self) -> bool;
}

async fn suite(mut driver: impl Driver) {
    driver.set(&["10.0.0.2:7000", "10.0.0.1:7000"]).await;
    let discovery = driver.start().await;
    let mut endpoints = discovery.endpoints();
    expect(&mut endpoints, &["10.0.0.1:7000", "10.0.0.2:7000"]).await;

    driver.set(&["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]).await;
    expect(&mut endpoints, &["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]).await;
    driver.set(&["10.0.0.3:7000", "[fd00::1]:7000"]).await;
    expect(&mut endpoints, &["10.0.0.3:7000", "[fd00::1]:7000"]).await;
    driver.set(&[]).await;
    expect::<&str>(&mut endpoints, &[]).await;
    driver.set(&["10.0.0.4:7000"]).await;
    expect(&mut endpoints, &["10.0.0.4:7000"]).await;

    if driver.fail().await {
        assert_eq!(endpoints.borrow().len(), 1, "what it said last stays");
        assert!(!endpoints.has_changed().expect("it goes on"));
        driver.set(&["10.0.0.4:7000", "10.0.0.5:7000"]).await;
        expect(&mut endpoints, &["10.0.0.4:7000", "10.0.0.5:7000"]).await;
    }
    // Whoever comes later hears the same.
    expect(&mut discovery.endpoints(), &addresses(&endpoints)).await;
}

fn addresses(endpoints: &watch::Receiver<Arc<[Endpoint]>>) -> Vec<String> {
    endpoints.borrow().iter().map(ToString::to_string).collect()
}

async fn expect<A: AsRef<str>>(endpoints: &mut watch::Receiver<Arc<[Endpoint]>>, wanted: &[A]) {
    let there = |told: &Arc<[Endpoint]>| told.iter().map(|e| &*e.address).eq(wanted.iter().map(AsRef::as_ref));
    let seen = timeout(Duration::from_secs(20), endpoints.wait_for(there)).await.map(|seen| seen.map(drop));
    let wanted: Vec<&str> = wanted.iter().map(AsRef::as_ref).collect();
    assert!(matches!(seen, Ok(Ok(()))), "wanted {wanted:?}, there are {:?}", addresses(endpoints));
}

#[tokio::test]
async fn what_is_static_is_there_at_once_and_for_good() {
    let source: Source = "static:b:1,a:1,b:1".parse().expect("a source");
    let discovery = source.start("test-svc", &DiscoveryConfig::default()).await.expect("it begins");
    let mut endpoints = discovery.endpoints();
    expect(&mut endpoints, &["a:1", "b:1"]).await;
    discovery.look_again();
    endpoints.mark_unchanged();
    promptly(endpoints.changed()).await.expect_err("nothing will ever change");
}

#[cfg(not(feature = "kube"))]
#[tokio::test]
async fn what_was_left_out_of_the_build_is_said_to_be() {
    let source: Source = "k8s:confab/message-svc:7000".parse().expect("a source");
    let error = source.start("message-svc", &DiscoveryConfig::default()).await.expect_err("not here").to_string();
    assert!(error.contains("cargo feature kube"), "{error}");
}
