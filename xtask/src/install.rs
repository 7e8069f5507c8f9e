//! What the verbs need of the system beside cargo: installed where it is missing, by Debian's apt.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// A program, and Debian's package that has it.
pub(crate) type Needed = (&'static str, &'static str);

/// Installs those that are missing; says so.
pub(crate) fn install(needed: &[Needed]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        needed.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("This needs {} of Debian: installing it by apt-get.", missing.join(", "));
    // Servers among them are for us to start, on ports of ours: at run level 1 a package leaves its own alone.
    let apt = |arguments: &[&str]| Command::new("apt-get").args(arguments).env("RUNLEVEL", "1").status();
    let update = apt(&["update", "-qq"]).context("apt-get update")?;
    let install = apt(&[&["install", "-y", "-qq"], &*missing].concat()).context("apt-get install")?;
    if !update.success() || !install.success() {
        bail!("apt-get could not install {}; install it by hand, or run this as root", missing.join(", "));
    }
    Ok(())
}

/// In the `PATH`, or where Debian has servers, which a user's `PATH` leaves out.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
    folders.into_iter().any(|folder| folder.join(program).exists())
}
