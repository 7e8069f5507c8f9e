//! message-svc: chats, their members, their logs and their watermarks.
//!
//! ```text
//! service.rs     the RPCs               convert.rs   all validation        error.rs   all refusals
//! reads.rs       pages, sync, lists     owner.rs     the task around core  publisher.rs  the streams to fanout
//! core/          the rules, pure        store.rs     the seam to storage   store/{embedded,cassandra}.rs
//! metrics.rs     what it counts
//! hop.rs         to another's chats     others.rs    the other instances   watching.rs  who watches a chat
//! ```

mod config;
mod convert;
mod core;
mod error;
mod expiry;
mod hop;
mod metrics;
mod others;
mod owner;
mod publisher;
mod reads;
mod service;
mod store;
mod users;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use confab_mesh::{Drain, Peer, Pool, ServerConfig};
use confab_proto::message::v1::message_service_server::MessageServiceServer;
use confab_redis::Redis;
use tokio::sync::mpsc;

pub use config::Config;
pub use store::cassandra::{CassandraConfig, ConnectError, migrate as migrate_cassandra};
pub use store::embedded::{Durability, OpenError};

use crate::core::owner::{Limits, WINDOW};
use crate::hop::Owners;
use crate::others::Others;
use crate::owner::OwnerHandle;
use crate::owner::shared::Place;
use crate::reads::Reader;
use crate::store::Store;
use crate::store::cassandra::Cassandra;
use crate::store::embedded::Embedded;
use crate::store::recent::Recent;
use crate::users::Users;

/// Events of fanout that wait for the owner; beyond it fanout's stream waits.
const FANOUT_EVENTS_MAX: usize = 256;

/// Where chats are kept.
#[derive(Clone)]
pub enum Storage {
    /// A folder of this machine; nobody else may have it open.
    Embedded { folder: PathBuf, durability: Durability },
    /// A cluster's: several instances share it, and each owns a part of the chats.
    Cassandra {
        cfg: CassandraConfig,
        /// `host:port` where the others call this instance; edges, too.
        addr: String,
        /// All instances, by those addresses.
        instances: Pool,
        /// Where the newest events of chats are kept, too; none: reads are of Cassandra alone.
        redis: Option<Redis>,
    },
}

/// Why the service could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Embedded(#[from] OpenError),
    #[error(transparent)]
    Cassandra(#[from] ConnectError),
}

/// Whom this service calls, and when it stops.
pub struct Deps {
    pub fanout: Pool,
    pub presence: Pool,
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
    /// `false` once the store has failed: then nothing is accepted any more. In a cluster: while it has no lease.
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
/// [`BuildError`], if the storage is in use, damaged, newer or older, or can't be reached.
pub async fn build(cfg: Config, storage: Storage, deps: Deps) -> Result<MessageSvc, BuildError> {
    let (events, from_fanout) = mpsc::channel(FANOUT_EVENTS_MAX);
    let (fanout, drain) = (deps.fanout.clone(), deps.drain.clone());
    let publisher = move || drop(tokio::spawn(publisher::run(fanout, events, drain)));
    let limits = Limits { hot_chats: cfg.hot_chats_max, in_flight: cfg.in_flight_max, window: WINDOW };
    let keep = cfg.retention;
    match storage {
        Storage::Embedded { folder, durability } => {
            let store = tokio::task::spawn_blocking(move || Embedded::open(&folder, durability))
                .await
                .map_err(|panicked| OpenError::Damaged(panicked.to_string()))??;
            let last_chat = store.last_chat().await.map_err(|error| OpenError::Damaged(error.to_string()))?;
            publisher();
            let owner = owner::start(limits, last_chat + 1, store.clone(), from_fanout, &deps.drain);
            let owners = Owners::alone(owner.clone());
            Ok(serve(Reader { store, recent: Recent::default(), owner, owners }, deps, keep))
        }
        Storage::Cassandra { cfg, addr, instances, redis } => {
            let store = Cassandra::open(&cfg).await?;
            publisher();
            let others = Arc::new(Others::new(instances));
            let place = Place { ledger: store.clone(), addr: addr.clone(), others: others.clone() };
            let recent = redis.map(Recent::start).unwrap_or_default();
            let owner = owner::start_among(limits, store.clone(), place, recent.clone(), from_fanout, &deps.drain);
            let owners = Owners::among(owner.clone(), addr, others);
            Ok(serve(Reader { store, recent, owner, owners }, deps, keep))
        }
    }
}

fn serve(reader: Reader<impl Store>, deps: Deps, keep: Option<Duration>) -> MessageSvc {
    let Deps { presence, drain, .. } = deps;
    let health = Health(reader.owner.clone());
    if let Some(keep) = keep {
        expiry::start(reader.clone(), keep, &drain);
    }
    let users = Users::start(reader.clone(), presence, &drain);
    let service = MessageServiceServer::new(service::Service::new(reader, users, keep, drain.clone()));
    let server = ServerConfig::new("message-svc").streaming(&["Converse", "WatchShards", "WatchChat"]).drain(drain);
    MessageSvc { peer: confab_mesh::server(server, service), health }
}
