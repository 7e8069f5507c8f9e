//! `cargo xtask faults`: the fault table.

use std::process::Command;

use anyhow::ensure;

pub(crate) fn run(names: &[String]) -> anyhow::Result<()> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(crate::root());
        command
    };
    ensure!(cargo(&["build", "--package", "confab"]).status()?.success(), "the program was not built");
    let mut table = cargo(&["run", "--package", "confab-tests", "--bin", "confab-faults", "--"]);
    table.args(names);
    // Of a test it is the grandparent's folder that has the program; of this it is the parent's.
    table.env("CONFAB_BIN", crate::root().join("target/debug/confab"));
    ensure!(table.status()?.success(), "the fault table does not hold");
    Ok(())
}
