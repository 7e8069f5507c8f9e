//! Starting processes that outlive this one, and ending them.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};

use super::kernel::{Id, Sockets};
use super::probe;
use super::state::{Launch, Place, tail};
use crate::harness::server::command_of;
use crate::harness::wait_for;

/// How long a start may take: on busy cores, with the lease of one who was killed to wait for.
const READY: Duration = Duration::from_secs(60);
/// Of a log, what an error shows. Bytes.
const TAIL: usize = 4_096;
/// Between two looks whether processes have ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long the kernel has for taking away what was killed.
const BURIAL: Duration = Duration::from_secs(5);

/// Starts it in a session of its own, its log after the old one.
///
/// # Errors
/// If the program is missing, or has ended at once.
pub fn start(place: &Place, launch: &Launch) -> anyhow::Result<Id> {
    let log = place.logs().join(format!("{}.log", launch.name));
    let open = || OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string());
    // It becomes the program: the number stays.
    let mut command = Command::from(command_of(Path::new("setsid")));
    command.arg(&launch.program).args(&launch.args).current_dir(place.folder());
    command.envs(launch.env.iter().map(|(key, value)| (key, value)));
    command.stdout(open()?).stderr(open()?);
    // When it ends while this process is there, the runtime takes note of it.
    let child = command.spawn().with_context(|| format!("starting {}", launch.name))?;
    let id = child.id().and_then(Id::of);
    id.with_context(|| format!("{} ended at once; its log ends:\n{}", launch.name, tail(&log, TAIL)))
}

/// # Errors
/// If it ends before it is ready, or isn't in time; with its log's end.
pub async fn wait_ready(place: &Place, launch: &Launch, id: Id) -> anyhow::Result<()> {
    let what = format!("{} to be ready", launch.name);
    let waited = wait_for(&what, READY, || async {
        match id.is_running() {
            false => Some(Err(anyhow::anyhow!("it ended before it was ready"))),
            true => probe::is_ready(launch.ready).await.then_some(Ok(())),
        }
    });
    let waited = waited.await.and_then(|ready| ready);
    let log = place.logs().join(format!("{}.log", launch.name));
    waited.with_context(|| format!("{}; its log ends:\n{}", launch.name, tail(&log, TAIL)))
}

/// SIGTERM to all, SIGKILL to those that are there after `grace`, or when `hurry` is done; how many those were.
///
/// # Errors
/// If one is there even then.
pub async fn end(ids: &[Id], grace: Duration, hurry: impl Future<Output = ()>) -> anyhow::Result<usize> {
    let running = || ids.iter().filter(|id| id.is_running()).count();
    for id in ids {
        id.signal(Signal::TERM);
        // One that stands still doesn't get it otherwise.
        id.signal(Signal::CONT);
    }
    let patience = timeout_at(Instant::now() + grace, until_none(&running));
    tokio::select! {
        _ = patience => {}
        () = hurry => {}
    }
    let killed = running();
    for id in ids {
        id.signal(Signal::KILL);
    }
    if timeout_at(Instant::now() + BURIAL, until_none(&running)).await.is_err() {
        let left: Vec<String> = ids.iter().filter(|id| id.is_running()).map(|id| id.pid.to_string()).collect();
        bail!("still there after SIGKILL: process {}", left.join(", "));
    }
    Ok(killed)
}

async fn until_none(running: &impl Fn() -> usize) {
    while running() > 0 {
        sleep(LOOK).await;
    }
}

/// # Errors
/// If a port is taken; names each, and who may have it.
pub fn check_ports(ports: &[(std::net::SocketAddr, String)]) -> anyhow::Result<()> {
    let sockets = Sockets::now();
    let mut taken = Vec::new();
    for (addr, name) in ports {
        if let Err(error) = std::net::TcpListener::bind(addr) {
            let holder = match sockets.holder(*addr) {
                Some(holder) => format!("{holder} has it"),
                None if sockets.has_listener(*addr) => "another user's process has it".to_owned(),
                None => error.to_string(),
            };
            taken.push(format!("  {addr}, for {name}: {holder}"));
        }
    }
    if !taken.is_empty() {
        bail!("these addresses are not free, and a cluster's are fixed (docs/cluster.md):\n{}", taken.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::TcpListener;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    use crate::harness::BOUND;

    /// A shell, which does not outlive the test.
    struct Shell {
        child: Child,
        id: Id,
    }

    impl Shell {
        /// Builtins alone: it has no children that could be left behind.
        fn run(script: &str) -> Self {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let id = Id::of(child.id()).unwrap();
            Self { child, id }
        }

        async fn deaf() -> Self {
            let shell = Self::run("trap '' TERM; while :; do read -r _ </dev/null; done");
            let ignores = || std::future::ready(shell.ignores_term().then_some(()));
            wait_for("the trap", BOUND, ignores).await.unwrap();
            shell
        }

        fn ignores_term(&self) -> bool {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.id.pid)).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (Signal::TERM.as_raw() - 1) != 0
        }

        fn ended_by(&mut self) -> Option<i32> {
            self.child.wait().unwrap().signal()
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            // It has ended, if the test has succeeded.
            let _ended = self.child.kill();
            let _reaped = self.child.wait();
        }
    }

    #[tokio::test]
    async fn who_heeds_no_sigterm_is_killed_and_who_stands_still_gets_it() {
        let mut deaf = Shell::deaf().await;
        let mut frozen = Shell::run("kill -STOP $$; while :; do read -r _ </dev/null; done");
        let stopped = || std::future::ready(frozen.id.stat().filter(|stat| stat.is_frozen));
        wait_for("the stop", BOUND, stopped).await.unwrap();
        let ids = [deaf.id, frozen.id];
        assert_eq!(end(&ids, Duration::from_secs(2), std::future::pending()).await.unwrap(), 1);
        assert_eq!((deaf.ended_by(), frozen.ended_by()), (Some(9), Some(15)));
        // Nobody is there any more.
        assert_eq!(end(&ids, Duration::from_secs(60), std::future::pending()).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn who_hurries_does_not_wait() {
        let mut deaf = Shell::deaf().await;
        let ids = [deaf.id];
        let killed = end(&ids, Duration::from_secs(3_600), std::future::ready(())).await.unwrap();
        assert_eq!(killed, 1);
        assert_eq!(deaf.ended_by(), Some(9));
    }

    #[test]
    fn a_port_in_use_is_named_and_who_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let words = check_ports(&[(addr, "edge-0".to_owned())]).unwrap_err().to_string();
        assert!(words.contains(&format!("{addr}, for edge-0: ")), "{words}");
        assert!(words.contains(&format!(", pid {} has it", std::process::id())), "{words}");
        drop(listener);
        check_ports(&[(addr, "edge-0".to_owned())]).unwrap();
    }
}
