//! The connection, and asking by it.

use std::sync::Arc;
use std::time::Duration;

use confab_mesh::circuit::{Change, Outcome, Pass, SharedCircuit};
use fred::clients::{Client, Pipeline, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::config::{
    ClusterDiscoveryPolicy, Options, ReconnectPolicy, ServerConfig, TlsConfig, TlsConnector, UnresponsiveConfig,
};
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand, Value};
use opentelemetry::metrics::{Counter, Gauge};
use opentelemetry::{KeyValue, global};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::{Address, Command, Reply};

/// Failures in a row after which Redis isn't asked for a while, and how long that is at most.
const FAILURES: u32 = 5;
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Commands that wait for the connection; beyond it asking fails at once.
const COMMANDS_MAX: usize = 8_192;
/// A connection that leaves a command unanswered for so long is made anew.
const SILENCE_MAX: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
/// Making a connection, and each step of it.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Between two tries to connect, milliseconds: from, up to, growing by the factor.
const BACKOFF: (u32, u32, u32) = (100, 2_000, 2);

/// A way to Redis. Clones share it; with the last one the connection ends.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    client: WithOptions<Client>,
    connection: ConnectHandle,
    circuit: SharedCircuit,
    asked: Counter<u64>,
    open: Gauge<u64>,
    address: Address,
}

/// The settings can't be used.
#[derive(Debug, thiserror::Error)]
#[error("Redis at {address}: {cause}")]
pub struct ConnectError {
    /// As it is shown: without its password.
    address: String,
    cause: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It has failed often, and was not asked.
    #[error("it is not asked for now")]
    Unasked,
    #[error("it has not answered in time")]
    Late,
    /// It could not be asked, or has refused.
    #[error("{0}")]
    Refused(String),
}

impl Redis {
    /// Begins to connect, and goes on connecting as long as it is needed: whether Redis is there only shows when it is asked.
    /// `tls`: whom to trust; it counts, and is needed, where the address is one with TLS.
    ///
    /// # Errors
    /// If it is missing there.
    pub fn connect(address: &Address, tls: Option<Arc<ClientConfig>>) -> Result<Self, ConnectError> {
        let failed =
            |error: fred::error::Error| ConnectError { address: address.to_string(), cause: error.to_string() };
        let mut config = address.config();
        config.fail_fast = false;
        if let ServerConfig::Clustered { policy, .. } = &mut config.server {
            // The nodes that the address names may be the ones that are gone.
            *policy = ClusterDiscoveryPolicy::UseCache;
        }
        if address.is_tls() {
            let cause = || "nobody says whom to trust".to_owned();
            let tls = tls.ok_or_else(|| ConnectError { address: address.to_string(), cause: cause() })?;
            config.tls = Some(TlsConfig::from(TlsConnector::from(ClientConfig::clone(&tls))));
        }
        let (from, to, factor) = BACKOFF;
        let mut builder = Builder::from_config(config);
        builder.set_policy(ReconnectPolicy::new_exponential(0, from, to, factor)).with_connection_config(
            |connection| {
                connection.connection_timeout = CONNECT_MAX;
                connection.internal_command_timeout = CONNECT_MAX;
                connection.max_command_attempts = 1;
                connection.max_command_buffer_len = COMMANDS_MAX;
                connection.unresponsive = UnresponsiveConfig { max_timeout: Some(SILENCE_MAX), interval: LOOK };
            },
        );
        let client = builder.build().map_err(failed)?;
        let connection = client.connect();
        let options = Options { max_attempts: Some(1), fail_fast: true, ..Options::default() };
        let meter = global::meter("confab_redis");
        Ok(Self(Arc::new(Inner {
            client: client.with_options(&options),
            connection,
            circuit: SharedCircuit::new(FAILURES, PAUSE_MAX),
            asked: meter
                .u64_counter("confab.redis.asked")
                .with_description("Questions to Redis, by what came of them")
                .build(),
            open: meter
                .u64_gauge("confab.redis.circuit_open")
                .with_description("1 while Redis is not asked because it fails")
                .build(),
            address: address.clone(),
        })))
    }

    /// Sends the commands at once; their replies are in their order. One that is refused fails all, of which some may have
    /// been done. No command may be one that waits.
    ///
    /// # Errors
    /// If there are not all replies `within` this time, or one is an error.
    pub async fn ask(&self, commands: Vec<Command>, within: Duration) -> Result<Vec<Reply>, Failure> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let Ok(pass) = self.0.circuit.admit() else {
            self.0.count("unasked");
            return Err(Failure::Unasked);
        };
        let question = Question { inner: &self.0, pass: Some(pass) };
        let result = match timeout(within, self.send(commands)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Late),
        };
        question.end(&result);
        result
    }

    async fn send(&self, commands: Vec<Command>) -> Result<Vec<Reply>, Failure> {
        // Soon it may be there, as at the start; who asks has said how long that may take.
        self.0.client.wait_for_connect().await.map_err(refused)?;
        let count = commands.len();
        let pipeline = Pipeline::from(self.0.client.clone());
        for Command { name, args } in commands {
            let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
            // It is only put beside the others.
            let _queued: Value = pipeline.custom(command, args).await.map_err(refused)?;
        }
        let mut replies = Vec::with_capacity(count);
        for value in pipeline.try_all::<Value>().await {
            replies.push(Reply::from(value.map_err(refused)?));
        }
        match replies.len() == count {
            true => Ok(replies),
            false => Err(Failure::Refused(format!("{} replies to {count} commands", replies.len()))),
        }
    }
}

fn refused(error: fred::error::Error) -> Failure {
    Failure::Refused(error.to_string())
}

impl Inner {
    fn count(&self, outcome: &'static str) {
        self.asked.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    fn end(&self, pass: Pass, outcome: Outcome) {
        match self.circuit.end(pass, outcome) {
            Some(Change::Opened { failures }) => {
                self.open.record(1, &[]);
                tracing::warn!(address = %self.address, failures, "Redis fails: it goes on without, and is tried now and then");
            }
            Some(Change::Closed) => {
                self.open.record(0, &[]);
                tracing::info!(address = %self.address, "Redis is there again");
            }
            None => {}
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A question under way, which ends once.
struct Question<'a> {
    inner: &'a Inner,
    pass: Option<Pass>,
}

impl Question<'_> {
    fn end(mut self, result: &Result<Vec<Reply>, Failure>) {
        let (name, outcome) = match result {
            Ok(_) => ("answered", Outcome::Works),
            Err(Failure::Late) => ("late", Outcome::Failed),
            Err(Failure::Refused(_) | Failure::Unasked) => ("failed", Outcome::Failed),
        };
        self.inner.count(name);
        if let Some(pass) = self.pass.take() {
            self.inner.end(pass, outcome);
        }
    }
}

impl Drop for Question<'_> {
    /// Whoever asked has left.
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.inner.end(pass, Outcome::Unknown);
        }
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis({})", self.0.address)
    }
}
