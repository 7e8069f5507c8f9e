//! Which refusals reach the log: one per second and peer, so that who is refused often cannot fill it.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(1);
/// Peers that are told apart; while there are more within a second, the further ones are taken for one. So this is also
/// what somebody who changes names can write per second.
const PEERS_MAX: usize = 64;
const OTHERS: &str = "";

#[derive(Debug, Default)]
pub(crate) struct Throttle {
    peers: HashMap<String, Logged>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    left_out: u64,
}

impl Throttle {
    /// Whether to log this one; if so, how many of this peer's were left out since the last that was.
    pub(crate) fn admit(&mut self, peer: &str, now: Instant) -> Option<u64> {
        let is_over = |logged: &Logged| now.duration_since(logged.at) >= EVERY;
        let known = self.peers.contains_key(peer);
        if !known && self.peers.len() >= PEERS_MAX {
            self.peers.retain(|_, logged| !is_over(logged));
        }
        let peer = if known || self.peers.len() < PEERS_MAX { peer } else { OTHERS };
        match self.peers.get_mut(peer) {
            Some(logged) if is_over(logged) => {
                logged.at = now;
                Some(std::mem::take(&mut logged.left_out))
            }
            Some(logged) => {
                logged.left_out += 1;
                None
            }
            None => {
                self.peers.insert(peer.to_owned(), Logged { at: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_per_second_and_peer_with_a_count_of_what_was_left_out() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        assert_eq!(throttle.admit("edge", now), Some(0));
        for _ in 0..7 {
            assert_eq!(throttle.admit("edge", now + EVERY / 2), None);
        }
        assert_eq!(throttle.admit("fanout-svc", now + EVERY / 2), Some(0));
        assert_eq!(throttle.admit("edge", now + EVERY), Some(7));
        assert_eq!(throttle.admit("edge", now + EVERY * 2), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn many_peers_at_once_become_one_and_are_forgotten_after_a_second() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        let logged = (0..10_000).filter(|peer| throttle.admit(&peer.to_string(), now).is_some()).count();
        assert_eq!((logged, throttle.peers.len()), (PEERS_MAX + 1, PEERS_MAX + 1));
        assert_eq!(throttle.admit("another", now + EVERY), Some(0));
        assert_eq!(throttle.peers.len(), 1);
    }
}
