//! `cargo xtask lint`: format, clippy, and `buf lint` where buf is installed.

use std::process::Command;

use anyhow::ensure;

pub(crate) fn run() -> anyhow::Result<()> {
    crate::cargo(&["fmt", "--all", "--check"])?;
    crate::cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    match Command::new("buf").arg("lint").current_dir(crate::root().join("proto")).status() {
        Ok(status) => ensure!(status.success(), "`buf lint` failed"),
        Err(_) => println!("buf is not installed (pip: buf-bin): the protos' style was not checked"),
    }
    Ok(())
}
