//! `cargo xtask faults`: the fault table, and its control.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The control: not a row, for it needs a program with faults on purpose.
const CONTROL: &str = "held-write";
/// The rows that need the program of a version before, that version, and its commit, for not every copy has the tag: the first that ran
/// as a mesh with all its parts, and the first whose drains are short.
const UPGRADES: [(&str, &str, &str); 2] = [
    ("rolling-upgrade", "mesh-1", "5d6549457fb49c53c2c29b24a035ecfc22e07514"),
    ("rolling-upgrade-2", "mesh-2", "9dae3b3d94f9fce7c15192969343b2a7e946147f"),
];
/// Names another commit in their place.
const FROM: &str = "CONFAB_UPGRADE_REV";

pub(crate) fn run(names: &[String]) -> anyhow::Result<()> {
    if names == [CONTROL] {
        return control();
    }
    for (row, version, commit) in UPGRADES {
        if names.is_empty() || names.iter().any(|name| name == row) {
            let rev = std::env::var(FROM).unwrap_or_else(|_| commit.to_owned());
            breaking(&rev)?;
            std::fs::copy(build_at(&rev)?, upgrades()?.join(format!("confab-{version}")))?;
        }
    }
    build(&["--bin", "confab", "--bin", "confab-faults"])?;
    table("confab-faults", names, &built("confab"))
}

/// Builds the program with its failpoints, and puts it beside the one that serves.
fn control() -> anyhow::Result<()> {
    build(&["--bin", "confab", "--features", "confab/failpoints"])?;
    let folder = crate::root().join("target/failpoints");
    std::fs::create_dir_all(&folder)?;
    let program: PathBuf = folder.join("confab");
    std::fs::copy(built("confab"), &program)?;
    build(&["--bin", "confab", "--bin", "confab-held-write"])?;
    table("confab-held-write", &[], &program)
}

/// With the whole workspace's features, always the same ones: so both versions and the table share what they depend on. The load shares
/// the machine with what it loads, so it is optimised, which a test run's isn't.
fn build(what: &[&str]) -> anyhow::Result<()> {
    let optimised = |package: &str| format!("profile.dev.package.{package}.opt-level=1");
    let load = [optimised("confab-tests"), optimised("confab-bench")];
    let config = load.iter().flat_map(|config| ["--config", config]);
    crate::cargo(&["build", "--workspace"].into_iter().chain(config).chain(what.iter().copied()).collect::<Vec<_>>())
}

fn built(binary: &str) -> PathBuf {
    crate::root().join("target/debug").join(binary)
}

/// `program`: of a test it is the grandparent's folder that has it; of these it is the parent's.
fn table(binary: &str, names: &[String], program: &Path) -> anyhow::Result<()> {
    let mut table = Command::new(built(binary));
    table.args(names).env("CONFAB_BIN", program).env("CONFAB_UPGRADE_FROM", upgrades()?).current_dir(crate::root());
    ensure!(table.status()?.success(), "`cargo xtask faults {}` does not hold", names.join(" "));
    Ok(())
}

/// Where the programs of versions before are.
fn upgrades() -> anyhow::Result<PathBuf> {
    Ok(crate::root().canonicalize()?.join("target/upgrade"))
}

/// The program as it was at `rev`: what is built of it is kept, for a commit doesn't change.
fn build_at(rev: &str) -> anyhow::Result<PathBuf> {
    let commit = git(&["rev-parse", "--verify", "--quiet", &format!("{rev}^{{commit}}")])
        .with_context(|| format!("there is no commit {rev} to upgrade from: {FROM} may name another one"))?;
    let folder = upgrades()?;
    let program = folder.join(format!("confab-{commit}"));
    if program.exists() {
        return Ok(program);
    }
    let tree = folder.join("tree");
    let path = tree.display().to_string();
    if tree.exists() {
        git(&["worktree", "remove", "--force", &path])?;
    }
    git(&["worktree", "prune"])?;
    git(&["worktree", "add", "--detach", &path, &commit])?;
    // Into this workspace's target folder: what both versions depend on is built already.
    println!("cargo build --workspace --bin confab, at {rev}");
    let target = crate::root().canonicalize()?.join("target");
    let mut build = Command::new("cargo");
    build.args(["build", "--workspace", "--bin", "confab", "--target-dir"]).arg(&target).current_dir(&tree);
    ensure!(build.status()?.success(), "{rev} can't be built");
    std::fs::copy(target.join("debug/confab"), &program)?;
    git(&["worktree", "remove", "--force", &path])?;
    Ok(program)
}

/// Whether what speaks the protocols of `rev` understands today's.
fn breaking(rev: &str) -> anyhow::Result<()> {
    crate::buf(&["breaking", "--against", &format!("../.git#ref={rev},subdir=proto")])
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").args(arguments).current_dir(crate::root()).output().context("git")?;
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
