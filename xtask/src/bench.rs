//! `cargo xtask bench`: the generator of `bench/` against the release build, with the baselines in the same run.

use std::process::Command;

use anyhow::{Context, ensure};

/// Without arguments everything, about 19 minutes, written to docs/benchmark.md.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    crate::cargo(&["build", "--release", "--package", "confab", "--package", "confab-bench"])?;
    let root = crate::root().canonicalize()?;
    let target = root.join("target/release");
    let mut bench = Command::new(target.join("confab-bench"));
    bench.current_dir(&root).arg("--confab").arg(target.join("confab"));
    if arguments.is_empty() {
        bench.args(["--out", "docs/benchmark.md", "all"]);
    } else {
        bench.args(arguments);
    }
    let status = bench.status().context("confab-bench")?;
    ensure!(status.success(), "a must of the benchmark was missed");
    Ok(())
}
