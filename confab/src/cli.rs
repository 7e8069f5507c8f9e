//! The command line.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, DEFAULT_DATA, DEFAULT_TOML, Flags};
use crate::data_folder::DataFolder;
use crate::{secret, serve, token};

/// A chat backend: WebSocket in, nothing acked is lost.
#[derive(Parser)]
#[command(name = "confab", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the server: every role in this process, on a folder of this machine
    Serve(ServeArgs),
    /// Print a token for a user
    Token(TokenArgs),
    /// Say whether the configuration is right
    CheckConfig(ServeArgs),
    /// Print the configuration file with all defaults, explained
    DefaultConfig,
}

#[derive(Args)]
struct ServeArgs {
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The data folder [default: ./confab-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A TOML file; `confab default-config` shows one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The certificate, PEM; then clients connect by TLS
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The network of a proxy in front that does TLS; may be given again
    #[arg(long, value_name = "CIDR")]
    behind_proxy: Vec<String>,
}

impl From<ServeArgs> for Flags {
    fn from(args: ServeArgs) -> Self {
        Self {
            config: args.config,
            listen: args.listen,
            data: args.data,
            tls_cert: args.tls_cert,
            tls_key: args.tls_key,
            behind_proxy: args.behind_proxy,
        }
    }
}

#[derive(Args)]
#[command(after_help = "Example:\n  npx wscat -c \"ws://127.0.0.1:8080/ws?token=$(confab token --user 1)\"")]
struct TokenArgs {
    /// The user's id
    #[arg(long, value_name = "ID", value_parser = token::parse_user)]
    user: u64,
    /// The device's name [default: default]
    #[arg(long, value_name = "NAME", value_parser = token::parse_device)]
    device: Option<String>,
    /// How long it holds
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = token::parse_ttl)]
    ttl: Duration,
    /// The server's data folder, with its secret
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
}

pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.verb {
        Verb::Serve(args) => serve::run(load(args)?),
        Verb::Token(args) => print_token(&args, &args.data),
        Verb::CheckConfig(args) => {
            load(args)?;
            println!("The configuration is right.");
            Ok(())
        }
        Verb::DefaultConfig => {
            print!("{DEFAULT_TOML}");
            Ok(())
        }
    }
}

fn load(args: ServeArgs) -> anyhow::Result<Config> {
    Config::load(&args.into()).map_err(|problems| anyhow!("{problems}"))
}

fn print_token(args: &TokenArgs, data: &Path) -> anyhow::Result<()> {
    let folder = DataFolder::open_or_create(data)?;
    let secret = secret::load_or_create(&folder, None)?.secret;
    println!("{}", token::mint(&secret, args.user, args.device.as_deref(), args.ttl, SystemTime::now())?);
    Ok(())
}
