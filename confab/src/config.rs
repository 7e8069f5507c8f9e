//! What `confab serve` can be told, and where it is told: flags, then `CONFAB_*` variables, then the TOML file, then the defaults.
//! `config/default.toml` shows and explains every setting; a test keeps it equal to the defaults here.

mod mesh;
mod problem;
mod reader;
mod redis;
mod role;
mod source;
mod storage;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use confab_edge::{LimitsConfig, Rate};
use confab_mesh::is_loopback;
use ipnet::IpNet;

pub(crate) use mesh::{MeshConfig, MeshTls};
use problem::Problem;
pub(crate) use problem::Problems;
use reader::Reader;
pub(crate) use redis::RedisConfig;
pub(crate) use role::Role;
use source::{Layer, Raw, Source};
pub(crate) use storage::{CassandraFields, CassandraTls, StorageConfig};

/// The commented file that `confab default-config` prints.
pub(crate) const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// Where data goes when nobody says: below the working directory, in plain sight.
pub(crate) const DEFAULT_DATA: &str = "confab-data";

/// Where a server listens when nobody says: this machine only.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Everything `confab serve` can be told. Not in here: what the services' own crates fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Which services this process has, each once, in the order in which they start; none: all, without a mesh.
    pub(crate) roles: Vec<Role>,
    /// Where clients connect. Port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// The data folder: log, secret, lock.
    pub(crate) data: PathBuf,
    /// With it, `listen` speaks TLS.
    pub(crate) tls: Option<TlsFiles>,
    /// The networks of reverse proxies that do TLS: beyond loopback only they may connect without it.
    pub(crate) behind_proxy: Vec<IpNet>,
    /// Where traces and metrics go by OTLP over gRPC; none: nowhere.
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) log: LogConfig,
    pub(crate) token: TokenConfig,
    pub(crate) edge: EdgeConfig,
    pub(crate) message: MessageConfig,
    pub(crate) presence: PresenceConfig,
    pub(crate) mesh: MeshConfig,
    pub(crate) storage: StorageConfig,
    pub(crate) redis: RedisConfig,
}

/// PEM files, read at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate, then its intermediates.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
    /// As in tracing-subscriber's `EnvFilter`.
    pub(crate) filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenConfig {
    /// The HS256 key; none: `token.key` in the data folder, made at the first start, or, with `jwks`, no such key.
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) jwks: Option<JwksFields>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwksFields {
    pub(crate) place: JwksPlace,
    pub(crate) issuer: String,
    pub(crate) audience: String,
}

/// Where its keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JwksPlace {
    File(PathBuf),
    Url(hyper::Uri),
}

/// The edge's limits. A connection's share of memory follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EdgeConfig {
    /// A larger frame is answered `TOO_LARGE`; the connection stays. Bytes.
    pub(crate) frame_bytes_max: usize,
    /// A larger frame closes the connection with 1009. Bytes.
    pub(crate) frame_bytes_hard_max: usize,
    /// More get 503 with `Retry-After`.
    pub(crate) connections_max: usize,
    /// Sends of one connection that await their ack; beyond it, the connection isn't read.
    pub(crate) in_flight_max: usize,
    /// Events queued for one connection; beyond it, the session reads from the log instead.
    pub(crate) outbound_events_max: usize,
    /// The same, in bytes.
    pub(crate) outbound_bytes_max: usize,
    /// Between two WebSocket pings of the server.
    pub(crate) ping_interval: Duration,
    /// Without a byte from the client for so long: 4008.
    pub(crate) silence: Duration,
    /// Without progress in writing to the client for so long: 4008.
    pub(crate) stall: Duration,
    /// How long a stopping server lets its connections leave.
    pub(crate) drain: Duration,
    /// People that one connection can watch.
    pub(crate) watch_max: usize,
    /// A request's head must be complete after so long.
    pub(crate) header_timeout: Duration,
    /// Whose pages may use the API, beside this server's own and loopback's.
    pub(crate) origins: Vec<String>,
    /// What one user, and one address, may ask of each edge.
    pub(crate) limits: LimitsConfig,
}

/// A hundred years.
const RETENTION_DAYS_MAX: u32 = 36_500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageConfig {
    /// Chats whose head, members and watermarks stay in memory; beyond it, the coldest is dropped and read again when needed.
    pub(crate) hot_chats_max: usize,
    /// Sends between arrival and durability, all chats together; more are answered `UNAVAILABLE`.
    pub(crate) in_flight_max: usize,
    /// How long what was said is kept.
    pub(crate) retention: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PresenceConfig {
    /// How long someone stays online after their last session closed: a reconnect in between is no news.
    pub(crate) grace: Duration,
}

/// What the command line says; as text, so that a bad value is told along with all others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) listen: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) behind_proxy: Vec<String>,
    pub(crate) role: Vec<String>,
    /// For `confab migrate`, which serves nobody.
    pub(crate) migrate: bool,
}

/// What a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Serve,
    Migrate,
}

impl Config {
    /// Whether this process keeps anything on its own disk.
    pub(crate) fn has_data(&self) -> bool {
        let stores = self.roles.is_empty() || self.roles.contains(&Role::Message);
        stores && self.storage == StorageConfig::Embedded
    }

    /// Whether clients connect to this process.
    pub(crate) fn has_edge(&self) -> bool {
        self.roles.is_empty() || self.roles.contains(&Role::Edge)
    }

    /// Reads flags, environment and file.
    pub(crate) fn load(flags: &Flags) -> Result<Self, Problems> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        let env: BTreeMap<String, String> = env.collect();
        Self::resolve(flags, env)
    }

    fn resolve(flags: &Flags, env: BTreeMap<String, String>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let path = match (&flags.config, env.get("CONFAB_CONFIG")) {
            (Some(path), _) => Some((path.clone(), Source::Flag("--config"))),
            (None, Some(path)) => Some((PathBuf::from(path), Source::Env("CONFAB_CONFIG".to_owned()))),
            (None, None) => None,
        };
        let file = path.map(|(path, source)| read_file(&path, source, &mut problems)).unwrap_or_default();
        let uses = if flags.migrate { Use::Migrate } else { Use::Serve };
        Self::read(Reader::new(vec![flags.layer(), source::from_env(env), file], problems), uses)
    }

    fn read(mut reader: Reader, uses: Use) -> Result<Self, Problems> {
        let r = &mut reader;
        let default = Self::default();
        let roles = read_roles(r);
        let storage = StorageConfig::read(r);
        let config = Self {
            listen: r
                .parsed("listen", "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080", parse_listen)
                .unwrap_or(default.listen),
            data: r.path("data").unwrap_or(default.data),
            tls: read_tls(r),
            behind_proxy: r.list("behind_proxy", "a list of networks, such as [\"10.0.0.0/8\"]", parse_net),
            otlp_endpoint: r.parsed("otlp_endpoint", "an address such as http://127.0.0.1:4317", parse_endpoint),
            log: LogConfig::read(r, default.log),
            token: TokenConfig { secret_file: r.file("token.secret_file"), jwks: read_jwks(r) },
            edge: EdgeConfig::read(r, &default.edge),
            message: MessageConfig::read(r, &default.message),
            presence: PresenceConfig { grace: r.seconds("presence.grace_seconds", default.presence.grace, 0..=300) },
            mesh: MeshConfig::read(r, &roles, &storage, default.mesh),
            redis: RedisConfig::read(r),
            storage,
            roles,
        };
        if uses == Use::Serve {
            config.check_together(r);
        }
        reader.finish(config)
    }

    /// What single values can't show.
    fn check_together(&self, r: &mut Reader) {
        let exposed = !self.listen.ip().to_canonical().is_loopback();
        if exposed && self.has_edge() && self.tls.is_none() && self.behind_proxy.is_empty() {
            r.reject(
                "listen",
                "can be reached from other machines, and would be plain text.\n\
                 Give --tls-cert and --tls-key, or --behind-proxy (the networks of a reverse proxy that does TLS), or listen on 127.0.0.1",
            );
        }
        if self.has_edge() && !self.has_data() && self.token.secret_file.is_none() && self.token.jwks.is_none() {
            r.reject(
                "token.secret_file",
                "is needed by an edge without a data folder: the file with the key that clients' tokens are signed with.\n\
                 Or token.jwks_url or token.jwks_file, for tokens of an issuer",
            );
        }
        if self.roles.is_empty() && self.storage != StorageConfig::Embedded {
            r.reject("storage.kind", "must be embedded where one process has all services; a cluster's have --role");
        }
        if self.roles.is_empty() && self.redis.address.is_some() {
            r.reject("redis.url", "is of no use where one process has all services; a cluster's have --role");
        }
        if self.edge.frame_bytes_max > self.edge.frame_bytes_hard_max {
            r.reject(
                "edge.frame_bytes_max",
                format!("must not be over edge.frame_bytes_hard_max, {}", self.edge.frame_bytes_hard_max),
            );
        }
        if self.edge.ping_interval >= self.edge.silence {
            let silence = self.edge.silence.as_secs();
            r.reject(
                "edge.ping_interval_seconds",
                format!("must be under edge.silence_seconds, {silence}, or idle clients are closed"),
            );
        }
    }
}

impl LogConfig {
    fn read(r: &mut Reader, default: Self) -> Self {
        Self {
            format: r.parsed("log.format", "auto, text or json", LogFormat::parse).unwrap_or(default.format),
            filter: r
                .parsed("log.filter", "a filter such as info,confab_edge=debug", parse_filter)
                .unwrap_or(default.filter),
        }
    }
}

impl EdgeConfig {
    fn read(r: &mut Reader, default: &Self) -> Self {
        Self {
            frame_bytes_max: r.number("edge.frame_bytes_max", default.frame_bytes_max, 1_024..=16_777_216),
            frame_bytes_hard_max: r.number(
                "edge.frame_bytes_hard_max",
                default.frame_bytes_hard_max,
                1_024..=16_777_216,
            ),
            connections_max: r.number("edge.connections_max", default.connections_max, 1..=10_000_000),
            in_flight_max: r.number("edge.in_flight_max", default.in_flight_max, 1..=4_096),
            outbound_events_max: r.number("edge.outbound_events_max", default.outbound_events_max, 1..=65_536),
            outbound_bytes_max: r.number(
                "edge.outbound_bytes_max",
                default.outbound_bytes_max,
                131_072..=1_073_741_824,
            ),
            ping_interval: r.seconds("edge.ping_interval_seconds", default.ping_interval, 1..=600),
            silence: r.seconds("edge.silence_seconds", default.silence, 2..=3_600),
            stall: r.seconds("edge.stall_seconds", default.stall, 1..=3_600),
            drain: r.seconds("edge.drain_seconds", default.drain, 0..=600),
            watch_max: r.number("edge.watch_max", default.watch_max, 0..=10_000),
            header_timeout: r.seconds("edge.header_timeout_seconds", default.header_timeout, 1..=300),
            origins: r.list(
                "edge.origins",
                "a list of origins, such as [\"https://app.example.org\"], or [\"*\"]",
                parse_origin,
            ),
            limits: read_limits(r, default.limits),
        }
    }
}

impl MessageConfig {
    fn read(r: &mut Reader, default: &Self) -> Self {
        Self {
            hot_chats_max: r.number("message.hot_chats_max", default.hot_chats_max, 1..=10_000_000),
            in_flight_max: r.number("message.in_flight_max", default.in_flight_max, 1..=1_048_576),
            retention: r.days("message.retention_days", RETENTION_DAYS_MAX),
        }
    }
}

impl LogFormat {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let behind_proxy = (!self.behind_proxy.is_empty()).then(|| self.behind_proxy.join(","));
        [
            ("listen", "--listen", self.listen.clone()),
            ("data", "--data", path(&self.data)),
            ("tls_cert", "--tls-cert", path(&self.tls_cert)),
            ("tls_key", "--tls-key", path(&self.tls_key)),
            ("behind_proxy", "--behind-proxy", behind_proxy),
            ("role", "--role", (!self.role.is_empty()).then(|| self.role.join(","))),
        ]
        .into_iter()
        .filter_map(|(key, flag, value)| Some((key.to_owned(), (Raw::Text(value?), Source::Flag(flag)))))
        .collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            roles: Vec::new(),
            listen: DEFAULT_LISTEN,
            data: PathBuf::from(DEFAULT_DATA),
            tls: None,
            behind_proxy: Vec::new(),
            otlp_endpoint: None,
            log: LogConfig { format: LogFormat::Auto, filter: "info,fjall=warn,lsm_tree=warn,fred=error".to_owned() },
            token: TokenConfig::default(),
            edge: EdgeConfig::default(),
            message: MessageConfig { hot_chats_max: 50_000, in_flight_max: 16_384, retention: None },
            presence: PresenceConfig { grace: Duration::from_secs(10) },
            mesh: MeshConfig::default(),
            storage: StorageConfig::Embedded,
            redis: RedisConfig::default(),
        }
    }
}

impl Default for EdgeConfig {
    fn default() -> Self {
        let edge = confab_edge::Config::default();
        Self {
            frame_bytes_max: edge.frame_bytes_max,
            frame_bytes_hard_max: edge.frame_bytes_hard_max,
            connections_max: edge.connections_max,
            in_flight_max: edge.in_flight_max,
            outbound_events_max: edge.outbound_events_max,
            outbound_bytes_max: edge.outbound_bytes_max,
            ping_interval: edge.ping_interval,
            silence: edge.silence_max,
            stall: edge.stall_max,
            drain: edge.drain,
            watch_max: edge.watch_max,
            header_timeout: edge.header_timeout,
            origins: edge.origins,
            limits: edge.limits,
        }
    }
}

fn read_file(path: &Path, source: Source, problems: &mut Vec<Problem>) -> Layer {
    match std::fs::read_to_string(path) {
        Ok(text) => source::from_toml(path, &text, problems),
        Err(error) => {
            let shown = path.display().to_string();
            problems.push(Problem::new(
                "config",
                Some(shown),
                Some(source),
                format!("must be a TOML file that can be read: {error}"),
            ));
            Layer::new()
        }
    }
}

/// Scheme, host and port, as browsers say it: without a path.
fn parse_origin(text: &str) -> Option<String> {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_one = |authority: &str| !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ']);
    (text == "*" || authority.is_some_and(is_one)).then(|| text.to_owned())
}

fn read_roles(r: &mut Reader) -> Vec<Role> {
    let mut roles = r.list("role", "one or more of edge, message-svc, fanout-svc and presence-svc", Role::parse);
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Each by how much flows in a second, 0 for no limit, and by what may come at once.
fn read_limits(r: &mut Reader, default: LimitsConfig) -> LimitsConfig {
    let mut rate = |per_second, burst, default: Rate| Rate {
        per_second: r.number(per_second, default.per_second, 0..=1_000_000_000),
        burst: r.number(burst, default.burst, 0..=1_000_000_000),
    };
    LimitsConfig {
        messages: rate("edge.limits.messages_per_second", "edge.limits.messages_burst", default.messages),
        bytes: rate("edge.limits.bytes_per_second", "edge.limits.bytes_burst", default.bytes),
        connects: rate("edge.limits.connects_per_second", "edge.limits.connects_burst", default.connects),
        connects_of_address: rate(
            "edge.limits.address_connects_per_second",
            "edge.limits.address_connects_burst",
            default.connects_of_address,
        ),
        http: rate("edge.limits.http_per_second", "edge.limits.http_burst", default.http),
        http_of_address: rate(
            "edge.limits.address_http_per_second",
            "edge.limits.address_http_burst",
            default.http_of_address,
        ),
    }
}

/// Both files, or none.
fn read_tls(r: &mut Reader) -> Option<TlsFiles> {
    match (r.file("tls_cert"), r.file("tls_key")) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            r.reject("tls_cert", "needs tls_key, too: the file with the certificate's private key");
            None
        }
        (None, Some(_)) => {
            r.reject("tls_key", "needs tls_cert, too: the file with the key's certificate");
            None
        }
    }
}

/// One of the places, and what else it needs; or nothing of it.
fn read_jwks(r: &mut Reader) -> Option<JwksFields> {
    let file = r.file("token.jwks_file");
    let url = r.parsed("token.jwks_url", "an https address (http on loopback alone)", parse_jwks_url);
    let not_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let issuer = r.parsed("token.issuer", "what tokens say in iss", not_empty);
    let audience = r.parsed("token.audience", "what tokens say in aud", not_empty);
    if file.is_some() && url.is_some() {
        r.reject("token.jwks_file", "must not be there beside token.jwks_url");
    }
    let is_written = r.is_written("token.jwks_file") || r.is_written("token.jwks_url");
    for (key, value) in [("token.issuer", &issuer), ("token.audience", &audience)] {
        if is_written && value.is_none() && !r.is_written(key) {
            r.reject(key, "is needed with token.jwks_url and token.jwks_file: tokens that an issuer made for others are not good here");
        }
        if !is_written && value.is_some() {
            r.reject(key, "is of use with token.jwks_url or token.jwks_file only");
        }
    }
    let place = file.map(JwksPlace::File).or(url.map(JwksPlace::Url))?;
    Some(JwksFields { place, issuer: issuer?, audience: audience? })
}

fn parse_jwks_url(text: &str) -> Option<hyper::Uri> {
    let uri: hyper::Uri = text.parse().ok()?;
    let endpoint = format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(80));
    let safe = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(&endpoint),
        _ => false,
    };
    safe.then_some(uri)
}

fn parse_listen(text: &str) -> Option<SocketAddr> {
    text.replace("localhost:", "127.0.0.1:").parse().ok()
}

/// A network, or a single address.
fn parse_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))
}

fn parse_endpoint(text: &str) -> Option<String> {
    let uri: hyper::Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some()).then(|| text.to_owned())
}

fn parse_filter(text: &str) -> Option<String> {
    tracing_subscriber::EnvFilter::try_new(text).ok().map(|_| text.to_owned())
}

#[cfg(test)]
mod tests;
