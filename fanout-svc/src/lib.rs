//! fanout-svc: who must get an event, where they are, and one batch per edge.
//!
//! `core.rs` has the rules, pure; `router.rs` the task around them; `service.rs` the RPCs.

mod core;
mod router;
mod service;

use confab_mesh::{ClientConfig, Drain, Peer, ServerConfig};
use confab_proto::fanout::v1::fanout_service_server::FanoutServiceServer;
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;

/// Whom this service calls, and when it stops.
pub struct Deps {
    pub presence: Peer,
    /// Begun once no caller needs this service any more.
    pub drain: Drain,
}

/// Starts the service: its RPCs.
#[must_use]
pub fn build(deps: Deps) -> Peer {
    let to_presence = ClientConfig::new("fanout-svc", "presence-svc").streaming(&["Locate"]);
    let presence = PresenceServiceClient::new(confab_mesh::client(to_presence, deps.presence));
    let router = router::start(presence, &deps.drain);
    let server = ServerConfig::new("fanout-svc").streaming(&["Publish", "Subscribe"]).drain(deps.drain);
    confab_mesh::server(server, FanoutServiceServer::new(service::Service::new(router)))
}
