//! Clients that others wrote: Python's `websockets` and Schemathesis, Node's `ws`, Chromium, and
//! `grpcurl`; and what makes networks bad. Installs them, and runs the scripts in
//! `tests/foreign/` with them.
//!
//! Everything goes into one folder, `target/foreign` unless `CONFAB_FOREIGN_DIR` names another; what is there isn't
//! fetched again. `cargo xtask test` calls [`install`], too.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

/// Pinned, so that a run tomorrow is a run of today.
const PYTHON_PACKAGES: &[&str] = &["websockets==17.4", "schemathesis==4.32.5"];
const NODE_PACKAGES: &[&str] = &["ws@8.23.0", "playwright-core@1.65.1"];

/// A program that must be there, how to see that it is, and the Debian package that brings it.
pub struct Tool {
    pub name: &'static str,
    pub check: &'static [&'static str],
    pub debian: &'static str,
}

/// What the tests need of the system.
pub const TOOLS: &[Tool] = &[
    Tool { name: "Python with pip", check: &["python3", "-m", "pip", "--version"], debian: "python3-pip" },
    Tool { name: "Node", check: &["node", "--version"], debian: "nodejs" },
    Tool { name: "npm", check: &["npm", "--version"], debian: "npm" },
    Tool { name: "Chromium", check: &["sh", "-c", "command -v chromium"], debian: "chromium" },
    Tool { name: "FUSE", check: &["sh", "-c", "command -v fusermount3"], debian: "fuse3" },
];

const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";
const TOXIPROXY: &str = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0";
/// Builds them; an older one fetches the Go that they need by itself.
const GO: Tool = Tool { name: "Go", check: &["go", "version"], debian: "golang-go" };

/// Makes packets vanish.
const NFT: Tool = Tool { name: "nftables", check: &["nft", "list", "tables"], debian: "nftables" };

/// Where the installs are.
#[derive(Clone, Debug)]
pub struct Foreign {
    dir: PathBuf,
}

/// The tools of [`TOOLS`] that aren't there.
#[must_use]
pub fn missing_tools() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| !succeeds(tool.check)).collect()
}

/// Installs what is missing: Debian's packages (as root; else it says which to install), then those of pip and npm.
/// Tests that run at the same time wait for each other here.
///
/// # Errors
/// If something can't be installed, with what it was.
pub fn install() -> anyhow::Result<Foreign> {
    let dir = install_dir()?;
    std::fs::create_dir_all(&dir)?;
    let lock = std::fs::File::create(dir.join(".lock"))?;
    lock.lock().context("waiting for another install")?;
    install_debian(&missing_tools())?;
    let foreign = Foreign { dir };
    foreign.once("python", PYTHON_PACKAGES, |to| {
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--target"];
        run(Command::new("python3").args(pip).arg(to).args(PYTHON_PACKAGES))
    })?;
    foreign.once("node", NODE_PACKAGES, |to| {
        std::fs::write(to.join("package.json"), "{\"private\":true}\n")?;
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
        run(Command::new("npm").args(npm).arg(to).args(NODE_PACKAGES))
    })?;
    Ok(foreign)
}

/// Where `grpcurl` is: built from its source the first time.
///
/// # Errors
/// If it can't be built, with what it was.
pub fn grpcurl() -> anyhow::Result<PathBuf> {
    Ok(go("grpcurl", GRPCURL)?.join("grpcurl"))
}

/// Where Toxiproxy's server is: built from its source the first time.
///
/// # Errors
/// If it can't be built, with what it was.
pub fn toxiproxy() -> anyhow::Result<PathBuf> {
    Ok(go("toxiproxy", TOXIPROXY)?.join("server"))
}

/// The folder with what `go install` makes of a package.
fn go(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let dir = install_dir()?;
    std::fs::create_dir_all(&dir)?;
    let lock = std::fs::File::create(dir.join(".lock"))?;
    lock.lock().context("waiting for another install")?;
    Foreign { dir: dir.clone() }.once(name, &[package], |to| {
        if !succeeds(GO.check) {
            install_debian(&[&GO])?;
        }
        run(Command::new("go")
            .args(["install", package])
            .env("GOBIN", std::path::absolute(to)?)
            .env("CGO_ENABLED", "0"))
    })?;
    Ok(dir.join(name))
}

/// Whether `nft` can be called: it is installed the first time, which only root can.
///
/// # Errors
/// If it can't be installed, with what it was.
pub fn nft() -> anyhow::Result<()> {
    if succeeds(NFT.check) { Ok(()) } else { install_debian(&[&NFT]) }
}

impl Foreign {
    /// A Python command that finds `websockets`.
    #[must_use]
    pub fn python(&self, script: &str) -> Command {
        let mut command = Command::new("python3");
        command.arg(script_path(script)).env("PYTHONPATH", self.dir.join("python"));
        command
    }

    /// Schemathesis, which asks what an `OpenAPI` description says, and much that it doesn't.
    #[must_use]
    pub fn schemathesis(&self) -> Command {
        let mut command = Command::new("python3");
        command.args(["-m", "schemathesis.cli"]).env("PYTHONPATH", self.dir.join("python"));
        command
    }

    /// A Node command that finds `ws` and `playwright-core`, and Chromium.
    #[must_use]
    pub fn node(&self, script: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(script_path(script)).env("CONFAB_FOREIGN_NODE", self.dir.join("node"));
        let chromium = std::env::var_os("CONFAB_CHROMIUM").unwrap_or_else(|| "/usr/bin/chromium".into());
        command.env("CONFAB_CHROMIUM", chromium);
        command
    }

    /// Runs an install into a folder of its own, unless a stamp there says that these packages are in it.
    fn once(&self, name: &str, packages: &[&str], run: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let to = self.dir.join(name);
        let stamp = to.join(".installed");
        let wanted = packages.join("\n");
        if std::fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            return Ok(());
        }
        println!("installing {} into {}", packages.join(", "), to.display());
        if to.exists() {
            std::fs::remove_dir_all(&to)?;
        }
        std::fs::create_dir_all(&to)?;
        run(&to).with_context(|| format!("installing {}", packages.join(", ")))?;
        Ok(std::fs::write(stamp, wanted)?)
    }
}

fn install_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CONFAB_FOREIGN_DIR") {
        return Ok(dir.into());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package has no parent folder")?;
    Ok(workspace.join("target").join("foreign"))
}

fn script_path(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign").join(script)
}

fn install_debian(missing: &[&Tool]) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.debian).collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    ensure!(succeeds(&["sh", "-c", "test $(id -u) = 0"]), "missing; install it with: sudo {by_hand}");
    println!("{by_hand}");
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut command)
}

fn succeeds(command: &[&str]) -> bool {
    let Some((program, args)) = command.split_first() else { return false };
    let silent =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent.is_ok_and(|status| status.success())
}

/// Runs a command to its end; its output goes into the error if it fails.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?}: {}\n{out}\n{err}", output.status);
    }
    Ok(())
}
