//! The mesh: what every Confab service puts around its gRPC server and its clients.
//!
//! A service is reached through a [`Peer`], and cannot tell what is at its other end:
//!
//! ```text
//! generated client -> client(cfg, peer) -> [ local(identity, ..) | a network, later ] -> server(cfg, svc) -> generated server
//! ```
//!
//! [`server`] and [`client`] are each one commented list of [tower](https://docs.rs/tower) layers; read `server.rs` and
//! `client.rs` for what is in them and why in that order. This crate knows no proto: a method is a path.
//!
//! ```
//! use confab_mesh::{ClientConfig, Identity, ServerConfig, client, local, server};
//! # use tower::ServiceExt;
//! # #[derive(Clone)] struct MessageServer;
//! # impl tower::Service<http::Request<tonic::body::Body>> for MessageServer {
//! #     type Response = http::Response<tonic::body::Body>;
//! #     type Error = std::convert::Infallible;
//! #     type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
//! #     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
//! #         std::task::Poll::Ready(Ok(()))
//! #     }
//! #     fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
//! #         std::future::ready(Ok(tonic::Status::not_found("no such chat").into_http()))
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let (_drainer, drain) = confab_mesh::drain::channel();
//! let cfg = ServerConfig::new("message-svc").streaming(&["Converse"]).drain(drain);
//! let messages = server(cfg, MessageServer); // a generated tonic server
//!
//! let cfg = ClientConfig::new("edge", "message-svc").streaming(&["Converse"]);
//! let peer = client(cfg, local(Identity::new("edge"), messages)); // what a generated tonic client is made with
//! # let response = peer.oneshot(http::Request::default()).await.expect("an answer");
//! # assert_eq!(response.headers()["grpc-status"], "5");
//! # }
//! ```
//!
//! Over a network, [`serve`] hosts a server's stack, or several told apart by [`route`]; on the other side
//! [`Pool::discover`] finds and connects to the instances that a [`Source`] tells of, and the peer given to [`client`] in
//! the place of [`local`] is [`balanced`] over them, or the one that a key belongs to ([`Pool::keyed`]). The transport
//! puts the client's certificates into the server's requests ([`PeerCertificates`]).
//!
//! ```no_run
//! # use confab_mesh::{BalanceConfig, ClientConfig, ConnectConfig, DiscoveryConfig, ListenConfig, Peer, Pool, Source};
//! # async fn wire(messages: Peer, drain: &confab_mesh::Drain) -> Result<Peer, Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:7000").await?;
//! confab_mesh::serve(listener, messages, ListenConfig::default(), drain).await;
//!
//! let source: Source = "dns:message-svc.confab.svc.cluster.local:7000".parse()?;
//! let discovery = source.start("message-svc", &DiscoveryConfig::default()).await?;
//! let pool = Pool::discover(discovery, ConnectConfig::new("message-svc"));
//! let balancing = BalanceConfig::new("message-svc").streaming(&["Converse"]);
//! let messages = confab_mesh::client(ClientConfig::new("edge", "message-svc"), confab_mesh::balanced(pool, balancing));
//! # Ok(messages) }
//! ```

pub mod circuit;
pub mod deadline;
pub mod discovery;
pub mod drain;
pub mod health;
pub mod identity;
pub mod reflection;
pub mod rendezvous;
pub mod unsent;
pub mod views;

mod admission;
mod balance;
mod breaker;
mod call;
mod client;
mod connect;
mod each;
mod guard;
mod homes;
mod in_flight;
mod limit;
mod listen;
mod local;
mod loopback;
mod method;
mod metrics;
mod policy;
mod pool;
mod retry;
mod route;
mod server;
mod shed;
mod throttle;
mod trace;
mod window;

pub use balance::{BalanceConfig, balanced};
pub use client::{ClientConfig, client};
pub use connect::{ClientTls, ConnectConfig, HealthCheck};
pub use discovery::{Discovery, DiscoveryConfig, Endpoint, Source};
pub use drain::Drain;
pub use each::each;
pub use guard::guarded;
pub use homes::Homes;
pub use identity::{Identity, PeerAddress, PeerCertificates};
pub use listen::{ListenConfig, ServerTls, serve};
pub use local::local;
pub use loopback::is_loopback;
pub use policy::Policy;
pub use pool::{Member, Members, Pool};
pub use route::route;
pub use server::{ServerConfig, server};

/// A way to call a service, in process or over a network. Both ends are erased to this.
///
/// Every error is a [`tonic::Status`]. Answers that come from a server, its layers' refusals too, are gRPC responses
/// (`grpc-status` in the headers or the trailers); an `Err` means that no server answered.
pub type Peer = tower::util::BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    tonic::Status,
>;
