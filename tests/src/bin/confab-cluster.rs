//! A cluster on this machine, to try out: `cargo xtask cluster`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use confab_tests::cluster::check::check;
use confab_tests::cluster::screen::say;
use confab_tests::cluster::state::Place;
use confab_tests::cluster::verbs;

/// A cluster on this machine: two of each role on three nodes of Cassandra and a Redis cluster, behind nginx
#[derive(Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster", after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const HELP: &str =
    "It needs about 4 GiB of memory; docs/cluster.md has its ports. Everything of it is in target/cluster.";

#[derive(Subcommand)]
enum Verb {
    /// Start it, and show it until Ctrl-C, which ends it
    Up {
        /// Leave it running, until `down`
        #[arg(long, short)]
        detach: bool,
    },
    /// Show each process; fails if not all are ready
    Status {
        /// Each second anew, until Ctrl-C
        #[arg(long, short)]
        watch: bool,
    },
    /// Start processes again, one after the other, whether they run or were killed
    Restart {
        /// As in the table; a role's name means all of it: edge
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// End all of it, and remove what it wrote
    Down,
    /// Try all of these on a cluster of its own, with clients and kills, and write the result to docs/cluster.md
    Check,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().verb).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> anyhow::Result<()> {
    let place = Place::of_this_build()?;
    match verb {
        Verb::Up { detach } => verbs::up(&place, detach).await,
        Verb::Status { watch } => verbs::status(&place, watch).await,
        Verb::Restart { names } => until_signal(verbs::restart(&place, &names)).await,
        Verb::Check => {
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cluster.md");
            // A large future: on the heap, once.
            let checked = until_signal(Box::pin(check(&place, &page))).await;
            checked.context("the cluster may still be up: cargo xtask cluster down")
        }
        Verb::Down => verbs::down(&place).await,
    }
}

/// So that the terminal is left as it was.
async fn until_signal(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut signals = verbs::Signals::listen()?;
    tokio::select! {
        result = work => result,
        () = signals.next() => bail!("left off by a signal"),
    }
}
