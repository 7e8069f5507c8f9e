//! Confab, the program: the server with all its services, and what a person needs around it.

mod banner;
mod certs;
mod chat;
mod cli;
mod config;
mod data_folder;
mod roles;
mod secret;
mod serve;
mod services;
mod tls;
mod token;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{CertsArgs, ChatArgs, Cli, Command, TokenArgs};
use config::{Config, DEFAULT_TOML, Flags};
use data_folder::DataFolder;

/// A connection takes least with it, and what it took comes back when it goes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            warn("error", format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => {
            runtime(tokio::runtime::Builder::new_multi_thread(), serve::serve(Config::load(&args.flags())?))
        }
        Command::Migrate(args) => runtime(
            tokio::runtime::Builder::new_current_thread(),
            roles::migrate(Config::load(&Flags { migrate: true, ..args.flags() })?),
        ),
        Command::Token(args) => print_token(args),
        Command::Chat(args) => start_chat(args),
        Command::Certs(args) => make_certs(args),
        Command::CheckConfig(args) => check_config(&args.flags()),
        Command::DefaultConfig => Ok(io::stdout().write_all(DEFAULT_TOML.as_bytes())?),
    }
}

fn runtime(mut builder: tokio::runtime::Builder, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    builder.enable_all().build().context("can't start threads")?.block_on(work)
}

fn print_token(args: TokenArgs) -> anyhow::Result<()> {
    let cfg = Config::load(&args.place.flags())?;
    let folder = DataFolder::open_or_create(&cfg.data)?;
    let loaded = secret::load_or_create(&folder, cfg.token.secret_file.as_deref())?;
    if let Some(warning) = loaded.warning {
        warn("warning", warning);
    }
    let token = token::mint(&loaded.secret, args.user, args.device.as_deref(), args.ttl, SystemTime::now())?;
    Ok(writeln!(io::stdout(), "{token}")?)
}

fn start_chat(args: ChatArgs) -> anyhow::Result<()> {
    let cfg = Config::load(&args.place.flags())?;
    let folder = DataFolder::open(&cfg.data)?;
    let secret = secret::load(&folder, cfg.token.secret_file.as_deref())?.secret;
    let options = chat::Options { user: args.user, chat: args.chat, url: args.url, secret, data: cfg.data };
    runtime(tokio::runtime::Builder::new_current_thread(), chat::chat(options))
}

fn make_certs(args: CertsArgs) -> anyhow::Result<()> {
    let roles = if args.role.is_empty() { certs::ROLES.map(str::to_owned).to_vec() } else { args.role };
    let written = certs::issue(&certs::Request { folder: args.out, roles, hosts: args.host, days: args.days })?;
    Ok(write!(io::stdout(), "{}", certs::table(&written))?)
}

fn check_config(flags: &Flags) -> anyhow::Result<()> {
    let cfg = Config::load(flags)?;
    if let Some(files) = &cfg.tls {
        tls::server(files)?;
    }
    Ok(writeln!(io::stdout(), "The configuration is good.")?)
}

/// To the person, not to a log.
fn warn(what: &str, words: impl Display) {
    let _ = writeln!(io::stderr(), "{what}: {words}");
}

/// `confab default-config | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
