//! What the kernel says of processes and sockets, and signals that reach the right process or nobody. Linux only.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process, told from a later one of the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    pub pid: u32,
    /// Clock ticks from the machine's start.
    pub started: u64,
}

/// What a process is like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Stopped by a signal (SIGSTOP): it is there, and does nothing.
    pub is_frozen: bool,
    /// User and system time of all its threads.
    pub cpu: Duration,
    pub started: u64,
    /// Resident memory. Bytes.
    pub rss: u64,
}

impl Id {
    /// The process that has this number now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: read_stat(pid)?.started })
    }

    /// None if it has ended, whether or not its parent has taken note.
    #[must_use]
    pub fn stat(self) -> Option<Stat> {
        read_stat(self.pid).filter(|stat| stat.started == self.started)
    }

    #[must_use]
    pub fn is_running(self) -> bool {
        self.stat().is_some()
    }

    /// Whether it was there to get it. Another process that has got its number is not hit: the handle is taken first.
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        self.is_running() && pidfd_send_signal(handle, signal).is_ok()
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(self) -> Option<Duration> {
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok().map(|uptime| uptime.saturating_sub(ticks(self.started)))
    }

    /// Its arguments, its name first.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    }
}

/// Every process of this machine.
#[must_use]
pub fn processes() -> Vec<Id> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Id::of).collect()
}

/// Another one after each start of the machine: numbers of processes mean nothing beyond it.
#[must_use]
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// None of one that has ended and only waits to be taken note of.
fn parse_stat(text: &str) -> Option<Stat> {
    // Counted from behind the command, which may hold blanks and brackets: state is the third field.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    let state = *fields.first()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    Some(Stat {
        is_frozen: matches!(state, "T" | "t"),
        cpu: ticks(number(14)? + number(15)?),
        started: number(22)?,
        rss: number(24)? * page_size() as u64,
    })
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1_000 / clock_ticks_per_second().max(1))
}

/// The TCP sockets of this machine.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where somebody listens, and the socket's number.
    listening: Vec<(SocketAddr, u64)>,
    /// Open connections by their end here.
    open: BTreeMap<SocketAddr, usize>,
}

impl Sockets {
    #[must_use]
    pub fn now() -> Self {
        let mut sockets = Self::default();
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
            sockets.add(&fs::read_to_string(file).unwrap_or_default());
        }
        sockets
    }

    fn add(&mut self, table: &str) {
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
            let (Some(addr), Ok(inode)) = (parse_addr(local), inode.parse()) else { continue };
            match state {
                "0A" => self.listening.push((addr, inode)),
                "01" => *self.open.entry(addr).or_default() += 1,
                _ => {}
            }
        }
    }

    /// Connections that whoever listens at `addr` has accepted, and are open.
    #[must_use]
    pub fn accepted(&self, addr: SocketAddr) -> usize {
        self.open.get(&addr).copied().unwrap_or(0)
    }

    /// Whether somebody listens at `addr`, or at all addresses with its port.
    #[must_use]
    pub fn has_listener(&self, addr: SocketAddr) -> bool {
        self.listener(addr).is_some()
    }

    fn listener(&self, addr: SocketAddr) -> Option<u64> {
        let same = |at: &SocketAddr| at.port() == addr.port() && (at.ip() == addr.ip() || at.ip().is_unspecified());
        self.listening.iter().find(|(at, _)| same(at)).map(|(_, inode)| *inode)
    }

    /// Who listens there, as far as this user may know: `redis-server, pid 77`.
    #[must_use]
    pub fn holder(&self, addr: SocketAddr) -> Option<String> {
        let wanted = format!("socket:[{}]", self.listener(addr)?);
        let holds = |id: &Id| {
            let files = fs::read_dir(format!("/proc/{}/fd", id.pid)).into_iter().flatten().flatten();
            files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link.as_os_str() == wanted.as_str())
        };
        let id = processes().into_iter().find(holds)?;
        let name = fs::read_to_string(format!("/proc/{}/comm", id.pid)).ok()?;
        Some(format!("{}, pid {}", name.trim(), id.pid))
    }
}

/// `0100007F:1F90`: the address in words of the machine's byte order.
fn parse_addr(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u8> = (0..ip.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok())
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match words.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(words).ok().map(Ipv4Addr::from)?),
        _ => IpAddr::from(<[u8; 16]>::try_from(words).ok().map(Ipv6Addr::from)?),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    #[test]
    fn stat_of_a_command_with_brackets() {
        let stat = |state: &str| {
            parse_stat(&format!("77 (a) b (c) {state} 1 77 77 0 -1 0 100 0 0 0 250 50 0 0 20 0 9 0 12345 4096 3 0 0"))
        };
        let cpu = Duration::from_millis(300 * 1_000 / clock_ticks_per_second());
        let rss = 3 * page_size() as u64;
        assert_eq!(stat("S"), Some(Stat { is_frozen: false, cpu, started: 12_345, rss }));
        assert!(stat("T").unwrap().is_frozen);
        assert_eq!(stat("Z"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn only_the_process_that_is_meant_gets_a_signal() {
        // It ends with its input, too: with this process.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = Id::of(child.id()).unwrap();
        assert!(id.is_running() && id.age().unwrap() < Duration::from_secs(60));
        assert!(processes().contains(&id));
        let later = Id { started: id.started + 1, ..id };
        assert!(!later.is_running() && !later.signal(Signal::KILL));
        assert!(child.try_wait().unwrap().is_none());
        assert!(id.signal(Signal::KILL));
        child.wait().unwrap();
        assert!(!id.is_running() && !id.signal(Signal::KILL));
    }

    #[test]
    fn a_process_has_its_arguments() {
        let this = Id::of(std::process::id()).unwrap();
        assert_eq!(this.arguments()[0], std::env::args().next().unwrap());
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        // As on a machine of this byte order, which is what the kernel writes.
        let hex = |words: &[u8]| {
            let words = words.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            words.map(|word| format!("{word:08X}")).collect::<String>()
        };
        let v4 = format!("{}:1F90", hex(&[127, 0, 0, 1]));
        assert_eq!(parse_addr(&v4), Some("127.0.0.1:8080".parse().unwrap()));
        let mapped = "::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(parse_addr(&format!("{}:1F90", hex(&mapped))), Some("127.0.0.1:8080".parse().unwrap()));
        let v6 = "::1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(parse_addr(&format!("{}:0050", hex(&v6))), Some("[::1]:80".parse().unwrap()));
        assert_eq!(parse_addr("0100007F"), None);
        assert_eq!(parse_addr("01:1F90"), None);
    }

    #[test]
    fn who_listens_and_how_many_have_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(Sockets::now().accepted(addr), 0);
        let _client = TcpStream::connect(addr).unwrap();
        let _server = listener.accept().unwrap();
        let sockets = Sockets::now();
        assert_eq!(sockets.accepted(addr), 1);
        assert!(sockets.has_listener(addr));
        assert!(sockets.holder(addr).unwrap().ends_with(&format!(", pid {}", std::process::id())));
        drop(listener);
        assert!(!Sockets::now().has_listener(addr));
        assert_eq!(Sockets::now().holder(addr), None);
    }
}
