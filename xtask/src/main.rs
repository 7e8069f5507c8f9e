//! The project's habits, one verb each.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod proto;
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
    /// Run every test, after installing what they need
    Test,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Proto => proto::regenerate(),
        Verb::Test => test::run(),
    }
}

/// The workspace's root.
fn root() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
