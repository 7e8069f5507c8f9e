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
//! Discovery over a network is not here yet. It attaches at [`Peer`]: a balancer over discovered endpoints is one more
//! peer, given to [`client`] in the place of [`local`]; its transport will set [`Identity`] from the peer's certificate
//! on the server's side.

pub mod deadline;
pub mod drain;
pub mod rendezvous;
pub mod views;

mod admission;
mod call;
mod client;
mod each;
mod identity;
mod in_flight;
mod local;
mod method;
mod metrics;
mod pool;
mod server;
mod trace;

pub use client::{ClientConfig, client};
pub use drain::Drain;
pub use each::each;
pub use identity::Identity;
pub use local::local;
pub use pool::{Member, Members, Pool};
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
