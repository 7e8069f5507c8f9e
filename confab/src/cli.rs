//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::certs::parse_role;
use crate::config::Flags;
use crate::token::{parse_device, parse_ttl, parse_user};

const EXAMPLES: &str = "\
Examples:
  confab serve                    a chat server on http://127.0.0.1:8080, data in ./confab-data
  confab chat --user 1            talk to user 2, who does the same in another terminal
  confab token --user 1           a token for any other client

Users 1 and 2 have chat 1 in a fresh data folder.";

const SERVE_EXAMPLES: &str = "\
Examples:
  confab serve
  confab serve --listen 127.0.0.1:0 --data /var/lib/confab
  confab serve --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem
  confab serve --listen 0.0.0.0:8080 --behind-proxy 10.0.0.0/8
  CONFAB_EDGE__CONNECTIONS_MAX=1000 confab serve
  confab serve --role fanout-svc --config fanout.toml

The log goes to stderr. Ctrl-C lets connections go and stops; a second one stops at once.
Roles: edge, message-svc, fanout-svc, presence-svc. What such a process needs to know of the others: [mesh] in the settings.
Every setting: confab default-config";

const MIGRATE_EXAMPLES: &str = "\
Examples:
  confab migrate --config confab.toml
  CONFAB_STORAGE__KIND=cassandra CONFAB_STORAGE__CONTACT_POINTS=10.0.0.5:9042 confab migrate

Where they are: [storage] in the settings. Run it before the first start, and before the programs of a new version.";

const TOKEN_EXAMPLES: &str = r#"Examples:
  confab token --user 1
  confab token --user 2 --device phone --ttl 7d
  npx wscat -c "ws://127.0.0.1:8080/ws?token=$(confab token --user 1)"

The token is a JWT (HS256, `sub` is the user, `exp` the end), signed with the data folder's token.key. Your app's own backend
can make such tokens with the same key."#;

const CHAT_EXAMPLES: &str = "\
Examples:
  confab chat --user 1
  confab chat --user 2 --chat 1 --url https://chat.example.org
  echo 'The build is green' | confab chat --user 1 --chat 7

A line is a message. ✓ it is on the server's disk, ✓✓ it has reached everyone in the chat, ✓✓ read: they have seen it.
  /who      who is in the chat and online      /history  older messages
  /help     this                               /quit     leave; so do Ctrl-D and Ctrl-C
In a pipe every input line is sent (one that begins with / is a command, with // a message) and every message printed; at the input's end it waits for the acks and exits.
A certificate that this machine does not trust, such as one of your own: SSL_CERT_FILE=cert.pem confab chat …";

const CHECK_EXAMPLES: &str = "\
Examples:
  confab check-config --config confab.toml
  CONFAB_LISTEN=0.0.0.0:80 confab check-config";

const DEFAULT_EXAMPLES: &str = "\
Examples:
  confab default-config > confab.toml
  confab serve --config confab.toml";

const CERTS_EXAMPLES: &str = "\
Examples:
  confab certs --out certs
  confab certs --out certs --role edge --days 7
  confab certs --out certs --host localhost --host 127.0.0.1
  confab certs --out certs --role service:billing   an internal team's service, as a caller
  confab certs --out certs --role confab            a process with several roles

For trying out a cluster. Each role gets a certificate that says which role it is, signed by an authority (ca.crt) that is made
the first time and then used again; it is never written over. A running server takes its new files by itself:
  CONFAB_MESH__TLS__CERT=certs/edge.crt CONFAB_MESH__TLS__KEY=certs/edge.key CONFAB_MESH__TLS__CA=certs/ca.crt confab serve --role edge …";

/// A chat backend: one program, no database to install, and an acked message is never lost.
#[derive(Debug, Parser)]
#[command(name = "confab", version, after_help = EXAMPLES, propagate_version = false, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: every service in one process, on embedded storage
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Make or update the tables in a cluster's Cassandra; safe to run twice, and by two at once
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate(PlaceArgs),
    /// Print a token that lets a client in as a user
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(TokenArgs),
    /// Chat in this terminal
    #[command(after_help = CHAT_EXAMPLES)]
    Chat(ChatArgs),
    /// Make certificates by which the services of a cluster know each other, for trying it out
    #[command(after_help = CERTS_EXAMPLES)]
    Certs(CertsArgs),
    /// Say everything that is wrong with the configuration, and start nothing
    #[command(after_help = CHECK_EXAMPLES)]
    CheckConfig(ServeArgs),
    /// Print every setting with its default and what it means
    #[command(after_help = DEFAULT_EXAMPLES)]
    DefaultConfig,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Run only this service, as one process of a cluster; can be repeated [default: all, and no cluster]
    #[arg(long, value_name = "NAME")]
    role: Vec<String>,
    /// PEM file with the certificate and its intermediates
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Network of a reverse proxy that does TLS; can be repeated
    #[arg(long, value_name = "CIDR")]
    behind_proxy: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Where this machine's server keeps its things.
#[derive(Args, Debug)]
pub(crate) struct PlaceArgs {
    /// The server's data folder [default: ./confab-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// TOML file with settings; CONFAB_CONFIG names one, too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// Whose token: a number from 1 to 2^53 - 1
    #[arg(long, value_name = "ID", value_parser = parse_user)]
    pub(crate) user: u64,
    /// Which of the user's devices [default: the server takes it as "default"]
    #[arg(long, value_name = "NAME", value_parser = parse_device)]
    pub(crate) device: Option<String>,
    /// How long it holds
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    pub(crate) ttl: Duration,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// Who you are: a number from 1 to 2^53 - 1
    #[arg(long, value_name = "ID", value_parser = parse_user)]
    pub(crate) user: u64,
    /// Which chat
    #[arg(long, value_name = "ID", default_value = "1", value_parser = parse_user)]
    pub(crate) chat: u64,
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CertsArgs {
    /// Where to write them; the folder is made if it isn't there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Whose certificate; can be repeated [default: edge, message-svc, fanout-svc and presence-svc]
    #[arg(long, value_name = "NAME", value_parser = parse_role)]
    pub(crate) role: Vec<String>,
    /// A host's name or address that they hold, too; can be repeated. The services don't look at it; grpcurl and the like do
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Vec<String>,
    /// How many days they hold
    #[arg(long, value_name = "N", default_value = "90", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}

impl ServeArgs {
    pub(crate) fn flags(self) -> Flags {
        Flags {
            listen: self.listen,
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            behind_proxy: self.behind_proxy,
            role: self.role,
            ..self.place.flags()
        }
    }
}

impl PlaceArgs {
    pub(crate) fn flags(self) -> Flags {
        Flags { data: self.data, config: self.config, ..Flags::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_in_help_are_the_defaults() {
        use crate::config::{DEFAULT_DATA, DEFAULT_LISTEN};
        let mut cli = Cli::command();
        let serve = cli.find_subcommand_mut("serve").expect("a command").render_help().to_string();
        assert!(serve.contains(&format!("[default: {DEFAULT_LISTEN}]")), "{serve}");
        assert!(serve.contains(&format!("[default: ./{DEFAULT_DATA}]")), "{serve}");
        let chat = cli.find_subcommand_mut("chat").expect("a command").render_help().to_string();
        assert!(chat.contains(&format!("[default: http://{DEFAULT_LISTEN}]")), "{chat}");
    }
}
