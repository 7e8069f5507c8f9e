//! `cargo xtask faults`: the fault table, and its control.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

/// The control: not a row, for it needs a program with faults on purpose.
const CONTROL: &str = "held-write";

pub(crate) fn run(names: &[String]) -> anyhow::Result<()> {
    if names == [CONTROL] {
        return control();
    }
    crate::cargo(&["build", "--package", "confab"])?;
    table("confab-faults", names, &crate::root().join("target/debug/confab"))
}

/// Builds the program with its failpoints, and puts it beside the one that serves.
fn control() -> anyhow::Result<()> {
    crate::cargo(&["build", "--package", "confab", "--features", "failpoints"])?;
    let folder = crate::root().join("target/failpoints");
    std::fs::create_dir_all(&folder)?;
    let program: PathBuf = folder.join("confab");
    std::fs::copy(crate::root().join("target/debug/confab"), &program)?;
    crate::cargo(&["build", "--package", "confab"])?;
    table("confab-held-write", &[], &program)
}

/// `program`: of a test it is the grandparent's folder that has it; of these it is the parent's.
fn table(binary: &str, names: &[String], program: &Path) -> anyhow::Result<()> {
    let mut table = Command::new("cargo");
    table.args(["run", "--package", "confab-tests", "--bin", binary, "--"]).args(names);
    table.env("CONFAB_BIN", program).current_dir(crate::root());
    ensure!(table.status()?.success(), "`cargo xtask faults {}` does not hold", names.join(" "));
    Ok(())
}
