//! What the kernel says about a process: CPU, private memory, threads. Linux only.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

/// CPU that the process has used in user and kernel mode, all threads together, in µs; as fine as a clock tick (10 ms).
pub fn cpu_micros(pid: u32) -> Result<u64> {
    let ticks = cpu_ticks(&read(pid, "stat")?).context("/proc/PID/stat has another shape")?;
    Ok(ticks * 1_000_000 / clock_ticks_per_second())
}

/// Private bytes: `Private_Clean` + `Private_Dirty` of `smaps_rollup`.
pub fn private_bytes(pid: u32) -> Result<u64> {
    let rollup = read(pid, "smaps_rollup")?;
    let kib = |name| field(&rollup, name).with_context(|| format!("no {name} in smaps_rollup"));
    Ok((kib("Private_Clean:")? + kib("Private_Dirty:")?) * 1024)
}

/// Threads of the process.
pub fn threads(pid: u32) -> Result<u64> {
    field(&read(pid, "status")?, "Threads:").context("no Threads in /proc/PID/status")
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    std::fs::read_to_string(&path).with_context(|| format!("process {pid} is gone"))
}

/// utime + stime: the 14th and 15th field, counted from behind the command, which may hold blanks and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_command_with_brackets() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn this_process_can_be_probed() {
        let pid = std::process::id();
        assert!(private_bytes(pid).expect("readable") > 100_000);
        assert!(threads(pid).expect("readable") >= 1);
        assert!(cpu_micros(pid).is_ok());
    }
}
