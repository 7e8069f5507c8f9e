//! Where tests of the protocol are played: one server, or a cluster with two edges. Many may share one, each with users of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use confab_test_servers::Cassandra;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::http::{self, Response};
use super::token::Minter;
use super::{Mesh, Server, Shape, Store};

/// Dropping it ends the processes.
enum Running {
    One(Box<Server>),
    Cluster(Box<Mesh>, #[expect(dead_code, reason = "it runs as long as this is there")] Cassandra),
}

/// What runs, and users for each who plays there.
pub struct Stage {
    running: Running,
    edges: Vec<SocketAddr>,
    next_user: AtomicU64,
    next_edge: AtomicUsize,
}

impl Stage {
    /// One process on storage of its own.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn embedded() -> anyhow::Result<Self> {
        let server = Server::start().await?;
        let edges = vec![server.addr()];
        Ok(Self::of(Running::One(Box::new(server)), edges))
    }

    /// Two instances of each role on Cassandra.
    ///
    /// # Errors
    /// If they don't start.
    pub async fn cluster() -> anyhow::Result<Self> {
        let cassandra = spawn_blocking(|| Cassandra::start(1)).await??;
        let store = Store::plain(cassandra.points());
        let shape = Shape { message: 2, cassandra: Some(store), ..Shape::default() };
        let edges = shape.edge;
        let mesh = Mesh::start(shape).await?;
        let edges = (0..edges).map(|at| mesh.edge(at)).collect();
        Ok(Self::of(Running::Cluster(Box::new(mesh), cassandra), edges))
    }

    fn of(running: Running, edges: Vec<SocketAddr>) -> Self {
        Self { running, edges, next_user: AtomicU64::new(1_000), next_edge: AtomicUsize::new(0) }
    }

    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.running, Running::Cluster(..))
    }

    /// Users whom nobody has been before.
    #[must_use]
    pub fn users<const N: usize>(&self) -> [u64; N] {
        std::array::from_fn(|_| self.next_user.fetch_add(1, Ordering::Relaxed))
    }

    /// All edges.
    #[must_use]
    pub fn edges(&self) -> &[SocketAddr] {
        &self.edges
    }

    /// One edge after the other.
    #[must_use]
    pub fn edge(&self) -> SocketAddr {
        self.edges[self.next_edge.fetch_add(1, Ordering::Relaxed) % self.edges.len()]
    }

    #[must_use]
    pub fn minter(&self) -> &Minter {
        match &self.running {
            Running::One(server) => server.minter(),
            Running::Cluster(mesh, _) => mesh.minter(),
        }
    }

    #[must_use]
    pub fn token(&self, user: u64, device: &str) -> String {
        self.minter().token(user, Some(device))
    }

    /// An HTTP request as `user`.
    ///
    /// # Errors
    /// If the edge doesn't answer.
    pub async fn http(&self, user: u64, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Response> {
        let token = self.token(user, "default");
        http::request(self.edge(), method, path, Some(&token), body.as_ref()).await
    }

    /// A new direct chat.
    ///
    /// # Errors
    /// If it can't be made.
    pub async fn direct(&self, user: u64, peer: u64) -> anyhow::Result<u64> {
        self.chat(user, json!({"kind": "direct", "user_id": peer})).await
    }

    /// A new group.
    ///
    /// # Errors
    /// If it can't be made.
    pub async fn group(&self, creator: u64, members: &[u64]) -> anyhow::Result<u64> {
        self.chat(creator, json!({"kind": "group", "title": "a group", "members": members})).await
    }

    async fn chat(&self, user: u64, body: Value) -> anyhow::Result<u64> {
        http::create_chat(self.edge(), &self.token(user, "default"), &body, &[200, 201]).await
    }
}
