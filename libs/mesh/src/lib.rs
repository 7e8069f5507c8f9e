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
//! Discovery over a network is not here yet. It attaches at [`Peer`]: a balancer over discovered endpoints is one more
//! peer, given to [`client`] in the place of [`local`]; its transport will set [`Identity`] from the peer's certificate
//! on the server's side.

pub mod deadline;
pub mod drain;

mod admission;
mod call;
mod client;
mod identity;
mod in_flight;
mod local;
mod method;
mod metrics;
mod server;
mod trace;

pub use client::{ClientConfig, client};
pub use drain::Drain;
pub use identity::Identity;
pub use local::local;
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
