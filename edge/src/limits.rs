//! How much one user, and one address, may ask of this edge: token buckets. What is above is refused at once, and told when there is
//! room again; nothing else is harmed by it.
//!
//! An address counts by its network of a site: /64 of IPv6. This machine has no limit, nor what comes from a proxy's own network.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::HeaderMap;
use confab_ids::UserId;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;

/// What the sender of one message too many is told.
pub(crate) const TOO_MANY: &str = "more messages than one user may send";

/// Proxies that a request may have come by; who names more is at the last of them.
const HOPS_MAX: usize = 16;

/// A bucket's size, and what flows in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 0: there is no limit.
    pub per_second: u32,
    /// At least `per_second`, or that counts.
    pub burst: u32,
}

/// Of one user, and of one address, at one edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Messages, edits, deletions and reactions of a user.
    pub messages: Rate,
    /// And their bytes.
    pub bytes: Rate,
    /// Connections that a user opens, and that an address does.
    pub connects: Rate,
    pub connects_of_address: Rate,
    /// HTTP requests of a user, and of an address.
    pub http: Rate,
    pub http_of_address: Rate,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Self {
            messages: rate(50, 500),
            bytes: rate(256 * 1_024, 4 * 1_024 * 1_024),
            connects: rate(1, 60),
            connects_of_address: rate(100, 5_000),
            http: rate(20, 200),
            http_of_address: rate(200, 5_000),
        }
    }
}

struct Bucket<K: Hash + Eq + Clone> {
    /// What one holds.
    size: NonZeroU32,
    limiter: DefaultKeyedRateLimiter<K>,
}

/// Without them there is no limit.
struct Buckets<K: Hash + Eq + Clone>(Option<Bucket<K>>);

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(rate: Rate) -> Self {
        let bucket = |per_second: NonZeroU32| {
            let size = NonZeroU32::new(rate.burst).map_or(per_second, |burst| burst.max(per_second));
            Bucket { size, limiter: RateLimiter::keyed(Quota::per_second(per_second).allow_burst(size)) }
        };
        Self(NonZeroU32::new(rate.per_second).map(bucket))
    }

    /// Takes so much; or says how long to wait. More than a bucket ever holds counts as all of it.
    fn take(&self, key: &K, count: u32) -> Result<(), Duration> {
        let Some(Bucket { size, limiter }) = &self.0 else { return Ok(()) };
        let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN).min(*size);
        match limiter.check_key_n(key, count) {
            Ok(Err(not_until)) => Err(not_until.wait_time_from(DefaultClock::default().now())),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Forgets whose buckets are full again.
    fn tidy(&self) {
        if let Some(Bucket { limiter, .. }) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// The buckets of this edge.
pub(crate) struct Limits {
    messages: Buckets<UserId>,
    bytes: Buckets<UserId>,
    connects: Buckets<UserId>,
    connects_of_address: Buckets<IpAddr>,
    http: Buckets<UserId>,
    http_of_address: Buckets<IpAddr>,
}

impl Limits {
    pub(crate) fn new(cfg: LimitsConfig) -> Self {
        Self {
            messages: Buckets::new(cfg.messages),
            bytes: Buckets::new(cfg.bytes),
            connects: Buckets::new(cfg.connects),
            connects_of_address: Buckets::new(cfg.connects_of_address),
            http: Buckets::new(cfg.http),
            http_of_address: Buckets::new(cfg.http_of_address),
        }
    }

    /// A message of so many bytes.
    pub(crate) fn message(&self, user: UserId, bytes: usize) -> Result<(), Duration> {
        self.messages.take(&user, 1)?;
        self.bytes.take(&user, u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// By [`client_address`].
    pub(crate) fn connect_from(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        self.connects_of_address.of_address(address)
    }

    pub(crate) fn connect_of(&self, user: UserId) -> Result<(), Duration> {
        self.connects.take(&user, 1)
    }

    pub(crate) fn request_from(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        self.http_of_address.of_address(address)
    }

    pub(crate) fn request_of(&self, user: UserId) -> Result<(), Duration> {
        self.http.take(&user, 1)
    }

    /// To be called now and then: what is kept grows with those who have asked since.
    pub(crate) fn tidy(&self) {
        for users in [&self.messages, &self.bytes, &self.connects, &self.http] {
            users.tidy();
        }
        self.connects_of_address.tidy();
        self.http_of_address.tidy();
    }
}

impl Buckets<IpAddr> {
    fn of_address(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        address.map_or(Ok(()), |address| self.take(&site(address), 1))
    }
}

/// Of an address, what its owner can't change.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Where a request comes from: who has connected, or, where that is one of our proxies, the last whom they name that isn't one. What a
/// client writes into that header itself lies before that, and counts for nothing. `None`: this machine, or a proxy that names nobody.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    let is_ours = |address: &IpAddr| address.is_loopback() || proxies.iter().any(|net| net.contains(address));
    let mut address = peer.to_canonical();
    // By bytes: what a client has put before is not to hide what a proxy says behind it.
    let named = headers.get_all("x-forwarded-for").iter();
    let named: Vec<&[u8]> = named.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).collect();
    for before in named.into_iter().rev().take(HOPS_MAX) {
        if proxies.is_empty() || !is_ours(&address) {
            break;
        }
        address = named_address(std::str::from_utf8(before).ok()?)?;
    }
    (!is_ours(&address)).then_some(address)
}

/// Some proxies name the port, too.
fn named_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: IpAddr = text.parse().ok().or_else(with_port).or_else(in_brackets)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const ME: UserId = UserId(1);

    fn limits(messages: Rate, bytes: Rate) -> Limits {
        Limits::new(LimitsConfig { messages, bytes, ..LimitsConfig::default() })
    }

    #[test]
    fn a_burst_passes_and_what_is_above_waits_and_others_do_not() {
        let none = Rate { per_second: 0, burst: 0 };
        let limits = limits(Rate { per_second: 1, burst: 3 }, none);
        let taken = (0..5).filter(|_| limits.message(ME, 10).is_ok()).count();
        assert_eq!(taken, 3);
        let wait = limits.message(ME, 10).expect_err("empty");
        assert!(wait > Duration::from_millis(500) && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(limits.message(UserId(2), 10).is_ok());
        assert!((0..10_000).all(|_| self::limits(none, none).message(ME, usize::MAX).is_ok()), "without a limit");
    }

    #[test]
    fn bytes_count_and_one_that_is_larger_than_the_bucket_empties_it() {
        let limits = limits(Rate { per_second: 0, burst: 0 }, Rate { per_second: 1, burst: 1_000 });
        assert!(limits.message(ME, 600).is_ok() && limits.message(ME, 600).is_err());
        assert!(limits.message(UserId(2), 5_000).is_ok());
        assert!(limits.message(UserId(2), 1).is_err());
    }

    #[test]
    fn an_address_is_a_site() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limits = Limits::new(LimitsConfig { connects_of_address: rate, ..LimitsConfig::default() });
        let connect = |text: &str| limits.connect_from(Some(text.parse().expect("an address"))).is_ok();
        assert!(connect("2001:db8:1:2::1") && !connect("2001:db8:1:2::2"));
        assert!(connect("2001:db8:1:3::1"));
        assert!(connect("192.0.2.1") && connect("192.0.2.2"));
        assert!((0..10).all(|_| limits.connect_from(None).is_ok()));
    }

    #[test]
    fn only_what_our_proxies_say_of_a_client_counts() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let of_bytes = |peer: &str, forwarded: &[&[u8]], proxies: &[IpNet]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(value).expect("a value"));
            }
            let address = client_address(peer.parse().expect("an address"), &headers, proxies);
            address.map_or_else(|| "nobody".to_owned(), |address| address.to_string())
        };
        let of = |peer: &str, forwarded: &[&str], proxies: &[IpNet]| {
            of_bytes(peer, &forwarded.iter().map(|value| value.as_bytes()).collect::<Vec<_>>(), proxies)
        };
        // What is no text hides nothing that a proxy has added to it.
        assert_eq!(of_bytes("10.0.0.1", &[b"\xff, 192.0.2.7"], &proxies), "192.0.2.7");
        assert_eq!(of("10.0.0.1", &["192.0.2.7"], &proxies), "192.0.2.7");
        assert_eq!(of("10.0.0.1", &["192.0.2.7:4711"], &proxies), "192.0.2.7");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:4711"], &proxies), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]"], &proxies), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["6.6.6.6, 192.0.2.7, 10.0.0.2"], &proxies), "192.0.2.7");
        assert_eq!(of("10.0.0.1", &["6.6.6.6", "192.0.2.7"], &proxies), "192.0.2.7");
        assert_eq!(of("127.0.0.1", &["192.0.2.7"], &proxies), "192.0.2.7");
        assert_eq!(of("10.0.0.1", &["unknown"], &proxies), "nobody");
        assert_eq!(of("10.0.0.1", &[], &proxies), "nobody");
        assert_eq!(of("192.0.2.1", &["6.6.6.6"], &proxies), "192.0.2.1", "who is no proxy names nobody");
        assert_eq!(of("192.0.2.1", &["6.6.6.6"], &[]), "192.0.2.1");
        assert_eq!(of("127.0.0.1", &["6.6.6.6"], &[]), "nobody");
        assert_eq!(of("::ffff:192.0.2.1", &[], &[]), "192.0.2.1");
    }
}
