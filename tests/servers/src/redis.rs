//! Redis.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::ports;
use crate::script::{Script, folder};

/// From a sentinel set's first port to its first sentinel, and the sentinels: by the script.
const SENTINELS: std::ops::Range<u16> = 10..13;
/// How long a server that runs may take for an answer to [`Redis::primary`].
const ANSWER: Duration = Duration::from_secs(2);

/// How several Redis servers are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One server, `redis0`.
    Standalone,
    /// Three primaries, `redis0` to `redis2`, each with a third of the keys.
    Cluster,
    /// A primary, `redis0`, with its replica `redis1`, and the three sentinels `sentinel0` to `sentinel2` that choose another
    /// primary when it dies.
    Sentinel,
}

/// A Redis.
#[derive(Debug)]
pub struct Redis {
    mode: Mode,
    port: u16,
    servers: u16,
    script: Script,
    _remover: Child,
}

impl Redis {
    /// Starts it, which takes a second, as a sentinel set or a cluster some more. The first time on a machine it is installed.
    ///
    /// # Errors
    /// What the script says.
    pub fn start(mode: Mode) -> anyhow::Result<Self> {
        Self::replicated(mode, u16::from(mode == Mode::Sentinel))
    }

    /// The same with `replicas` of each primary; a standalone server has none.
    ///
    /// # Errors
    /// What the script says.
    pub fn replicated(mode: Mode, replicas: u16) -> anyhow::Result<Self> {
        let servers = match mode {
            Mode::Standalone => 1,
            Mode::Cluster => 3 + 3 * replicas,
            Mode::Sentinel => 1 + replicas,
        };
        ensure!(servers <= SENTINELS.start, "too many replicas: {replicas}");
        let port = ports::row(SENTINELS.end)?;
        let env = vec![
            ("CONFAB_REDIS_DIR", folder("redis").display().to_string()),
            ("CONFAB_REDIS_PORT", port.to_string()),
            ("CONFAB_REDIS_REPLICAS", replicas.to_string()),
        ];
        let script = Script::new("redis", env);
        let remover = script.remover(&["wipe", mode.name()])?;
        let redis = Self { mode, port, servers, script, _remover: remover };
        redis.up().context("Redis did not start")?;
        Ok(redis)
    }

    /// For `redis.url`.
    #[must_use]
    pub fn url(&self) -> String {
        let list = |hosts: Vec<String>, name: &str| match hosts.split_first() {
            Some((first, [])) => first.clone(),
            Some((first, others)) => format!("{first}?{name}={}", others.join(&format!("&{name}="))),
            None => String::new(),
        };
        match self.mode {
            Mode::Standalone => format!("redis://{}", self.hosts(0..1)[0]),
            Mode::Cluster => format!("redis-cluster://{}", list(self.hosts(0..self.servers), "node")),
            Mode::Sentinel => {
                format!("redis-sentinel://{}&sentinelServiceName=confab", list(self.hosts(SENTINELS), "node"))
            }
        }
    }

    /// Starts again what does not run any more.
    ///
    /// # Errors
    /// What the script says.
    pub fn up(&self) -> anyhow::Result<()> {
        self.script.run(&["up", self.mode.name()]).map(drop)
    }

    /// The servers that hold data: `redis0`, …
    pub fn servers(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.servers).map(|number| format!("redis{number}"))
    }

    /// Sends `KILL`, `STOP`, `CONT` or another signal to one process: `redis0`, …, or `sentinel0`, …
    ///
    /// # Errors
    /// If it isn't running.
    pub fn signal(&self, process: &str, signal: &str) -> anyhow::Result<()> {
        self.script.run(&["signal", self.mode.name(), process, signal]).map(drop)
    }

    /// The same to all servers, not the sentinels.
    ///
    /// # Errors
    /// If one isn't running.
    pub fn signal_all(&self, signal: &str) -> anyhow::Result<()> {
        self.servers().try_for_each(|server| self.signal(&server, signal))
    }

    /// Which server is the primary, as it says itself; of a cluster the first one.
    ///
    /// # Errors
    /// If none is.
    pub fn primary(&self) -> anyhow::Result<String> {
        for (number, server) in (0..).zip(self.servers()) {
            // One that is dead is no primary.
            if self.role(number).is_ok_and(|role| role == "master") {
                return Ok(server);
            }
        }
        bail!("no server is a primary")
    }

    /// SIGKILL to [`Self::primary`]; its name.
    ///
    /// # Errors
    /// If there is none.
    pub fn kill_primary(&self) -> anyhow::Result<String> {
        let primary = self.primary()?;
        self.signal(&primary, "KILL")?;
        Ok(primary)
    }

    fn hosts(&self, numbers: std::ops::Range<u16>) -> Vec<String> {
        numbers.map(|number| format!("{}:{}", Ipv4Addr::LOCALHOST, self.port + number)).collect()
    }

    /// `master` or `slave`: the first word of the answer to ROLE.
    fn role(&self, number: u16) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port + number))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"ROLE\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let role = answer.lines().nth(2).context("no role")?;
        Ok(role.to_owned())
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Cluster => "cluster",
            Self::Sentinel => "sentinel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_starts_says_who_is_primary_and_comes_back() {
        for mode in [Mode::Standalone, Mode::Cluster, Mode::Sentinel] {
            let redis = Redis::start(mode).expect("started");
            assert_eq!(redis.kill_primary().expect("killed"), "redis0", "{mode:?}");
            assert_ne!(redis.primary().unwrap_or_default(), "redis0", "{mode:?}");
            redis.up().expect("up again");
            redis.primary().expect("a primary");
        }
    }
}
