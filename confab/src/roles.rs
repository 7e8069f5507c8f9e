//! Some of the roles in this process, as a part of a mesh: `services.rs` over networks.
//!
//! ```text
//! mesh.rs   finding the others, certificates, tokens     policy.rs   who may call what     probes.rs   /livez, /readyz
//! ```

mod mesh;
mod policy;
mod probes;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use confab_mesh::drain::{self, Drainer};
use confab_mesh::health::Ready;
use confab_mesh::{BalanceConfig, Drain, Peer, Pool, balanced, health, reflection, route};
use confab_message_svc::{CassandraConfig, Storage};
use confab_redis::Redis;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::config::{CassandraFields, Config, Role, StorageConfig};
use crate::services;
use crate::tls;

use mesh::Mesh;

/// How long the services behind the edge have for ending, and the mesh's connections after them.
const STOP: Duration = Duration::from_secs(10);
/// No instance is left out for longer than this after it has failed: a failure may be felt for 5 s.
const EJECTION_MAX: Duration = Duration::from_secs(2);

/// What runs.
pub(crate) struct Process {
    mesh: Arc<Mesh>,
    /// The edge, and what makes its clients leave.
    edge: Option<(JoinHandle<()>, Drainer)>,
    drains: Drains<Drainer>,
}

/// What ends, in this order.
struct Drains<D> {
    /// Readiness: it is the first to end.
    ready: D,
    messages: D,
    others: D,
    listener: D,
}

/// What clients need to get in.
pub(crate) struct Front {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) verifier: confab_edge::Verifier,
}

/// The services of this process, as they are built.
#[derive(Default)]
struct Hosted {
    services: Vec<(&'static str, Peer)>,
    ready: Vec<(&'static str, Ready)>,
}

/// Starts the roles; they serve from then on. `front` is the edge's, if there is one.
pub(crate) async fn start(cfg: &Config, front: Option<Front>) -> anyhow::Result<Process> {
    let (drainers, drains) = Drains::channels();
    let listener = match cfg.roles.iter().any(|role| role.service().is_some()) {
        true => Some(bind("mesh.listen", cfg.mesh.listen).await?),
        false => None,
    };
    let probes = match cfg.mesh.http {
        Some(addr) => Some(bind("mesh.http", addr).await?),
        None => None,
    };
    let mesh = Arc::new(Mesh::join(&cfg.mesh, &cfg.roles, &drains.ready).await?);
    let redis = redis(cfg)?;
    let mut hosted = Hosted::default();
    let mut edge = None;
    for role in &cfg.roles {
        match (role, &front) {
            (Role::Presence, _) => hosted.add(*role, presence(cfg, redis.clone(), &drains.others), serves()),
            (Role::Fanout, _) => {
                let deps = confab_fanout_svc::Deps {
                    presence: mesh.pool(Role::Presence).await?,
                    drain: drains.others.clone(),
                };
                hosted.add(*role, confab_fanout_svc::build(deps), serves());
            }
            (Role::Message, _) => {
                let deps = confab_message_svc::Deps {
                    fanout: mesh.pool(Role::Fanout).await?,
                    presence: mesh.pool(Role::Presence).await?,
                    drain: drains.messages.clone(),
                };
                let bound =
                    listener.as_ref().and_then(|listener| listener.local_addr().ok()).unwrap_or(cfg.mesh.listen);
                let messages = messages(cfg, &mesh, mesh.advertised(bound), redis.clone(), deps).await?;
                let healthy = messages.health();
                hosted.add(*role, messages.peer, Arc::new(move || healthy.is_healthy()));
            }
            (Role::Edge, _) => edge = Some(edge_deps(&mesh).await?),
        }
    }
    if let Some(listener) = listener {
        listen(&mesh, cfg, listener, &hosted, &drains).await?;
    }
    let edge = match (edge, front) {
        (Some(deps), Some(front)) => Some(start_edge(cfg, deps, front, &mut hosted)),
        _ => None,
    };
    if let Some(listener) = probes {
        serve_probes(listener, hosted, &drains)?;
    }
    Ok(Process { mesh, edge, drains: drainers })
}

impl Process {
    /// Not ready any more, then the callers first: the edge, message-svc, what that calls, and the connections.
    pub(crate) async fn stop(self, time: Duration) {
        end("readiness", &self.drains.ready, STOP).await;
        self.mesh.leave().await;
        if let Some((edge, drainer)) = self.edge {
            services::stop_edge(edge, &drainer, time).await;
        }
        // The listener ends with the services' streams: it lets nobody in meanwhile.
        let services = async {
            end("message-svc", &self.drains.messages, STOP).await;
            end("fanout-svc and presence-svc", &self.drains.others, STOP).await;
        };
        tokio::join!(services, end("the mesh's connections", &self.drains.listener, 2 * STOP));
    }
}

async fn end(name: &str, drainer: &Drainer, time: Duration) {
    if let Err(unfinished) = drainer.drain(time).await {
        tracing::warn!(%unfinished, name, "did not end in time");
    }
}

impl Drains<Drain> {
    fn channels() -> (Drains<Drainer>, Self) {
        let [ready, messages, others, listener] = std::array::from_fn(|_| drain::channel());
        let drainers = Drains { ready: ready.0, messages: messages.0, others: others.0, listener: listener.0 };
        (drainers, Self { ready: ready.1, messages: messages.1, others: others.1, listener: listener.1 })
    }
}

impl Hosted {
    fn add(&mut self, role: Role, peer: Peer, ready: Ready) {
        let service = role.service().unwrap_or_default();
        self.services.push((service, peer));
        self.ready.push((service, ready));
    }
}

/// Once it is started, and until it drains: whom it calls may fail and come back without it.
fn serves() -> Ready {
    Arc::new(|| true)
}

/// The cache of the services that have a use for one; only they connect to it.
fn redis(cfg: &Config) -> anyhow::Result<Option<Redis>> {
    let uses = |role: &Role| match role {
        Role::Presence => true,
        Role::Message => cfg.storage != StorageConfig::Embedded,
        Role::Edge | Role::Fanout => false,
    };
    let Some(address) = cfg.redis.address.as_ref().filter(|_| cfg.roles.iter().any(uses)) else { return Ok(None) };
    let tls = address.is_tls().then(|| tls::redis(cfg.redis.ca.as_deref())).transpose()?;
    let redis = Redis::connect(address, tls)?;
    tracing::info!(%address, "Redis is used as a cache");
    Ok(Some(redis))
}

fn presence(cfg: &Config, redis: Option<Redis>, drain: &Drain) -> Peer {
    let cfg = confab_presence_svc::Config {
        grace_seconds: cfg.presence.grace.as_secs(),
        ..confab_presence_svc::Config::default()
    };
    confab_presence_svc::build(&cfg, redis, drain)
}

async fn messages(
    cfg: &Config,
    mesh: &Mesh,
    addr: String,
    redis: Option<Redis>,
    deps: confab_message_svc::Deps,
) -> anyhow::Result<confab_message_svc::MessageSvc> {
    let storage = match &cfg.storage {
        StorageConfig::Embedded => services::embedded(cfg),
        StorageConfig::Cassandra(fields) => {
            let instances = mesh.pool(Role::Message).await?;
            Storage::Cassandra { cfg: cassandra(fields)?, addr, instances, redis }
        }
    };
    let built = confab_message_svc::build(services::messages_config(cfg), storage, deps).await;
    built.with_context(|| match cfg.storage {
        StorageConfig::Embedded => format!("the data folder {}", cfg.data.display()),
        StorageConfig::Cassandra(_) => "the storage".to_owned(),
    })
}

fn cassandra(fields: &CassandraFields) -> anyhow::Result<CassandraConfig> {
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| path.display().to_string());
    let password = fields.password_file.as_ref().map(read).transpose().context("storage.password_file")?;
    Ok(CassandraConfig {
        contact_points: fields.contact_points.clone(),
        keyspace: fields.keyspace.clone(),
        datacenter: Some(fields.datacenter.clone()),
        replication_factor: fields.replication_factor.into(),
        username: fields.username.clone(),
        password: password.map(|password| password.trim_end_matches('\n').to_owned()),
        tls: fields.tls.as_ref().map(tls::cassandra).transpose()?,
    })
}

/// `confab migrate`.
pub(crate) async fn migrate(cfg: Config) -> anyhow::Result<()> {
    let StorageConfig::Cassandra(fields) = &cfg.storage else {
        anyhow::bail!(
            "storage.kind is \"embedded\": it brings itself up to date when a server starts. This is for \"cassandra\""
        );
    };
    let version = confab_message_svc::migrate_cassandra(&cassandra(fields)?).await?;
    Ok(writeln!(std::io::stdout(), "keyspace {}: version {version}", fields.keyspace)?)
}

struct EdgeDeps {
    messages: Pool,
    fanout: Pool,
    presence: Pool,
}

async fn edge_deps(mesh: &Mesh) -> anyhow::Result<EdgeDeps> {
    Ok(EdgeDeps {
        messages: mesh.pool(Role::Message).await?,
        fanout: mesh.pool(Role::Fanout).await?,
        presence: mesh.pool(Role::Presence).await?,
    })
}

/// It serves from then on.
fn start_edge(cfg: &Config, deps: EdgeDeps, front: Front, hosted: &mut Hosted) -> (JoinHandle<()>, Drainer) {
    let (drainer, drain) = drain::channel();
    let mut balancing = BalanceConfig::new(Role::Message.name()).streaming(&["Converse", "WatchShards"]);
    balancing.ejection_max = EJECTION_MAX;
    let pool = deps.messages.clone();
    let ready: Ready = Arc::new(move || pool.members().iter().any(|member| member.up));
    hosted.ready.push(("", Arc::clone(&ready)));
    let deps = confab_edge::Deps {
        owners: deps.messages.clone(),
        messages: balanced(deps.messages, balancing),
        fanout: deps.fanout,
        presence: deps.presence,
        verifier: front.verifier,
        // It is for trying out a server of one's own.
        page: None,
        ready,
    };
    let front = confab_edge::Front { listener: front.listener, tls: front.tls };
    (tokio::spawn(confab_edge::serve(services::edge_config(cfg), front, deps, drain)), drainer)
}

/// Hosts the services, with their health and what they look like.
async fn listen(
    mesh: &Mesh,
    cfg: &Config,
    listener: TcpListener,
    hosted: &Hosted,
    drains: &Drains<Drain>,
) -> anyhow::Result<()> {
    let name = confab_mesh::identity::ALL_ROLES;
    let bound = listener.local_addr()?;
    let mut services = hosted.services.clone();
    services.push((health::SERVICE, health::health(name, hosted.ready.clone(), &drains.ready).await));
    services.extend(reflection::reflection(name, confab_proto::FILE_DESCRIPTOR_SET)?);
    let peer = mesh.guarded(name, route(services));
    let (listen, drain) = (mesh.listen_config(), drains.listener.clone());
    drains.listener.spawn(async move { confab_mesh::serve(listener, peer, listen, &drain).await });
    let advertised = mesh.advertised(bound);
    for role in cfg.roles.iter().filter(|role| role.service().is_some()) {
        mesh.announce(*role, &advertised).await;
    }
    tracing::info!(address = %bound, advertised, tls = cfg.mesh.tls.is_some(), "the mesh is listened to");
    Ok(())
}

fn serve_probes(listener: TcpListener, hosted: Hosted, drains: &Drains<Drain>) -> anyhow::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "/livez and /readyz are there");
    let draining = drains.ready.clone();
    let ready: Ready = Arc::new(move || !draining.is_started() && hosted.ready.iter().all(|(_, ready)| ready()));
    // Until the process ends: who watches over it gets to see that it is not ready.
    drop(tokio::spawn(probes::serve(listener, ready)));
    Ok(())
}

async fn bind(key: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(addr).await;
    bound.with_context(|| format!("{key}: can't listen on {addr}: is another process of the mesh running there?"))
}
