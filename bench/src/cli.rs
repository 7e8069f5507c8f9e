//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures a Confab server over its public protocol, on loopback, beside what the bare machine does.
///
/// Exits with 1 when a must is missed (not with --quick) or when a message was lost, doubled or out of order.
#[derive(Clone, Debug, Parser)]
#[command(name = "confab-bench", version)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every scenario.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server's program.
    #[arg(long, value_name = "PATH", global = true, default_value = "confab")]
    pub confab: PathBuf,
    /// A short run, to see that everything works: musts don't count.
    #[arg(long, global = true)]
    pub quick: bool,
    /// Threads of the load generator.
    #[arg(long, global = true, default_value_t = 1)]
    pub threads: usize,
    /// Unanswered messages per connection at most; those due beyond that wait, and count as late.
    #[arg(long, value_name = "N", global = true, default_value_t = 32)]
    pub in_flight: u32,
    /// Concurrent records of the append baseline [default: one for each of the 200 pairs].
    #[arg(long, value_name = "N", global = true, default_value_t = crate::pairs::PAIRS, hide_default_value = true)]
    pub append_tasks: u32,
    /// Where data folders go, on a real disk [default: bench-data in the target folder].
    #[arg(long, value_name = "DIR", global = true)]
    pub work: Option<PathBuf>,
    /// Also write the report here, as markdown.
    #[arg(long, value_name = "FILE", global = true)]
    pub out: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Everything.
    All,
    /// The sustained rate of durable one-to-one messages, the latency at 70 % of it, append and echo baselines.
    OneToOne {
        /// Don't search: hold this many messages/s.
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
    },
    /// A group of 1000 at 10, 20 and 50 messages/s, and the bare write loop.
    Group,
    /// 5,000 clients with 10 missed messages each connect at once.
    Reconnect,
    /// Messages beside 5,000 users who come and go, each watched by others.
    Presence,
    /// Private memory per idle connection.
    Memory {
        /// Connections at which to measure, ascending.
        #[arg(long, value_name = "N,…", value_delimiter = ',')]
        connections: Option<Vec<u32>>,
    },
    /// What clients that never read cost the server and the others.
    SlowClient,
    /// An echo server, a baseline; ends with its stdin.
    #[command(hide = true)]
    BareEcho,
    /// A write loop, a baseline; takes orders on stdin.
    #[command(hide = true)]
    BareWrite {
        #[arg(long)]
        connections: u32,
    },
    /// Holds idle connections for `memory`; takes orders on stdin.
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        addr: std::net::SocketAddr,
        #[arg(long)]
        data: PathBuf,
        #[arg(long)]
        first_user: u64,
    },
}
