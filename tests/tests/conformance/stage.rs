//! Where the rows are played: one server or a cluster, which all of them share, each with users of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use confab_test_servers::Cassandra;
use confab_tests::harness::http::{self, Response};
use confab_tests::harness::token::Minter;
use confab_tests::harness::{Mesh, Server, Shape, Store};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

/// Dropping it ends the processes.
enum Running {
    One(Box<Server>),
    Cluster(Box<Mesh>, #[expect(dead_code, reason = "it runs as long as this is there")] Cassandra),
}

pub(crate) struct Stage {
    running: Running,
    next_user: AtomicU64,
    next_edge: AtomicU64,
}

impl Stage {
    pub(crate) async fn embedded() -> Self {
        Self::of(Running::One(Box::new(Server::start().await.unwrap())))
    }

    pub(crate) async fn cluster() -> Self {
        let cassandra = spawn_blocking(|| Cassandra::start(1)).await.unwrap().unwrap();
        let store = Store::plain(cassandra.points());
        let mesh = Mesh::start(Shape { message: 2, cassandra: Some(store), ..Shape::default() }).await.unwrap();
        Self::of(Running::Cluster(Box::new(mesh), cassandra))
    }

    fn of(running: Running) -> Self {
        Self { running, next_user: AtomicU64::new(1_000), next_edge: AtomicU64::new(0) }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.running, Running::Cluster(..))
    }

    /// Users whom nobody has been before.
    pub(crate) fn users<const N: usize>(&self) -> [u64; N] {
        std::array::from_fn(|_| self.next_user.fetch_add(1, Ordering::Relaxed))
    }

    /// One edge after the other.
    pub(crate) fn edge(&self) -> SocketAddr {
        match &self.running {
            Running::One(server) => server.addr(),
            Running::Cluster(mesh, _) => {
                let at = self.next_edge.fetch_add(1, Ordering::Relaxed) % 2;
                mesh.edge(usize::try_from(at).unwrap())
            }
        }
    }

    pub(crate) fn minter(&self) -> &Minter {
        match &self.running {
            Running::One(server) => server.minter(),
            Running::Cluster(mesh, _) => mesh.minter(),
        }
    }

    pub(crate) fn token(&self, user: u64, device: &str) -> String {
        self.minter().token(user, Some(device))
    }

    pub(crate) async fn http(&self, user: u64, method: &str, path: &str, body: Option<Value>) -> Response {
        let token = self.token(user, "default");
        http::request(self.edge(), method, path, Some(&token), body.as_ref()).await.unwrap()
    }

    pub(crate) async fn direct(&self, user: u64, peer: u64) -> u64 {
        self.chat(user, json!({"kind": "direct", "user_id": peer})).await
    }

    pub(crate) async fn group(&self, creator: u64, members: &[u64]) -> u64 {
        self.chat(creator, json!({"kind": "group", "title": "a group", "members": members})).await
    }

    async fn chat(&self, user: u64, body: Value) -> u64 {
        let token = self.token(user, "default");
        http::create_chat(self.edge(), &token, &body, &[201]).await.unwrap()
    }
}
