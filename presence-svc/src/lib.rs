//! presence-svc: which edges a user's sessions are on, whether they are online, and who wants to know.
//!
//! `core.rs` has the rules, pure; `service.rs` the RPCs; `notes.rs` what outlives an instance, where there is Redis.

mod config;
mod core;
mod metrics;
mod notes;
mod service;

use confab_mesh::{Drain, Peer, ServerConfig};
use confab_proto::presence::v1::presence_service_server::PresenceServiceServer;
use confab_redis::Redis;

pub use config::Config;

use crate::notes::Notes;

/// Starts the service: its RPCs. `redis`: where it notes what others and later instances may want to know; without, a fresh
/// instance knows what edges tell it. `drain` begins once no caller needs it any more.
#[must_use]
pub fn build(cfg: &Config, redis: Option<Redis>, drain: &Drain) -> Peer {
    let service = service::Service::new(cfg, redis.map(Notes::start), drain.clone());
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
