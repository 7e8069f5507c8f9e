//! How a row's mesh is put together: most rows share one, others need one of their own.

use std::path::PathBuf;

use anyhow::Context as _;
use confab_test_servers::{Mode, Redis};

use super::cut::FIRST_GROUP;
use super::proxy::Proxy;
use crate::harness::processes::Spec;
use crate::harness::{Mesh, Shape, Store};

/// The program of the version before, for [`Wiring::Before`].
pub const UPGRADE_FROM: &str = "CONFAB_UPGRADE_FROM";

/// `edge.drain_seconds`: the thousand clients of an edge come again one each 25 ms. Two cores that run all of this, Cassandra and the
/// clients are busy with twice as many a second.
const DRAIN_SECONDS: u32 = 60;

/// What is special about a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Everybody has a list of everybody.
    Plain,
    /// Instances of message-svc are found by gossip, so that there can be more of them.
    Gossip,
    /// All go to this instance through a proxy.
    Proxied(&'static str, usize),
    /// With a Redis: three primaries, each with a replica.
    Redis,
    /// All run the version before.
    Before,
}

/// A mesh, and what stands in it.
pub(super) struct Wired {
    pub mesh: Mesh,
    pub proxy: Option<Proxy>,
    pub redis: Option<Redis>,
    pub store: Store,
}

/// In a keyspace of its own: nothing is left of another mesh, and the version before brings its own tables.
pub(super) async fn start(wiring: Wiring, store: Store, is_root: bool) -> anyhow::Result<Wired> {
    let redis = match wiring {
        Wiring::Redis => Some(tokio::task::spawn_blocking(|| Redis::replicated(Mode::Cluster, 1)).await??),
        _ => None,
    };
    let shape = Shape {
        message: 2,
        redis: redis.as_ref().map(Redis::url),
        cassandra: Some(store.clone()),
        first_group: is_root.then_some(FIRST_GROUP),
        ..Shape::default()
    };
    let program = match wiring {
        Wiring::Before => Some(before()?),
        _ => None,
    };
    store.migrate_by(program.as_deref())?;
    let mut mesh = Mesh::prepare(shape)?;
    let proxy = match wiring {
        Wiring::Proxied(role, at) => {
            Some(Proxy::start(mesh.address(6_500, role, at), mesh.proxied(role, at), mesh.grpc(role, at)).await?)
        }
        _ => None,
    };
    for mut spec in mesh.specs() {
        spec.program.clone_from(&program);
        wire(&mesh, wiring, &mut spec);
        mesh.spawn(spec)?;
    }
    mesh.wait_ready().await?;
    Ok(Wired { mesh, proxy, redis, store })
}

/// How an instance of a mesh is started, also one that wasn't there at first.
pub(super) fn wire(mesh: &Mesh, wiring: Wiring, spec: &mut Spec) {
    if spec.name.starts_with("edge-") {
        spec.env.push(("CONFAB_EDGE__DRAIN_SECONDS".to_owned(), DRAIN_SECONDS.to_string()));
    }
    let mut set = |key: &str, value: String| spec.env.push((format!("CONFAB_MESH__{key}"), value));
    match wiring {
        Wiring::Plain | Wiring::Redis | Wiring::Before => {}
        Wiring::Gossip => {
            set("DISCOVER__MESSAGE_SVC", "gossip:".to_owned());
            let seeds = [0, 1].map(|at| mesh.grpc("message-svc", at).to_string());
            set("GOSSIP__SEEDS", seeds.join(","));
        }
        Wiring::Proxied(role, at) => {
            let (direct, proxied) = (mesh.grpc(role, at).to_string(), mesh.proxied(role, at).to_string());
            if spec.name == format!("{role}-{at}") {
                set("ADVERTISE", proxied.clone());
            }
            let lists = spec.env.iter_mut().filter(|(key, _)| key.contains("DISCOVER"));
            lists.for_each(|(_, list)| *list = list.replace(&direct, &proxied));
        }
    }
}

fn before() -> anyhow::Result<PathBuf> {
    let program = std::env::var_os(UPGRADE_FROM);
    Ok(program.with_context(|| format!("{UPGRADE_FROM} doesn't say where the version before is"))?.into())
}
