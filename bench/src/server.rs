//! The processes under test: started on a free port, probed, and stopped with everything that they left.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::client::Endpoint;
use crate::probe;
use crate::token::Signer;

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(30);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);
/// How long a failing run waits for the last lines of the server's log.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A server process. Dropped, it is killed.
pub struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    pid: u32,
    endpoint: Endpoint,
    log: Log,
    log_ended: watch::Receiver<bool>,
    data: Option<TempDir>,
}

impl Server {
    /// `confab serve` on a free port, with a fresh data folder below `work`.
    pub async fn confab(program: &Path, work: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(work).context("can't make a data folder")?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).stdin(Stdio::null());
        // A user of the load sends what many would.
        let limits = ["MESSAGES", "BYTES", "CONNECTS", "HTTP"];
        command.envs(limits.map(|what| (format!("CONFAB_EDGE__LIMITS__{what}_PER_SECOND"), "0")));
        let mut server = Self::start(command).await?;
        server.endpoint.signer = Some(Arc::new(Signer::read(data.path())?));
        server.data = Some(data);
        Ok(server)
    }

    /// One of this program's own hidden peers: `bare-echo`, `bare-write`. It ends when its stdin does.
    pub async fn peer<S: AsRef<OsStr>>(args: &[S]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
        command.args(args).stdin(Stdio::piped());
        Self::start(command).await
    }

    async fn start(mut command: Command) -> Result<Self> {
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("can't start {name}"))?;
        let pid = child.id().context("the server ended at once")?;
        let log = Log::default();
        let (found, address) = oneshot::channel();
        let (ending, log_ended) = watch::channel(false);
        let stderr = child.stderr.take().context("the server has no stderr")?;
        let following = follow(stderr, log.clone(), found);
        tokio::spawn(async move {
            following.await;
            ending.send_replace(true);
        });
        let addr = match timeout(START, address).await {
            Ok(Ok(addr)) => addr,
            Ok(Err(_)) => bail!("{name} ended before it listened: {}", log.tail()),
            Err(_) => bail!("{name} did not say that it listens within {START:?}: {}", log.tail()),
        };
        let stdin = child.stdin.take();
        let endpoint = Endpoint { addr, signer: None };
        Ok(Self { child, stdin, pid, endpoint, log, log_ended, data: None })
    }

    /// Where it listens and how to sign in.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its data folder, of `confab` only.
    pub fn data(&self) -> Result<&Path> {
        self.data.as_ref().map(TempDir::path).context("a bare peer has no data folder")
    }

    /// CPU used so far, in µs. Fails with the server's last words if it has died.
    pub fn cpu_micros(&self) -> Result<u64> {
        probe::cpu_micros(self.pid).with_context(|| self.last_words())
    }

    /// Private bytes now.
    pub fn private_bytes(&self) -> Result<u64> {
        probe::private_bytes(self.pid).with_context(|| self.last_words())
    }

    /// Threads now.
    pub fn threads(&self) -> Result<u64> {
        probe::threads(self.pid).with_context(|| self.last_words())
    }

    /// Adds to an error what was going on and what the server logged last; a dying server has half a second for that.
    pub async fn explain<T>(&self, result: Result<T>, what: impl FnOnce() -> String) -> Result<T> {
        if result.is_ok() {
            return result;
        }
        let _ = timeout(LAST_WORDS, self.log_ended.clone().wait_for(|ended| *ended)).await;
        result.with_context(|| format!("{} ({})", what(), self.last_words()))
    }

    fn last_words(&self) -> String {
        format!("the server's last words: {}", self.log.tail())
    }

    /// Writes a line to a peer's stdin.
    pub async fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("this process takes no orders")?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        stdin.flush().await?;
        Ok(())
    }

    /// Stops it: SIGTERM (a peer: end of its stdin), and after 10 s SIGKILL. Its data folder goes with it.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stdin.take());
        if self.data.is_some()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM).with_context(|| self.last_words())?;
        }
        if timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await.context("can't kill the server")?;
        }
        Ok(())
    }
}

/// The last lines that a server logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    const LINES: usize = 20;

    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == Self::LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn tail(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() { "(none)".to_owned() } else { Vec::from(lines.clone()).join(" | ") }
    }
}

/// Reads the log to its end, so that the server never blocks on it, and tells the address once.
async fn follow(stderr: ChildStderr, log: Log, found: oneshot::Sender<SocketAddr>) {
    let mut found = Some(found);
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = without_colours(&line);
        if let Some(addr) = listening(&line)
            && let Some(found) = found.take()
        {
            let _ = found.send(addr);
        }
        log.push(&line);
    }
}

/// The address in a line that contains `listening` and `url=http://…` (or, logged as JSON, `"url":"http://…`).
fn listening(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let at = line.find("url=").map(|at| at + 4).or_else(|| line.find("\"url\":").map(|at| at + 6))?;
    let url = line[at..].trim_start_matches('"').strip_prefix("http://")?;
    let end = url.find(|c: char| c.is_whitespace() || c == '"' || c == '/').unwrap_or(url.len());
    url[..end].parse().ok()
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("\u{1b}[") {
        plain.push_str(&rest[..at]);
        let end = rest[at..].find('m').map_or(rest.len(), |end| at + end + 1);
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain
}

/// What a peer says on stderr when it listens: the same words as `confab serve`.
pub(crate) fn announce(addr: SocketAddr) -> Result<()> {
    writeln!(std::io::stderr(), "listening url=http://{addr}").context("can't say where this process listens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_any_log_format() {
        let addr: SocketAddr = "127.0.0.1:4567".parse().expect("an address");
        for line in [
            "2026-11-24T04:00:00Z  INFO confab: listening url=http://127.0.0.1:4567 data=/x",
            "INFO listening url=\"http://127.0.0.1:4567\" role=all",
            "listening url=http://127.0.0.1:4567/",
            r#"{"message":"listening","url":"http://127.0.0.1:4567","n":1}"#,
            "\u{1b}[2m2026\u{1b}[0m listening \u{1b}[3murl\u{1b}[0m\u{1b}[2m=\u{1b}[0mhttp://127.0.0.1:4567\u{1b}[0m",
        ] {
            assert_eq!(listening(&without_colours(line)), Some(addr), "{line}");
        }
        assert_eq!(listening("starting url=http://127.0.0.1:4567"), None);
        assert_eq!(listening("listening on 127.0.0.1:4567"), None);
    }
}
