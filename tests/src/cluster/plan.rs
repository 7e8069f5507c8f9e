//! What a cluster consists of, and where each part of it listens.

use std::fs::{self, DirBuilder};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::nginx;
use super::state::{Launch, Place, State};
use super::stores;
use crate::harness::server::{command, program};
use crate::harness::{Mesh, Shape, http, mesh};

const OF_EACH_ROLE: usize = 2;

/// A cluster that is not started yet.
pub struct Plan {
    /// Of it, only the settings of its processes: none of them is its child.
    mesh: Mesh,
    store: mesh::Store,
    launches: Vec<Launch>,
}

impl Plan {
    /// Fills the folder with certificates, keys and settings.
    ///
    /// # Errors
    /// If something can't be written, or a program is missing.
    pub fn make(place: &Place) -> anyhow::Result<Self> {
        let points: Vec<String> = stores::Store::Cassandra.nodes().iter().map(|node| node.addr.to_string()).collect();
        let store = mesh::Store::plain(&points);
        let shape = Shape {
            message: OF_EACH_ROLE,
            cassandra: Some(store.clone()),
            redis: Some(stores::Store::redis_url()),
            env: settings(),
            ..Shape::default()
        };
        let mesh = Mesh::prepare_in(shape, place.folder(), Ipv4Addr::LOCALHOST)?;
        // For the examples of docs/grpc.md.
        mesh.certs(&mesh.certs_folder(), &["service:billing"])?;
        let program = program()?;
        let mut launches = Vec::new();
        for spec in mesh.specs() {
            let addr = address(&mesh, &spec.name)?;
            let (name, args, env, ready) = (spec.name, spec.args, spec.env, spec.ready);
            launches.push(Launch { name, program: program.clone(), args, env, addr, ready });
        }
        let edges: Vec<SocketAddr> = (0..OF_EACH_ROLE).map(|at| mesh.edge(at)).collect();
        launches.push(nginx::prepare(place, &edges)?);
        Ok(Self { mesh, store, launches })
    }

    #[must_use]
    pub fn state(&self) -> State {
        State::new(self.launches.clone())
    }

    /// The tables.
    ///
    /// # Errors
    /// What the program says.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.migrate()).await?
    }

    /// A data folder from which `confab token` and `confab chat` take the key that the edges believe.
    ///
    /// # Errors
    /// What the program says.
    pub fn clients(&self, place: &Place) -> anyhow::Result<()> {
        let folder = place.clients();
        DirBuilder::new().mode(0o700).create(&folder)?;
        fs::copy(place.folder().join("token.key"), folder.join("token.key"))?;
        let output = command()?.args(["token", "--user", "1", "--data"]).arg(&folder).output()?;
        ensure!(output.status.success(), "confab token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The chat of users 1 and 2, made by the way that clients take: then all of it works.
    ///
    /// # Errors
    /// If it can't be made.
    pub async fn first_chat(&self) -> anyhow::Result<u64> {
        let (token, body) = (self.mesh.token(1), json!({"kind": "direct", "user_id": 2}));
        http::create_chat(nginx::FRONT, &token, &body, &[200, 201]).await.context("the first chat")
    }
}

/// Of every process of the mesh.
fn settings() -> Vec<(String, String)> {
    let settings = [
        // People read these logs.
        ("CONFAB_LOG__FORMAT", "text"),
        ("CONFAB_BEHIND_PROXY", "127.0.0.1/32"),
    ];
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

/// Where others call the process of this name.
fn address(mesh: &Mesh, name: &str) -> anyhow::Result<SocketAddr> {
    let (role, at) = name.rsplit_once('-').with_context(|| format!("{name} has no number"))?;
    let at = at.parse().with_context(|| format!("{name} has no number"))?;
    Ok(if role == "edge" { mesh.edge(at) } else { mesh.grpc(role, at) })
}

/// Every address that the cluster listens at, and whose it is.
#[must_use]
pub fn ports(state: &State) -> Vec<(SocketAddr, String)> {
    let mut ports = Vec::new();
    for member in state.members.iter().rev() {
        let Launch { name, addr, ready, .. } = &member.launch;
        ports.push((*addr, name.clone()));
        if ready != addr {
            ports.push((*ready, name.clone()));
        }
    }
    for store in [stores::Store::Cassandra, stores::Store::Redis] {
        ports.extend(store.ports());
    }
    ports
}
