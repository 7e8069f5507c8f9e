//! Where Redis is.

use std::fmt;
use std::str::FromStr;

use confab_mesh::is_loopback;
use fred::types::config::Config;

/// The schemes, and whether each is TLS.
const SCHEMES: [(&str, bool); 6] = [
    ("redis", false),
    ("rediss", true),
    ("redis-cluster", false),
    ("rediss-cluster", true),
    ("redis-sentinel", false),
    ("rediss-sentinel", true),
];
/// What may stand behind the `?`.
const PARAMETERS: [&str; 4] = ["node", "sentinelServiceName", "sentinelUsername", "sentinelPassword"];

/// `redis://[user:password@]host:port[/database]`, or, with as many `node=` as there are,
/// `redis-cluster://host:port?node=host:port` or `redis-sentinel://host:port?node=host:port&sentinelServiceName=name`, whose
/// hosts are the sentinels; each as `rediss…` with TLS. Shown without what is secret in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    scheme: &'static str,
    tls: bool,
    /// `host:port`.
    hosts: Vec<String>,
    config: Config,
}

/// Why a text is no [`Address`]. It doesn't repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(&'static str);

impl Address {
    /// Whether what is said would be readable on a network: it isn't TLS, and not all of it is on this machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.tls && !self.hosts.iter().all(|host| is_loopback(host))
    }

    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidAddress("has no scheme, such as redis://"))?;
        let known = SCHEMES.into_iter().find(|(name, _)| *name == scheme);
        let (scheme, tls) = known.ok_or(InvalidAddress("has a scheme that is none of Redis"))?;
        let (_, query) = rest.split_once('?').unwrap_or_default();
        let name = |parameter: &'static str| move |pair: &str| pair.split('=').next() == Some(parameter);
        if !query.split_terminator('&').all(|pair| PARAMETERS.iter().any(|parameter| name(parameter)(pair))) {
            return Err(InvalidAddress(
                "has a parameter that is none of node, sentinelServiceName, sentinelUsername, sentinelPassword",
            ));
        }
        if scheme.ends_with("-sentinel") && !query.split('&').any(name("sentinelServiceName")) {
            return Err(InvalidAddress("has no sentinelServiceName, the name by which the sentinels know the primary"));
        }
        // Without TLS, which needs to know whom to trust: see `Redis::connect`.
        let plain = format!("{}://{rest}", scheme.replacen("rediss", "redis", 1));
        let config = Config::from_url(&plain)
            .map_err(|_| InvalidAddress("has no host, or a port or database that is no number"))?;
        let hosts =
            config.server.hosts().into_iter().map(|server| format!("{}:{}", server.host, server.port)).collect();
        Ok(Self { scheme, tls, hosts, config })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.hosts.join(","))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect("an address")
    }

    #[test]
    fn it_is_shown_without_its_secrets() {
        for text in [
            "redis://ann:hunter2@10.0.0.5:6379/3",
            "redis-cluster://ann:hunter2@10.0.0.5:6379",
            "rediss-sentinel://ann:hunter2@10.0.0.5:26379?sentinelServiceName=confab&sentinelUsername=x&sentinelPassword=hunter2",
        ] {
            let shown = format!("{0} {0:?}", address(text));
            assert!(shown.contains("10.0.0.5:") && !shown.contains("hunter2") && !shown.contains("ann"), "{shown}");
        }
        let wrong = "redis://:hunter2@host:port".parse::<Address>().expect_err("no port");
        assert!(!format!("{wrong} {wrong:?}").contains("hunter2"));
    }

    #[test]
    fn plain_text_is_for_this_machine() {
        for here in [
            "redis://127.0.0.1:6379",
            "redis://localhost",
            "redis://[::1]:6379",
            "redis-cluster://127.0.0.1:1?node=127.0.0.2:2",
            "rediss://10.0.0.5:6379",
        ] {
            assert!(!address(here).is_exposed(), "{here}");
        }
        for elsewhere in ["redis://10.0.0.5:6379", "redis-cluster://127.0.0.1:1?node=10.0.0.5:2", "redis://redis"] {
            assert!(address(elsewhere).is_exposed(), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("127.0.0.1:6379", "no scheme"),
            ("http://127.0.0.1:6379", "none of Redis"),
            ("redis://", "no host"),
            ("redis://127.0.0.1:99999", "port"),
            ("redis://127.0.0.1/x", "database"),
            ("redis-cluster://127.0.0.1:1?nodes=127.0.0.1:2", "parameter"),
            ("redis-sentinel://127.0.0.1:1", "no sentinelServiceName"),
        ] {
            let said = text.parse::<Address>().expect_err(text).to_string();
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}
