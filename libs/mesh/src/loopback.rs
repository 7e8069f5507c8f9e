//! Whether an endpoint is this machine: there plaintext is allowed.

use std::net::IpAddr;

/// Of `host:port`, the host with or without an IPv6 address's brackets. A name but `localhost` can be any machine's.
#[must_use]
pub fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is() {
        for here in
            ["127.0.0.1:9042", "127.8.0.1:1", "localhost:1", "localhost", "[::1]:1", "::1:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["10.0.0.5:9042", "redis:1", "localhost.example:1", "[::2]:1", ":1", ""] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
