//! One of the scripts, with the environment of one server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};

static STARTED: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub(crate) struct Script {
    path: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Script {
    pub(crate) fn new(name: &str, env: Vec<(&'static str, String)>) -> Self {
        Self { path: Path::new(env!("CARGO_MANIFEST_DIR")).join("../services").join(name), env }
    }

    /// Runs it, and gives what it says.
    pub(crate) fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } =
            self.command("bash").arg(&self.path).args(args).output().context("bash")?;
        ensure!(status.success(), "{}: {}", args.join(" "), String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Removes the server when its input ends: with this process.
    pub(crate) fn remover(&self, args: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command("setsid");
        command.args(["sh", "-c", r#"cat >/dev/null; exec bash "$0" "$@""#]).arg(&self.path).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("setsid sh")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// A folder for one server of this kind.
pub(crate) fn folder(kind: &str) -> PathBuf {
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("confab-{kind}-{}-{number}", std::process::id()))
}
