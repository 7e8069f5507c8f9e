//! Cassandra.

use std::path::Path;
use std::process::Child;

use anyhow::Context as _;

use crate::ports;
use crate::script::{Script, folder};

/// Timeouts above those of a server on its own: the tests share two cores with their compiler.
const TIMEOUTS: &str = "read_request_timeout: 20s\nwrite_request_timeout: 20s\ncas_contention_timeout: 10s\n\
                        request_timeout: 20s\nrange_request_timeout: 20s\n";

/// A Cassandra of one node, or of three.
#[derive(Debug)]
pub struct Cassandra {
    points: Vec<String>,
    pub(crate) script: Script,
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
        // Not such as the system gives to connections: one of them could have it by the time that a node wants it. Node to node
        // takes two, and JMX one for each node.
        let first = ports::row(8)?;
        let [cql, storage, jmx] = [first, first + 1, first + 4].map(|port| port.to_string());
        let env = vec![
            ("CASSANDRA_DATA", folder("cassandra").display().to_string()),
            ("CASSANDRA_PORT", cql),
            ("CASSANDRA_STORAGE_PORT", storage),
            ("CASSANDRA_JMX_PORT", jmx),
            ("CASSANDRA_YAML", format!("{TIMEOUTS}{yaml}")),
        ];
        let script = Script::new("cassandra", env);
        let remover = script.remover(&["wipe"])?;
        let said = script.run(&["up", &nodes.to_string()]).context("Cassandra did not start")?;
        let points = said.split_whitespace().map(str::to_owned).collect();
        Ok(Self { points, script, _remover: remover })
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
        self.script.run(&[verb, &number.to_string()]).map(drop)
    }

    /// Whether each connection of clients has TLS, by node 1's own account.
    ///
    /// # Errors
    /// What the script says.
    pub fn clients_with_tls(&self) -> anyhow::Result<Vec<bool>> {
        let told = self.script.run(&["nodetool", "1", "clientstats", "--all"])?;
        let mut lines = told.lines();
        let head = lines.find(|line| line.starts_with("Address")).context("no table of clients")?;
        let at = head.split_whitespace().position(|name| name == "SSL").context("no column SSL")?;
        let rows = lines.take_while(|line| line.starts_with('/'));
        rows.map(|row| Ok(row.split_whitespace().nth(at).with_context(|| row.to_owned())? == "true")).collect()
    }
}
