//! `cargo xtask test`: every test, after installing what they need.

use crate::install::{Needed, install};

const NEEDED: [Needed; 9] = [
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
    install(&NEEDED)?;
    // The program first: the end-to-end tests start it. With `--tests`, for what tests depend on has features of its own: a plain
    // build's services would be built a second time.
    crate::cargo(&["build", "--workspace", "--bins", "--tests"])?;
    crate::cargo(&["test", "--workspace", "--no-fail-fast"])
}
