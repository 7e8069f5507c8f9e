//! `cargo xtask test`: every test, after installing what they need.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// What a test needs beside cargo: a program, and Debian's package that has it.
const NEEDED: [(&str, &str); 9] = [
    ("fusermount3", "fuse3"),
    ("chromium", "chromium"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("pip", "python3-pip"),
    // Cassandra's, which `tests/services/cassandra` fetches.
    ("java", "openjdk-17-jre-headless"),
    ("mvn", "maven"),
    ("redis-server", "redis-server"),
    // Builds grpcurl.
    ("go", "golang-go"),
];

pub(crate) fn run() -> anyhow::Result<()> {
    install()?;
    // The program first: the end-to-end tests start it.
    crate::cargo(&["build", "--workspace"])?;
    crate::cargo(&["test", "--workspace", "--no-fail-fast"])
}

fn install() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("The tests need {} of Debian: installing it by apt-get.", missing.join(", "));
    let update = Command::new("apt-get").args(["update", "-qq"]).status().context("apt-get update")?;
    let install =
        Command::new("apt-get").args(["install", "-y", "-qq"]).args(&missing).status().context("apt-get install")?;
    if !update.success() || !install.success() {
        bail!("apt-get could not install {}; install it by hand, or run this as root", missing.join(", "));
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).exists())
}
