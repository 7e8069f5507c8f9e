//! `cargo xtask faults`: the fault table, and its control.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The control: not a row, for it needs a program with faults on purpose.
const CONTROL: &str = "held-write";
/// The row that needs the program of a version before, and that version's commit, for not every copy has its tag, mesh-2: the first
/// that ran as a mesh with all its parts, drains of at most two seconds among them.
const UPGRADE: (&str, &str) = ("rolling-upgrade", "9dae3b3d94f9fce7c15192969343b2a7e946147f");
/// Names another commit in its place.
const FROM: &str = "CONFAB_UPGRADE_REV";

pub(crate) fn run(names: &[String]) -> anyhow::Result<()> {
    if names == [CONTROL] {
        return control();
    }
    let (row, commit) = UPGRADE;
    let mut before = None;
    if names.is_empty() || names.iter().any(|name| name == row) {
        let rev = std::env::var(FROM).unwrap_or_else(|_| commit.to_owned());
        breaking(&rev)?;
        before = Some(build_at(&rev)?);
    }
    build(&["--bin", "confab", "--bin", "confab-faults"])?;
    table("confab-faults", names, &built("confab"), before.as_deref())
}

/// Builds the program with its failpoints, and puts it beside the one that serves.
fn control() -> anyhow::Result<()> {
    build(&["--bin", "confab", "--features", "confab/failpoints"])?;
    let folder = crate::root().join("target/failpoints");
    std::fs::create_dir_all(&folder)?;
    let program: PathBuf = folder.join("confab");
    std::fs::copy(built("confab"), &program)?;
    build(&["--bin", "confab", "--bin", "confab-held-write"])?;
    table("confab-held-write", &[], &program, None)
}

/// Not optimised in a build for tests, where compiling is most of the time.
const OPTIMISED: [&str; 6] =
    ["confab", "confab-bench", "confab-fanout-svc", "confab-presence-svc", "confab-telemetry", "confab-tests"];

/// With the whole workspace's features, always the same ones: so both versions and the table share what they depend on. All of ours is
/// optimised, the load, too: it shares the machine with what it loads.
fn build(what: &[&str]) -> anyhow::Result<()> {
    let config = OPTIMISED.map(|package| format!("profile.dev.package.{package}.opt-level=1"));
    let config = config.iter().flat_map(|config| ["--config", config]);
    crate::cargo(&["build", "--workspace"].into_iter().chain(config).chain(what.iter().copied()).collect::<Vec<_>>())
}

fn built(binary: &str) -> PathBuf {
    crate::root().join("target/debug").join(binary)
}

/// `program`: of a test it is the grandparent's folder that has it; of these it is the parent's. `before`: of the version before.
fn table(binary: &str, names: &[String], program: &Path, before: Option<&Path>) -> anyhow::Result<()> {
    let mut table = Command::new(built(binary));
    table.args(names).env("CONFAB_BIN", program).current_dir(crate::root());
    table.envs(before.map(|before| ("CONFAB_UPGRADE_FROM", before)));
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
