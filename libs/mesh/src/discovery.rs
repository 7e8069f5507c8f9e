//! Which instances a service has, as one stream of snapshots, whatever says so.
//!
//! | source | says so |
//! |---|---|
//! | `static:10.0.0.1:7000,10.0.0.2:7000` | the operator, for good |
//! | `dns:message-svc.confab.svc.cluster.local:7000` | DNS: all addresses of a name, as a headless service has them |
//! | `gossip:` | the instances themselves: see [`Gossip`] |
//! | `k8s:confab/message-svc:7000`, `k8s:confab/message-svc:grpc` | Kubernetes: a service's EndpointSlices, with the port's number or name |
//!
//! Whatever a source cannot find out changes nothing: what it said last stays.

mod dns;
mod gossip;
#[cfg(feature = "kube")]
mod kube;
mod parse;
mod snapshots;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

pub use gossip::{Gossip, GossipConfig, GossipError};
pub use parse::ParseSourceError;
pub(crate) use snapshots::Snapshots;

/// Where one instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// `host:port`, an IPv6 address in brackets: `[::1]:7000`.
    pub address: Arc<str>,
}

/// Who says which instances a service has. Parsed from a string: see the [module's documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// These, for good.
    Static(Vec<Endpoint>),
    /// All addresses (A and AAAA) of a name, asked for again and again.
    Dns {
        /// The name; search domains are those of the system.
        name: String,
        /// The instances' port.
        port: u16,
    },
    /// The processes that announce the service to each other.
    Gossip,
    /// The EndpointSlices of a Kubernetes service: what is ready and not terminating. Needs the right to list and watch
    /// `endpointslices` (`discovery.k8s.io`) in the namespace.
    Kube {
        /// The service's namespace.
        namespace: String,
        /// The service's name.
        service: String,
        /// The instances' port.
        port: KubePort,
    },
}

/// How a port is told among those of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubePort {
    /// The instances' port itself, whatever the service's is.
    Number(u16),
    /// Its name in the service.
    Name(String),
}

/// What sources need besides their own text. Start from [`DiscoveryConfig::default`].
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Between two questions to DNS. Default: 5 s. After [`Discovery::look_again`] and until the first answer it is at
    /// most 1 s.
    pub dns_interval: Duration,
    /// Whom to ask. Default: none, which is those that the system asks.
    pub dns_servers: Vec<SocketAddr>,
    /// This process's part in the gossip. Default: none.
    pub gossip: Option<Gossip>,
    /// The URL of a Kubernetes API server that asks for no credentials, such as `kubectl proxy`. Default: none, which is
    /// the kubeconfig's, or else the cluster's that this process runs in.
    pub kube_api: Option<http::Uri>,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self { dns_interval: Duration::from_secs(5), dns_servers: Vec::new(), gossip: None, kube_api: None }
    }
}

/// Why a source cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Neither a name nor an address to send questions to.
    #[error("no DNS resolver: {0}")]
    Resolver(String),
    /// `gossip:` without [`DiscoveryConfig::gossip`].
    #[error("gossip: this process takes no part in a gossip; configure its listen address and seeds")]
    NoGossip,
    /// Neither a kubeconfig nor a cluster around this process.
    #[error("no Kubernetes API server: {0}")]
    Kube(String),
    /// `k8s:` in a program that was built without it.
    #[error("this program was built without k8s: discovery (confab-mesh's cargo feature kube)")]
    NoKube,
}

impl Source {
    /// Begins to find instances of `service` (`message-svc`, …).
    ///
    /// # Errors
    /// See [`StartError`]. That nobody answers yet is no error.
    pub async fn start(self, service: &str, cfg: &DiscoveryConfig) -> Result<Discovery, StartError> {
        match self {
            Self::Static(endpoints) => Ok(Discovery::fixed(endpoints)),
            Self::Dns { name, port } => dns::start(name, port, cfg),
            Self::Gossip => Ok(cfg.gossip.as_ref().ok_or(StartError::NoGossip)?.discover(service)),
            #[cfg(feature = "kube")]
            Self::Kube { namespace, service, port } => kube::start(&namespace, &service, port, cfg).await,
            #[cfg(not(feature = "kube"))]
            Self::Kube { .. } => Err(StartError::NoKube),
        }
    }
}

/// The instances of one service as they come and go. What finds them ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Discovery {
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    again: Arc<Notify>,
}

impl Discovery {
    /// All that are known, ascending and at most 1,024 (what is above is left out, and logged); empty until the first
    /// answer. If [`changed`](watch::Receiver::changed) fails, they stay as they are for good.
    #[must_use]
    pub fn endpoints(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.endpoints.clone()
    }

    /// A hint that an endpoint has failed: a source that asks from time to time asks soon.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    fn fixed(endpoints: Vec<Endpoint>) -> Self {
        let (snapshots, discovery) = Self::channel();
        snapshots.publish(endpoints);
        discovery
    }

    fn channel() -> (Snapshots, Self) {
        let (snapshots, endpoints) = Snapshots::channel();
        let again = Arc::new(Notify::new());
        (snapshots, Self { endpoints, again })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}
