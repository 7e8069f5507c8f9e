//! Cassandra.

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
        let [cql, storage, jmx] = ports::any()?.map(|port| port.to_string());
        let env = vec![
            ("CASSANDRA_DATA", folder("cassandra").display().to_string()),
            ("CASSANDRA_PORT", cql),
            ("CASSANDRA_STORAGE_PORT", storage),
            ("CASSANDRA_JMX_PORT", jmx),
            ("CASSANDRA_YAML", TIMEOUTS.to_owned()),
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
}
