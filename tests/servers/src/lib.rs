//! Real servers for tests, by the scripts in `tests/services/`: on free ports, with folders of their own, and gone with the
//! process that started them, however that ends.

mod metrics;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};

/// Timeouts above those of a server on its own: the tests share two cores with their compiler.
const TIMEOUTS: &str = "read_request_timeout: 20s\nwrite_request_timeout: 20s\ncas_contention_timeout: 10s\n\
                        request_timeout: 20s\nrange_request_timeout: 20s\n";

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A Cassandra of one node, or of three.
#[derive(Debug)]
pub struct Cassandra {
    points: Vec<String>,
    folder: PathBuf,
    /// It removes the server when its input ends: with this process.
    _remover: Child,
}

impl Cassandra {
    /// Starts it, which takes 10 s, with three nodes a minute. The first time on a machine it is fetched.
    ///
    /// # Errors
    /// What the script says.
    pub fn start(nodes: u32) -> anyhow::Result<Self> {
        Self::start_with(nodes, "")
    }

    /// With TLS for those clients that want it. `keystore`: a PEM file with the nodes' key (PKCS #8) and certificates.
    ///
    /// # Errors
    /// What the script says.
    pub fn start_tls(nodes: u32, keystore: &Path) -> anyhow::Result<Self> {
        let keystore = keystore.display();
        let factory = "org.apache.cassandra.security.PEMBasedSslContextFactory";
        Self::start_with(
            nodes,
            &format!(
                "client_encryption_options:\n  enabled: true\n  optional: true\n  keystore: {keystore}\n  \
                 ssl_context_factory:\n    class_name: {factory}\n"
            ),
        )
    }

    /// `yaml`: settings beside the usual ones.
    fn start_with(nodes: u32, yaml: &str) -> anyhow::Result<Self> {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("confab-cassandra-{}-{number}", std::process::id()));
        let remover = Command::new("setsid")
            .args(["sh", "-c", r#"cat >/dev/null; exec bash "$0" wipe"#])
            .arg(script())
            .env("CASSANDRA_DATA", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("setsid sh")?;
        let [cql, storage, jmx] = free_ports()?.map(|port| port.to_string());
        let output = Command::new("bash")
            .arg(script())
            .args(["up", &nodes.to_string()])
            .env("CASSANDRA_DATA", &folder)
            .env("CASSANDRA_PORT", cql)
            .env("CASSANDRA_STORAGE_PORT", storage)
            .env("CASSANDRA_JMX_PORT", jmx)
            .env("CASSANDRA_YAML", format!("{TIMEOUTS}{yaml}"))
            .output()
            .context("bash")?;
        ensure!(output.status.success(), "Cassandra did not start: {}", String::from_utf8_lossy(&output.stderr));
        let points = String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect();
        Ok(Self { points, folder, _remover: remover })
    }

    /// `host:port` of each node.
    #[must_use]
    pub fn points(&self) -> &[String] {
        &self.points
    }

    /// `kill`, `stop` or `start` node `number`, counted from 1.
    ///
    /// # Errors
    /// What the script says.
    pub fn node(&self, verb: &str, number: u32) -> anyhow::Result<()> {
        self.script(&[verb, &number.to_string()]).map(drop)
    }

    /// Whether each connection of clients has TLS, by node 1's own account.
    ///
    /// # Errors
    /// What the script says.
    pub fn clients_with_tls(&self) -> anyhow::Result<Vec<bool>> {
        let told = self.script(&["nodetool", "1", "clientstats", "--all"])?;
        let mut lines = told.lines();
        let head = lines.find(|line| line.starts_with("Address")).context("no table of clients")?;
        let at = head.split_whitespace().position(|name| name == "SSL").context("no column SSL")?;
        let rows = lines.take_while(|line| line.starts_with('/'));
        rows.map(|row| Ok(row.split_whitespace().nth(at).with_context(|| row.to_owned())? == "true")).collect()
    }

    /// What the script prints for these arguments.
    fn script(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("bash");
        let output = command.arg(script()).args(arguments).env("CASSANDRA_DATA", &self.folder).output();
        let output = output.context("bash")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/cassandra")
}

/// All different, for they are held until all are found.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let mut ports = [0; 3];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
