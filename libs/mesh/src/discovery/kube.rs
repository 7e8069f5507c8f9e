//! The EndpointSlices of a Kubernetes service, watched.

use std::{collections::BTreeMap, net::SocketAddr};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::{Endpoint as KubeEndpoint, EndpointSlice};
use kube::{
    Api, Client, Config,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};

use super::{Discovery, DiscoveryConfig, Endpoint, KubePort, Snapshots, StartError};

/// How long one watch lasts, in seconds; a connection that died without a word is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;

pub(super) async fn start(
    namespace: &str,
    service: &str,
    port: KubePort,
    cfg: &DiscoveryConfig,
) -> Result<Discovery, StartError> {
    let config = match &cfg.kube_api {
        Some(url) => Config::new(url.clone()),
        None => Config::infer().await.map_err(|error| StartError::Kube(error.to_string()))?,
    };
    let client = Client::try_from(config).map_err(|error| StartError::Kube(error.to_string()))?;
    let slices = Api::<EndpointSlice>::namespaced(client, namespace);
    let watched =
        watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}")).timeout(WATCH_SECONDS);
    // After errors it waits longer and longer, up to 30 s.
    let events = watcher(slices, watched).default_backoff();
    let (snapshots, discovery) = Discovery::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = snapshots.unwatched() => {}
            () = follow(events, port, &snapshots) => {}
        }
    });
    Ok(discovery)
}

async fn follow(
    events: impl Stream<Item = watcher::Result<Event<EndpointSlice>>>,
    port: KubePort,
    snapshots: &Snapshots,
) {
    let mut events = std::pin::pin!(events);
    let mut slices = Slices { port, listed: BTreeMap::new(), listing: BTreeMap::new() };
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if slices.apply(event) {
                    snapshots.publish(slices.endpoints());
                }
            }
            Err(error) => tracing::warn!(%error, "Kubernetes does not answer: what it said last stays"),
        }
    }
}

/// What the service's slices hold; it may have several.
struct Slices {
    port: KubePort,
    /// By the slice's name. The control plane bounds a slice at 1,000 endpoints; what is told of all is bounded, too.
    listed: BTreeMap<String, Vec<Endpoint>>,
    /// The list that is being read after a beginning or a gap. What was listed before counts until it is whole.
    listing: BTreeMap<String, Vec<Endpoint>>,
}

impl Slices {
    /// Whether there may be news.
    fn apply(&mut self, event: Event<EndpointSlice>) -> bool {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(slice) => {
                let endpoints = self.usable(&slice);
                self.listing.insert(slice.metadata.name.unwrap_or_default(), endpoints);
            }
            Event::InitDone => {
                self.listed = std::mem::take(&mut self.listing);
                return true;
            }
            Event::Apply(slice) => {
                let endpoints = self.usable(&slice);
                self.listed.insert(slice.metadata.name.unwrap_or_default(), endpoints);
                return true;
            }
            Event::Delete(slice) => {
                self.listed.remove(&slice.metadata.name.unwrap_or_default());
                return true;
            }
        }
        false
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.listed.values().flatten().cloned().collect()
    }

    fn usable(&self, slice: &EndpointSlice) -> Vec<Endpoint> {
        let Some(port) = self.port_in(slice) else {
            return Vec::new();
        };
        // The API says that all addresses of one endpoint are the same instance's, and to use the first.
        let first = |endpoint: &KubeEndpoint| endpoint.addresses.first()?.parse().ok();
        let ready = slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)).filter_map(first);
        ready.map(|ip| Endpoint { address: SocketAddr::new(ip, port).to_string().into() }).collect()
    }

    fn port_in(&self, slice: &EndpointSlice) -> Option<u16> {
        match &self.port {
            KubePort::Number(number) => Some(*number),
            KubePort::Name(name) => {
                let ports = slice.ports.as_ref()?;
                let named = ports.iter().find(|port| port.name.as_ref() == Some(name))?;
                u16::try_from(named.port?).ok()
            }
        }
    }
}

/// What is not said counts as the API's documentation has it: ready, and not terminating.
fn is_ready(endpoint: &KubeEndpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_none_or(|conditions| conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false))
}
