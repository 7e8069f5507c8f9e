//! The server process: started, killed, started again on the same data and port, its log kept for failures.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Client, Mode};
use super::http::{self, Response};
use super::token::Minter;
use super::wait_for;

/// Lines of the server's log that are kept, and shown when a test fails.
const LOG_LINES_MAX: usize = 60;
/// How long a start may take: recovery of a big log on busy cores included.
const START_BOUND: Duration = Duration::from_secs(30);

/// The server's last log lines. Shared with the thread that reads them.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn tail(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().fold(String::new(), |all, line| all + line + "\n")
    }

    fn url(&self) -> Option<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|line| parse_url(line))
    }
}

/// A server process with its data folder. Dropping it kills the process.
pub struct Server {
    child: Option<Child>,
    addr: SocketAddr,
    data: PathBuf,
    /// Removed with the server, unless the folder came from outside.
    _own: Option<TempDir>,
    env: Vec<(String, String)>,
    args: Vec<String>,
    log: Log,
    minter: Minter,
}

impl Server {
    /// Starts on a fresh folder.
    ///
    /// # Errors
    /// If the program is missing, or isn't ready in time.
    pub async fn start() -> anyhow::Result<Self> {
        let own = tempfile::tempdir()?;
        let mut server = Self::start_on(&own.path().join("data"), &[], &[]).await?;
        server._own = Some(own);
        Ok(server)
    }

    /// Starts on the folder `data`, with these environment variables and further arguments.
    ///
    /// # Errors
    /// If the program is missing, or isn't ready in time.
    pub async fn start_on(data: &Path, env: &[(&str, &str)], args: &[&str]) -> anyhow::Result<Self> {
        let env: Vec<_> = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let log = Log::default();
        let child = spawn(data, 0, &env, &args, &log)?;
        let mut guard = KillOnDrop(Some(child));
        let addr = wait_ready(&mut guard, &log).await?;
        let minter = Minter::of_data_dir(data)?;
        let child = guard.0.take();
        Ok(Self { child, addr, data: data.to_owned(), _own: None, env, args, log, minter })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    #[must_use]
    pub fn minter(&self) -> &Minter {
        &self.minter
    }

    #[must_use]
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the server isn't running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts again, on the same data folder and port.
    ///
    /// # Errors
    /// If it is running, or isn't ready in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the server is still running");
        self.log = Log::default();
        let child = spawn(&self.data, self.addr.port(), &self.env, &self.args, &self.log)?;
        let mut guard = KillOnDrop(Some(child));
        wait_ready(&mut guard, &self.log).await?;
        self.child = guard.0.take();
        Ok(())
    }

    /// SIGINT, as Ctrl-C gives it.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn interrupt(&self) -> anyhow::Result<()> {
        let pid = self.pid().context("the server isn't running")?;
        let status = Command::new("sh").arg("-c").arg(format!("kill -INT {pid}")).status()?;
        ensure!(status.success(), "kill -INT {pid}: {status}");
        Ok(())
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// If it doesn't within `bound`.
    pub async fn wait_exit(&mut self, bound: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().context("the server isn't running")?;
        let status = wait_for("the server's end", bound, || std::future::ready(child.try_wait().ok().flatten())).await;
        if status.is_err() {
            self.child = Some(child);
        }
        status
    }

    #[must_use]
    pub fn token(&self, user: u64) -> String {
        self.minter.token(user, None)
    }

    /// A full-mode client on the default device; it has read `hello`, and not yet synced.
    ///
    /// # Errors
    /// If connecting fails.
    pub async fn connect(&self, user: u64) -> anyhow::Result<Client> {
        Client::connect(self.addr, &self.token(user), Mode::Json).await
    }

    /// A full-mode client that has synced from `positions` (chat, seq).
    ///
    /// # Errors
    /// If connecting or syncing fails.
    pub async fn synced(&self, user: u64, positions: &[(u64, u64)]) -> anyhow::Result<Client> {
        let mut client = self.connect(user).await?;
        client.sync(positions).await?;
        Ok(client)
    }

    /// A client that knows only the seed's frames.
    ///
    /// # Errors
    /// If connecting fails.
    pub async fn connect_seed(&self, user: u64) -> anyhow::Result<Client> {
        Client::connect(self.addr, &self.token(user), Mode::Seed).await
    }

    /// An HTTP request as `user`.
    ///
    /// # Errors
    /// If the server doesn't answer.
    pub async fn http(&self, user: u64, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Response> {
        http::request(self.addr, method, path, Some(&self.token(user)), body).await
    }

    /// `POST /v1/chats`, a group by `creator` with `members`; gives its id.
    ///
    /// # Errors
    /// If the answer isn't 201 with a `chat_id`.
    pub async fn create_group(&self, creator: u64, members: &[u64]) -> anyhow::Result<u64> {
        let body = json!({"kind": "group", "title": format!("group of {creator}"), "members": members});
        let response = self.http(creator, "POST", "/v1/chats", Some(&body)).await?;
        ensure!(response.status == 201, "creating a group: {} {}", response.status, response.text());
        response.json()?["chat_id"].as_u64().with_context(|| format!("no chat_id in {}", response.text()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the server's log ends:\n{}--- (data: {})", self.log.tail(), self.data.display());
        }
        drop(KillOnDrop(self.child.take()));
    }
}

struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended already.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Where the program is: `CONFAB_BIN`, or in the folder that this program was built into.
///
/// # Errors
/// If there is none, with what to do.
pub fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("CONFAB_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    // A binary has it beside itself, a test one folder further up.
    let places = this.ancestors().skip(1).take(2).map(|folder| folder.join("confab"));
    places.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("there is no `confab` beside {}: run `cargo build` first, or set CONFAB_BIN", this.display())
    })
}

/// What tests do that a person doesn't: many messages, connections and requests of one user.
const WITHOUT_LIMITS: [&str; 4] = ["MESSAGES", "BYTES", "CONNECTS", "HTTP"];

/// The program with an environment free of `CONFAB_*`, which are its settings, but for the limits of one user: there are none.
///
/// # Errors
/// If there is no program.
pub fn command() -> anyhow::Result<Command> {
    let mut command = command_of(&program()?);
    command.envs(WITHOUT_LIMITS.map(|what| (format!("CONFAB_EDGE__LIMITS__{what}_PER_SECOND"), "0")));
    Ok(command)
}

/// The same of another program.
pub(crate) fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("CONFAB_") {
            command.env_remove(key);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn spawn(data: &Path, port: u16, env: &[(String, String)], args: &[String], log: &Log) -> anyhow::Result<Child> {
    let mut command = command()?;
    command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(data).args(args);
    command.envs(env.iter().map(|(key, value)| (key, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
    if let Some(stdout) = child.stdout.take() {
        follow(stdout, log.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        follow(stderr, log.clone());
    }
    Ok(child)
}

fn follow(stream: impl Read + Send + 'static, log: Log) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.push(line);
        }
    });
}

async fn wait_ready(child: &mut KillOnDrop, log: &Log) -> anyhow::Result<SocketAddr> {
    let ready = wait_for("the server to be ready", START_BOUND, || {
        let ended = child.0.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let url = log.url();
        async move {
            if let Some(status) = ended {
                return Some(Err(anyhow::anyhow!("the server ended before it was ready: {status}")));
            }
            let ready = http::request(url?, "GET", "/readyz", None, None).await.ok()?;
            (ready.status == 200).then_some(Ok(url?))
        }
    });
    ready.await.and_then(|ready| ready).with_context(|| format!("its log ends:\n{}", log.tail()))
}

/// Finds `url=http://IP:PORT` (or `"url":"…"`) in a log line that says `listening`.
fn parse_url(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let at = line.find("http://")? + "http://".len();
    line[at..].split(|c: char| c.is_whitespace() || c == '"' || c == '/' || c == '\u{1b}').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_url;

    #[test]
    fn the_url_is_found_in_plain_coloured_and_json_lines() {
        let expect = Some("127.0.0.1:4567".parse().unwrap());
        assert_eq!(parse_url("2026 INFO listening url=http://127.0.0.1:4567"), expect);
        assert_eq!(parse_url("listening url=\"http://127.0.0.1:4567\" x=1"), expect);
        assert_eq!(parse_url("listening \u{1b}[3murl\u{1b}[0m=http://127.0.0.1:4567\u{1b}[0m"), expect);
        assert_eq!(parse_url(r#"{"message":"listening","url":"http://127.0.0.1:4567/"}"#), expect);
        assert_eq!(parse_url("connecting url=http://127.0.0.1:4567"), None);
    }
}
