//! The cache that a cluster's processes share: `[redis]`.

use std::path::PathBuf;

use confab_redis::Address;

use super::reader::Reader;

/// Of message-svc on Cassandra, and of presence-svc.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RedisConfig {
    /// None: all works without.
    pub(crate) address: Option<Address>,
    /// PEM: the authorities whose word counts, of an address with TLS; none: this machine's.
    pub(crate) ca: Option<PathBuf>,
}

const RIGHT: &str = "an address such as rediss://user:password@10.0.0.5:6379, \
                     rediss-cluster://10.0.0.5:6379?node=10.0.0.6:6379 or \
                     rediss-sentinel://10.0.0.5:26379?node=10.0.0.6:26379&sentinelServiceName=confab";

impl RedisConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        // A variable that is set to nothing, and a line `url = ""`, say that there is none.
        let url = r.secret("redis.url");
        let file = r.file("redis.url_file");
        if url.is_some() && file.is_some() {
            r.reject("redis.url_file", "must not be given where redis.url is");
        }
        let (key, text) = match (url, &file) {
            (Some(url), _) => ("redis.url", Some(url)),
            (None, Some(file)) => ("redis.url_file", std::fs::read_to_string(file).ok()),
            (None, None) => ("redis.url", None),
        };
        let config = Self { address: text.and_then(|text| parse(r, key, text.trim())), ca: r.file("redis.ca") };
        if config.address.as_ref().is_some_and(Address::is_exposed) {
            r.reject(
                key,
                "is another machine, and what is said in chats would go there in plain text. Use rediss://, \
                 rediss-cluster:// or rediss-sentinel://",
            );
        }
        config
    }
}

fn parse(r: &mut Reader, key: &'static str, text: &str) -> Option<Address> {
    if text.is_empty() {
        return None;
    }
    let parsed = text.parse::<Address>();
    parsed.map_err(|wrong| r.reject(key, format!("must be {RIGHT}:\nit {wrong}"))).ok()
}
