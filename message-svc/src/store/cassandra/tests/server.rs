//! The Cassandra of a test process: started with the first test that needs it, gone with the process.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::sync::OnceCell;

use super::CassandraConfig;

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// Timeouts above those of a server on its own: the tests share two cores with their compiler.
const TIMEOUTS: &str = "read_request_timeout: 20s\nwrite_request_timeout: 20s\ncas_contention_timeout: 10s\n\
                        request_timeout: 20s\nrange_request_timeout: 20s\n";

/// How many nodes, and copies of each row. More than one takes 2 GiB and minutes, so it is asked for by hand.
const NODES: &str = "CONFAB_CASSANDRA_NODES";

pub(super) struct Server {
    points: Vec<String>,
    nodes: u32,
    /// It removes the server when its input ends: with this process, however that ends.
    _remover: Child,
}

impl Server {
    pub(super) async fn get() -> &'static Self {
        let started = async || tokio::task::spawn_blocking(Self::start).await.expect("started");
        SERVER.get_or_init(started).await
    }

    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/services/cassandra");
        let folder = std::env::temp_dir().join(format!("confab-cassandra-{}", std::process::id()));
        let remover = Command::new("setsid")
            .args(["sh", "-c", r#"cat >/dev/null; exec bash "$0" wipe"#])
            .arg(&script)
            .env("CASSANDRA_DATA", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let nodes = std::env::var(NODES).map_or(1, |nodes| nodes.parse().expect("a number"));
        let points = up(&script, &folder, nodes);
        Self { points, nodes, _remover: remover }
    }

    pub(super) fn config(&self, keyspace: &str) -> CassandraConfig {
        CassandraConfig {
            contact_points: self.points.clone(),
            keyspace: keyspace.into(),
            datacenter: (self.nodes > 1).then(|| "datacenter1".into()),
            replication_factor: self.nodes,
            username: None,
            password: None,
        }
    }
}

/// Starts it on ports that are free, and returns its contact points.
fn up(script: &Path, folder: &Path, nodes: u32) -> Vec<String> {
    let [cql, storage, jmx] = free_ports().map(|port| port.to_string());
    let output = Command::new("bash")
        .arg(script)
        .args(["up", &nodes.to_string()])
        .env("CASSANDRA_DATA", folder)
        .env("CASSANDRA_PORT", cql)
        .env("CASSANDRA_STORAGE_PORT", storage)
        .env("CASSANDRA_JMX_PORT", jmx)
        .env("CASSANDRA_YAML", TIMEOUTS)
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Cassandra did not start: {said}");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

/// All different, for they are held until all are found.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}
