//! presence-svc: which edges a user's sessions are on, whether they are online, and who wants to know.
//!
//! `core.rs` has the rules, pure; `service.rs` the RPCs.

mod config;
mod core;
mod service;

use confab_mesh::{Drain, Peer, ServerConfig};
use confab_proto::presence::v1::presence_service_server::PresenceServiceServer;

pub use config::Config;

/// Starts the service: its RPCs. `drain` begins once no caller needs it any more.
#[must_use]
pub fn build(cfg: &Config, drain: &Drain) -> Peer {
    let service = service::Service::new(cfg, drain.clone());
    let clock = service.clone().run_clock();
    let ended = drain.clone();
    drain.spawn(async move {
        tokio::select! {
            () = clock => {}
            () = ended.started() => {}
        }
    });
    let server = ServerConfig::new("presence-svc").streaming(&["Track", "Locate", "Watch"]).drain(drain.clone());
    confab_mesh::server(server, PresenceServiceServer::new(service))
}
