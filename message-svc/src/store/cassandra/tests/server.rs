//! The Cassandra of a test process: started with the first test that needs it, gone with the process.

use confab_test_servers::Cassandra;
use tokio::sync::OnceCell;

use super::CassandraConfig;

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// How many nodes, and copies of each row. More than one takes 2 GiB and minutes, so it is asked for by hand.
const NODES: &str = "CONFAB_CASSANDRA_NODES";

pub(super) struct Server {
    cassandra: Cassandra,
    nodes: u32,
}

impl Server {
    pub(super) async fn get() -> &'static Self {
        let started = async || tokio::task::spawn_blocking(Self::start).await.expect("started");
        SERVER.get_or_init(started).await
    }

    fn start() -> Self {
        let nodes = std::env::var(NODES).map_or(1, |nodes| nodes.parse().expect("a number"));
        Self { cassandra: Cassandra::start(nodes).expect("Cassandra"), nodes }
    }

    pub(super) fn config(&self, keyspace: &str) -> CassandraConfig {
        CassandraConfig {
            contact_points: self.cassandra.points().to_vec(),
            keyspace: keyspace.into(),
            datacenter: (self.nodes > 1).then(|| "datacenter1".into()),
            replication_factor: self.nodes,
            username: None,
            password: None,
            tls: None,
        }
    }
}
