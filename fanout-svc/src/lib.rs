//! fanout-svc: who must get an event, where they are, and one batch per edge.
//!
//! `core.rs` has the rules, pure; `router.rs` the task around them; `presence.rs` the streams to presence; `service.rs` the RPCs.

mod core;
mod metrics;
mod presence;
mod router;
mod service;

use confab_mesh::{Drain, Peer, Pool, ServerConfig};
use confab_proto::fanout::v1::fanout_service_server::FanoutServiceServer;

/// Whom this service calls, and when it stops.
pub struct Deps {
    pub presence: Pool,
    /// Begun once no caller needs this service any more.
    pub drain: Drain,
}

/// Starts the service: its RPCs.
#[must_use]
pub fn build(deps: Deps) -> Peer {
    let router = router::start(deps.presence, &deps.drain);
    let server = ServerConfig::new("fanout-svc").streaming(&["Publish", "Subscribe"]).drain(deps.drain);
    confab_mesh::server(server, FanoutServiceServer::new(service::Service::new(router)))
}
