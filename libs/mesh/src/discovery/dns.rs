//! All addresses of a name, asked for again and again.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::{sync::Notify, time::sleep};

use super::{Discovery, DiscoveryConfig, Endpoint, Snapshots, StartError};

/// The shortest time between two questions.
const GAP: Duration = Duration::from_secs(1);
/// One question to one server, and how often it is asked again.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

pub(super) fn start(name: String, port: u16, cfg: &DiscoveryConfig) -> Result<Discovery, StartError> {
    let resolver = resolver(&cfg.dns_servers).map_err(|error| StartError::Resolver(error.to_string()))?;
    let (snapshots, discovery) = Discovery::channel();
    let asking = Asking { resolver, name, port, every: cfg.dns_interval.max(GAP), again: Arc::clone(&discovery.again) };
    tokio::spawn(async move {
        tokio::select! {
            () = snapshots.unwatched() => {}
            () = asking.run(&snapshots) => {}
        }
    });
    Ok(discovery)
}

struct Asking {
    resolver: TokioResolver,
    name: String,
    port: u16,
    every: Duration,
    again: Arc<Notify>,
}

impl Asking {
    async fn run(self, snapshots: &Snapshots) {
        let mut answers = Answers::default();
        loop {
            let answer = self.ask().await;
            if let Some(addresses) = answers.believed(answer) {
                snapshots.publish(addresses.into_iter().map(|ip| self.endpoint(ip)).collect());
            }
            let pause = if answers.any { self.every } else { GAP };
            tokio::select! {
                () = sleep(pause) => {}
                // What was asked for in the gap is done after it.
                () = async { sleep(GAP).await; self.again.notified().await } => {}
            }
        }
    }

    /// # Errors
    /// None that says that there is none: that is an empty answer.
    async fn ask(&self) -> Result<Vec<IpAddr>, NetError> {
        match self.resolver.lookup_ip(self.name.as_str()).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => {
                tracing::warn!(name = self.name, %error, "DNS does not answer: what it said last stays");
                Err(error)
            }
        }
    }

    fn endpoint(&self, ip: IpAddr) -> Endpoint {
        Endpoint { address: SocketAddr::new(ip, self.port).to_string().into() }
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = match servers {
        [] => TokioResolver::builder_tokio()?,
        _ => {
            let servers = servers.iter().map(|server| name_server(*server)).collect();
            TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                TokioRuntimeProvider::default(),
            )
        }
    };
    ask_all(builder.options_mut());
    builder.build()
}

fn ask_all(options: &mut ResolverOpts) {
    // Each answer is the newest there is.
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let over = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    NameServerConfig::new(server.ip(), true, vec![over(ConnectionConfig::udp()), over(ConnectionConfig::tcp())])
}

/// Empty answers in a row that are believed: the cluster's DNS has them, too, while it starts or is reloaded.
const EMPTY_BELIEVED: u32 = 3;

/// Which answers to believe.
#[derive(Debug, Default)]
struct Answers {
    any: bool,
    empty: u32,
}

impl Answers {
    fn believed<E>(&mut self, answer: Result<Vec<IpAddr>, E>) -> Option<Vec<IpAddr>> {
        let addresses = answer.ok()?;
        if addresses.is_empty() {
            self.empty = self.empty.saturating_add(1);
            return (self.empty >= EMPTY_BELIEVED).then_some(addresses);
        }
        (self.any, self.empty) = (true, 0);
        Some(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::Answers;

    #[test]
    fn failures_are_not_believed_and_nothing_only_three_times_in_a_row() {
        let mut answers = Answers::default();
        let some = vec![IpAddr::from([10, 0, 0, 1])];
        let nothing = || Ok::<_, &str>(Vec::new());
        let failure = || Err("SERVFAIL");
        assert_eq!(answers.believed(Ok::<_, &str>(some.clone())), Some(some.clone()));
        assert_eq!(answers.believed(failure()), None);
        for _ in 0..2 {
            assert_eq!(answers.believed(nothing()), None);
            assert_eq!(answers.believed(failure()), None);
            assert_eq!(answers.believed(nothing()), None);
            assert_eq!(answers.believed(Ok::<_, &str>(some.clone())), Some(some.clone()));
        }
        for believed in [None, None, Some(Vec::new()), Some(Vec::new())] {
            assert_eq!(answers.believed(nothing()), believed);
        }
    }
}
