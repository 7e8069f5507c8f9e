//! The edge: client connections, translated to the services' streams.
//!
//! ```text
//! server.rs      accept, TLS, HTTP/1.1     http/          handshake, API, page     auth.rs     tokens
//! connection.rs  one WebSocket's task      core/          its rules, pure          frames/     the protocol in JSON and protobuf
//! mailbox.rs     what waits for it         registry.rs    who is connected         links/      the streams to services
//! polls.rs       one long poll's task      limits.rs       how much one may ask
//! ```

mod auth;
mod config;
mod connection;
mod core;
mod edge;
mod frames;
mod http;
mod limits;
mod links;
mod mailbox;
mod polls;
mod registry;
mod server;
mod stream;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use confab_mesh::{ClientConfig, Drain, Peer, Pool, client};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

pub use auth::Verifier;
pub use auth::jwks::{JwksConfig, JwksError, JwksSource};
pub use config::Config;
pub use http::{Page, Ready};
pub use limits::{LimitsConfig, Rate};

use crate::edge::Shared;
use crate::http::App;
use crate::limits::Limits;
use crate::links::presence::instances::Instances;
use crate::mailbox::Mailbox;
use crate::polls::Polls;
use crate::registry::Registry;

/// For the fuzz target in `fuzz/`: reads `bytes` as a client's frame.
///
/// # Panics
/// If what is read doesn't keep the protocol's bounds.
#[cfg(feature = "fuzzing")]
pub fn read_frame(bytes: &[u8]) {
    frames::fuzzing::read_frame(bytes);
}

/// A stopping edge's clients leave one each so many milliseconds: where each goes, it has to catch up, which costs the store a
/// few reads.
const LEAVE_EVERY_MS: u64 = 25;

/// Calls that may be made twice. A message has its id from here.
const IDEMPOTENT: &[&str] = &[
    "SendMessage",
    "Mark",
    "Sync",
    "ListMessages",
    "GetChat",
    "ListChats",
    "ListMembers",
    "ListReceipts",
    "FilterAcquainted",
    "GetSettings",
    "UpdateSettings",
    "ListBlocks",
    "SetBlock",
    "SetMute",
    "FilterVisible",
    "EraseUser",
];

const TIDY_EVERY: Duration = Duration::from_secs(30);

/// Whom the edge calls, and what it serves.
pub struct Deps {
    /// Any instance, for what is asked beside the streams.
    pub messages: Peer,
    /// Its instances, each as the shard map names it.
    pub owners: Pool,
    pub fanout: Pool,
    pub presence: Pool,
    /// Who a client is.
    pub verifier: Verifier,
    pub page: Option<Page>,
    /// Beside its own readiness.
    pub ready: Ready,
}

/// How connections come.
pub struct Front {
    pub listener: TcpListener,
    pub tls: Option<TlsAcceptor>,
}

/// Serves clients until `drain` begins; then they are told, and closed within the configured time.
pub async fn serve(cfg: Config, front: Front, deps: Deps, drain: Drain) {
    let registry = Registry::default();
    let edge_id = uuid::Uuid::new_v4().to_string();
    let (link_drainer, links) = confab_mesh::drain::channel();
    let to_messages = ClientConfig::new("edge", "message-svc").idempotent(IDEMPOTENT);
    let messages = MessageServiceClient::new(client(to_messages, deps.messages));

    let (attached, mut is_attached) = watch::channel(0);
    links::deliveries::start(deps.fanout, registry.clone(), edge_id.clone(), attached, &links);
    let presence = Arc::new(Instances::new(deps.presence.clone()));
    let shared = Arc::new(Shared {
        verifier: deps.verifier.clone(),
        conversation: links::conversation::start(deps.owners, registry.clone(), &links),
        polls: Polls::new(presence.clone(), edge_id.clone()),
        presences: links::presence::start(deps.presence, messages.clone(), registry.clone(), edge_id, &links),
        presence,
        messages,
        registry,
        sessions: AtomicU64::new(0),
        catching_up: Semaphore::new(edge::syncs_max()),
        limits: Limits::new(cfg.limits),
        started: Instant::now(),
        cfg: cfg.clone(),
    });
    let limits = shared.clone();
    let tidying = tokio::spawn(async move { tidy(&limits).await });
    // Nobody is served before deliveries can come.
    tokio::select! {
        _attached = is_attached.wait_for(|attached| *attached > 0) => {}
        () = drain.started() => {}
    }
    let ready: Ready = {
        let drain = drain.clone();
        let verifier = deps.verifier;
        Arc::new(move || *is_attached.borrow() > 0 && !drain.is_started() && verifier.is_ready() && (deps.ready)())
    };
    let router = http::router(App { shared: shared.clone(), page: deps.page, ready });
    tokio::select! {
        () = server::accept(front.listener, front.tls, router, cfg.clone()) => {}
        () = drain.started() => {}
    }
    leave(&shared, cfg.drain).await;
    tidying.abort();
    // The links hold nothing that could be lost.
    let _late = link_drainer.drain(Duration::from_secs(1)).await;
}

/// Forgets, now and then, who has not asked for a while.
async fn tidy(shared: &Shared) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        shared.limits.tidy();
    }
}

/// Tells every client to come again, one each [`LEAVE_EVERY_MS`], or so that half of the time is enough; serves each until its
/// time has come, and waits for them to go.
async fn leave(shared: &Shared, time: Duration) {
    let until = Instant::now() + time;
    loop {
        if shared.registry.read().len() == 0 || Instant::now() >= until {
            return;
        }
        // Again and again, for a handshake that was under way joins later.
        let untold = |mailbox: &&Arc<Mailbox>| !mailbox.is_leaving();
        let clients: Vec<_> = shared.registry.read().all().filter(untold).cloned().collect();
        for (at, mailbox) in clients.iter().enumerate() {
            mailbox.send_away(leave_ms(at as u64, clients.len() as u64, time));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// When the client at this place among `count` is to leave, milliseconds from now.
fn leave_ms(at: u64, count: u64, time: Duration) -> u64 {
    let half = u64::try_from(time.as_millis() / 2).unwrap_or(u64::MAX);
    let spread = half.min(count.saturating_mul(LEAVE_EVERY_MS));
    spread.saturating_mul(at).checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_clients_leave_soon_and_many_within_half_of_the_time() {
        let time = Duration::from_secs(20);
        assert_eq!([0, 1, 2].map(|at| leave_ms(at, 3, time)), [0, LEAVE_EVERY_MS, 2 * LEAVE_EVERY_MS]);
        let last = leave_ms(99_999, 100_000, time);
        assert!((9_990..=10_000).contains(&last), "{last}");
        assert_eq!(leave_ms(5, 10, Duration::ZERO), 0);
    }
}
