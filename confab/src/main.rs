//! The program: `confab serve` and its tools. `main` wires; the library crates work.
#![allow(clippy::print_stdout, clippy::print_stderr)] // talking to a person is what a command line is for

mod banner;
mod cli;
mod config;
mod data_folder;
mod secret;
mod serve;
mod services;
mod tls;
mod token;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("confab: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
