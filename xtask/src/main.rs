//! The project's habits, one verb each.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod cluster;
mod faults;
mod fuzz;
mod install;
mod lint;
mod proto;
mod simulate;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's habits, one verb each")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Generate the Rust code of proto/ anew
    Proto,
    /// Check format, clippy and the protos' style
    Lint,
    /// Measure the release build beside its baselines, and write docs/benchmark.md
    Bench {
        /// What `confab-bench` takes in place of `all`: a scenario, `--quick`, …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the simulation of several owners for long, and its controls
    Simulate {
        /// Schedules with all rules in force
        #[arg(long, default_value_t = 100_000)]
        schedules: u64,
    },
    /// Run the fault table, or some of its rows, on a cluster of its own, and write docs/faults.md
    Faults {
        /// Rows, by name, or `capacity`, or `held-write`; none: all rows, after the capacity was measured
        names: Vec<String>,
    },
    /// Fuzz the decoder of clients' frames, and keep what it finds in its corpus
    Fuzz {
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// A cluster on this machine, to try out: two of each role on Cassandra and Redis, behind nginx
    #[command(disable_help_flag = true)]
    Cluster {
        /// `up`, `status`, `restart NAME`, `down`, `check`; `--help` explains them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every test, after installing what they need
    Test,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Lint => lint::run(),
        Verb::Bench { arguments } => bench::run(&arguments),
        Verb::Proto => proto::regenerate(),
        Verb::Simulate { schedules } => simulate::run(schedules),
        Verb::Faults { names } => faults::run(&names),
        Verb::Fuzz { seconds } => fuzz::run(seconds),
        Verb::Cluster { arguments } => cluster::run(&arguments),
        Verb::Test => test::run(),
    }
}

/// The workspace's root.
fn root() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs cargo in the workspace; says what it runs.
fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    println!("cargo {}", arguments.join(" "));
    let status = std::process::Command::new("cargo").args(arguments).current_dir(root()).status()?;
    anyhow::ensure!(status.success(), "`cargo {}` failed", arguments.join(" "));
    Ok(())
}

/// Runs buf on the protocols, where it is installed; says so where it isn't.
fn buf(arguments: &[&str]) -> anyhow::Result<()> {
    let what = arguments.join(" ");
    match std::process::Command::new("buf").args(arguments).current_dir(root().join("proto")).status() {
        Ok(status) => anyhow::ensure!(status.success(), "`buf {what}` failed"),
        Err(_) => println!("buf is not installed (pip: buf-bin): `buf {what}` was not run"),
    }
    Ok(())
}
