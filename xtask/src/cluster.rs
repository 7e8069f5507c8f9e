//! `cargo xtask cluster`: a cluster on this machine, to try out; `tests/src/cluster.rs` has it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::install::{Needed, install};

const NEEDED: [Needed; 4] = [
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    // Cassandra's, which `tests/services/cassandra` fetches.
    ("java", "openjdk-17-jre-headless"),
    ("mvn", "maven"),
];

/// Builds what is needed, and becomes `confab-cluster`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let here = std::env::current_exe()?.with_file_name("confab-cluster");
    // A cluster can be looked at and ended while the code is in pieces.
    let is_look = arguments.first().is_some_and(|verb| ["status", "down"].contains(&verb.as_str()));
    if !(is_look && here.exists()) {
        if arguments.first().is_some_and(|verb| ["up", "check"].contains(&verb.as_str())) {
            install(&NEEDED)?;
        }
        let bins = ["--bin", "confab", "--bin", "confab-cluster"];
        crate::cargo(&[&["build", "--package", "confab", "--package", "confab-tests"], &bins[..]].concat())?;
    }
    // Not as a child: then there is one who gets the Ctrl-C, and ends everything before the shell is back.
    Err(Command::new(&here).args(arguments).exec()).with_context(|| here.display().to_string())
}
