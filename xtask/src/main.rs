//! The project's habits, one verb each.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod proto;

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Proto => proto::regenerate(),
    }
}

/// The workspace's root.
fn root() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
