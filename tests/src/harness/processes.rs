//! A process of its own, to be killed, stopped, continued and started again: by its id, its log in a file.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{http, server, wait_for};

/// How long a start may take, on busy cores.
const START_BOUND: Duration = Duration::from_secs(30);
/// Of a log, what is shown when a test fails. Bytes.
const TAIL_BYTES: usize = 4_096;

/// How `confab` is started, the first time and again.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Names the log's file.
    pub name: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Where `/readyz` is.
    pub ready: SocketAddr,
    /// Runs under this group id, which only root can give; none: this process's own.
    pub group: Option<u32>,
    /// The program; none: the one that was built.
    pub program: Option<PathBuf>,
}

/// A process, or one that was. Dropping it kills it.
pub struct Process {
    spec: Spec,
    log: PathBuf,
    child: Option<Child>,
}

/// What can be sent to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    /// It hangs, its connections open, until [`Signal::Cont`].
    Stop,
    Cont,
}

impl Process {
    /// Starts it; its log goes to `<logs>/<name>.log`.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn spawn(spec: Spec, logs: &Path) -> anyhow::Result<Self> {
        let log = logs.join(format!("{}.log", spec.name));
        let mut process = Self { spec, log, child: None };
        process.respawn()?;
        Ok(process)
    }

    /// Starts it again, in the same way, its log after the old one.
    ///
    /// # Errors
    /// If it is running.
    pub fn respawn(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} is still running", self.spec.name);
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let (out, err): (File, File) = (open()?, open()?);
        let mut command = match &self.spec.program {
            Some(program) => server::command_of(program),
            None => server::command()?,
        };
        self.spec.group.into_iter().for_each(|group| {
            command.gid(group);
        });
        command.args(&self.spec.args).envs(self.spec.env.iter().map(|(key, value)| (key, value)));
        command.stdout(Stdio::from(out)).stderr(Stdio::from(err));
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.spec.name))?);
        Ok(())
    }

    /// Starts the program at `program` the next time; none: the one that was built.
    pub fn replace_program(&mut self, program: Option<PathBuf>) {
        self.spec.program = program;
    }

    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether `/readyz` says so, now.
    pub async fn is_ready(&self) -> bool {
        http::is_ready(self.spec.ready).await
    }

    /// # Errors
    /// If it ends before it is ready, or isn't in time; with its log's end.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let Self { spec, child, .. } = self;
        let what = format!("{} to be ready", spec.name);
        let waited = wait_for(&what, START_BOUND, || {
            let ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let is_ready = http::is_ready(spec.ready);
            async move {
                if let Some(status) = ended {
                    return Some(Err(anyhow::anyhow!("it ended before it was ready: {status}")));
                }
                is_ready.await.then_some(Ok(()))
            }
        });
        let waited = waited.await.and_then(|ready| ready);
        waited.with_context(|| format!("{}; its log ends:\n{}", self.spec.name, self.log_tail()))
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} isn't running", self.spec.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// # Errors
    /// If it isn't running.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| format!("{} isn't running", self.spec.name))?;
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        };
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status()?;
        ensure!(status.success(), "kill -{name} {pid}: {status}");
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it doesn't within `bound`.
    pub async fn wait_exit(&mut self, bound: Duration) -> anyhow::Result<ExitStatus> {
        let name = self.spec.name.clone();
        let Some(child) = &mut self.child else { bail!("{name} isn't running") };
        let ended = || std::future::ready(child.try_wait().ok().flatten());
        let what = format!("the end of {name}");
        let status = wait_for(&what, bound, ended).await;
        let status = status.with_context(|| format!("its log ends:\n{}", self.log_tail()))?;
        self.child = None;
        Ok(status)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(TAIL_BYTES);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        log[from..].to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the log of {} ends:\n{}---", self.spec.name, self.log_tail());
        }
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}
