//! message-svc: chats, their members, their logs and their watermarks.
//!
//! ```text
//! service.rs     the RPCs               convert.rs   all validation        error.rs   all refusals
//! reads.rs       pages, sync, lists     owner.rs     the task around core  publisher.rs  the streams to fanout
//! core/          the rules, pure        store.rs     the seam to storage   store/{embedded,cassandra}.rs
//! ```

mod config;
mod convert;
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "several owners are only simulated: the cluster's store is the next step")
)]
mod core;
mod error;
mod owner;
mod publisher;
mod reads;
mod service;
mod store;

use std::path::PathBuf;

use confab_mesh::{Drain, Peer, Pool, ServerConfig};
use confab_proto::message::v1::message_service_server::MessageServiceServer;
use tokio::sync::mpsc;

pub use config::Config;
pub use store::cassandra::{CassandraConfig, ConnectError, migrate as migrate_cassandra};
pub use store::embedded::{Durability, OpenError};

use crate::core::owner::{Limits, Owner};
use crate::owner::OwnerHandle;
use crate::reads::Reader;
use crate::store::Store;
use crate::store::embedded::Embedded;

/// Events of fanout that wait for the owner; beyond it fanout's stream waits.
const FANOUT_EVENTS_MAX: usize = 256;

/// Where chats are kept.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A folder of this machine; nobody else may have it open.
    Embedded { folder: PathBuf, durability: Durability },
    /// A cluster's: several instances share it.
    Cassandra(CassandraConfig),
}

/// Whom this service calls, and when it stops.
pub struct Deps {
    pub fanout: Pool,
    /// Begun once no caller needs this service any more.
    pub drain: Drain,
}

/// The running service.
pub struct MessageSvc {
    /// Its RPCs.
    pub peer: Peer,
    health: Health,
}

/// Whether the service can do its job.
#[derive(Clone)]
pub struct Health(OwnerHandle);

impl Health {
    /// `false` once the store has failed: then nothing is accepted any more.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.0.is_healthy()
    }
}

impl MessageSvc {
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }
}

/// Opens the storage and starts the service.
///
/// # Errors
/// [`OpenError`], if the storage is in use, damaged, newer, or can't be reached.
pub async fn build(cfg: Config, storage: Storage, deps: Deps) -> Result<MessageSvc, OpenError> {
    let Storage::Embedded { folder, durability } = storage else {
        return Err(OpenError::Io(std::io::Error::new(std::io::ErrorKind::Unsupported, "Cassandra is not wired yet")));
    };
    let store = tokio::task::spawn_blocking(move || Embedded::open(&folder, durability))
        .await
        .map_err(|panicked| OpenError::Damaged(panicked.to_string()))??;
    let last_chat = store.last_chat().await.map_err(|error| OpenError::Damaged(error.to_string()))?;

    let (events, from_fanout) = mpsc::channel(FANOUT_EVENTS_MAX);
    tokio::spawn(publisher::run(deps.fanout, events, deps.drain.clone()));

    let limits = Limits { hot_chats: cfg.hot_chats_max, in_flight: cfg.in_flight_max };
    let owner = owner::start(Owner::sole(limits, last_chat + 1), store.clone(), from_fanout, &deps.drain);
    let health = Health(owner.clone());
    let service = MessageServiceServer::new(service::Service::new(Reader { store, owner }, deps.drain.clone()));
    let server = ServerConfig::new("message-svc").streaming(&["Converse", "WatchShards"]).drain(deps.drain);
    Ok(MessageSvc { peer: confab_mesh::server(server, service), health })
}
