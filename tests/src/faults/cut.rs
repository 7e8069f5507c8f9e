//! Packets between two processes that vanish: no reset, no answer. Netfilter drops them by the group id of the process that
//! sends them, which no other process of the machine has.
//!
//! Not by a proxy in between: who owns a chat is known by an address, and a proxy's is another one.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};

/// Group ids of the mesh's processes begin here: beyond those that systems give away.
pub(super) const FIRST_GROUP: u32 = 61_000;

/// Marks the connections between the two, so that answers can be told from those to others.
const MARK: u32 = 0x00c0_fab0;

static CUTS: AtomicU32 = AtomicU32::new(0);

/// One end of a way.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub group: u32,
    pub address: SocketAddr,
}

/// A cut. Dropping it heals it.
pub(super) struct Cut {
    table: String,
}

impl Cut {
    /// Whatever `caller` sends to `called` vanishes from now on; if `both`, what is answered on the same connections, too.
    ///
    /// # Errors
    /// If this isn't root's process, or there is no `nft`.
    pub(super) fn make(caller: End, called: End, both: bool) -> anyhow::Result<Self> {
        let number = CUTS.fetch_add(1, Ordering::Relaxed);
        let table = format!("confab_faults_{}_{number}", std::process::id());
        run_nft(&rules(&table, caller, called, both))?;
        Ok(Self { table })
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = run_nft(&format!("delete table inet {}\n", self.table)) {
            println!("the cut {} is not healed: {error:#}", self.table);
        }
    }
}

/// What the caller sends is marked on its way out and dropped on its way in, when its connection's mark has been kept: an answer
/// has the same one.
fn rules(table: &str, caller: End, called: End, both: bool) -> String {
    let (group, ip, port) = (caller.group, called.address.ip(), called.address.port());
    let answers = if both {
        format!("meta skgid {} tcp sport {port} ct mark {MARK:#x} counter drop", called.group)
    } else {
        String::new()
    };
    format!(
        "table inet {table} {{
            chain out {{
                type filter hook output priority 0; policy accept;
                meta skgid {group} ip daddr {ip} tcp dport {port} ct mark set {MARK:#x}
                {answers}
            }}
            chain in {{
                type filter hook input priority 0; policy accept;
                ct mark {MARK:#x} ip daddr {ip} tcp dport {port} counter drop
            }}
        }}\n"
    )
}

fn run_nft(script: &str) -> anyhow::Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft")?;
    nft.stdin.take().context("nft has no input")?.write_all(script.as_bytes())?;
    let output = nft.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_from_the_one_to_the_other_is_dropped() {
        let end = |group, port| End { group, address: SocketAddr::from(([127, 1, 2, 3], port)) };
        let one_way = rules("t", end(61_000, 7_300), end(61_005, 7_201), false);
        assert!(one_way.contains("meta skgid 61000 ip daddr 127.1.2.3 tcp dport 7201 ct mark set"), "{one_way}");
        assert_eq!(one_way.matches("drop").count(), 1);
        let both = rules("t", end(61_000, 7_300), end(61_005, 7_201), true);
        assert!(both.contains("meta skgid 61005 tcp sport 7201 ct mark"), "{both}");
        assert_eq!(both.matches("drop").count(), 2);
    }
}
