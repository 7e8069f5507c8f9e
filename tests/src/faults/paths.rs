//! A message's way, as it can be told from outside: the edges of its sender and of each reader, the owner of its chat by the
//! shard map, and the fanout instance that rendezvous hashing gives the chat.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use confab_mesh::rendezvous;

use crate::harness::Mesh;
use crate::harness::shards::owner;

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Struck {
    Nobody,
    One(&'static str),
    /// The way from one to another.
    Between(&'static str, &'static str),
    All,
}

/// One message to one reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub chat: u64,
    /// Of its first try.
    pub from_edge: usize,
    pub to_edge: usize,
}

/// Which processes each chat's messages went through when the strike came.
pub(super) struct Paths {
    struck: Struck,
    /// By chat: its owner and its fanout, by their names.
    places: BTreeMap<u64, [String; 2]>,
}

impl Paths {
    /// As they are now.
    pub(super) async fn look(mesh: &Mesh, chats: &[u64], struck: Struck) -> anyhow::Result<Self> {
        let map = mesh.shard_map().await.context("the shard map")?;
        let names = |role: &'static str| -> BTreeMap<String, String> {
            let of_role = mesh.processes.keys().filter_map(|name| Some((name, name.strip_prefix(role)?)));
            let at = |rest: &str| rest.trim_start_matches('-').parse().unwrap_or(0);
            // An owner behind a proxy is known by the proxy's address.
            let addresses = |rest: &str| [mesh.grpc(role, at(rest)), mesh.proxied(role, at(rest))];
            of_role
                .flat_map(|(name, rest)| addresses(rest).map(|address| (address.to_string(), name.clone())))
                .collect()
        };
        let (owners, fanouts) = (names("message-svc"), names("fanout-svc"));
        let count = fanouts.values().collect::<BTreeSet<_>>().len();
        let listed: Vec<String> = (0..count).map(|at| mesh.grpc("fanout-svc", at).to_string()).collect();
        let place = |chat: u64| -> anyhow::Result<[String; 2]> {
            let owner = owner(&map, chat).with_context(|| format!("chat {chat} has no owner"))?;
            let owner = owners.get(owner).with_context(|| format!("nobody is at {owner}"))?;
            let fanout = rendezvous::ranked(chat, listed.iter().map(String::as_str), 1);
            let fanout = fanout.first().and_then(|address| fanouts.get(*address)).context("no fanout")?;
            Ok([owner.clone(), fanout.clone()])
        };
        let places = chats.iter().map(|chat| Ok((*chat, place(*chat)?))).collect::<anyhow::Result<_>>()?;
        Ok(Self { struck, places })
    }

    /// Whether who or what is struck has a part in it.
    ///
    /// Each user's presence is kept by the two best instances, and here are two: so nobody's way leads around one, and nobody
    /// waits for one either. Everyone is looked at there.
    pub(super) fn is_hit(&self, way: Way) -> bool {
        let edges = [way.from_edge, way.to_edge].map(|at| format!("edge-{at}"));
        let Some([owner, fanout]) = self.places.get(&way.chat) else { return true };
        let has = |name: &str| owner == name || fanout == name || edges.iter().any(|edge| edge == name);
        match self.struck {
            Struck::Nobody => false,
            Struck::One(name) => has(name),
            Struck::Between(one, other) => has(one) && has(other),
            Struck::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(struck: Struck) -> Paths {
        let place = |owner: &str, fanout: &str| [owner.to_owned(), fanout.to_owned()];
        let places = [(1, place("message-svc-0", "fanout-svc-1")), (2, place("message-svc-1", "fanout-svc-1"))];
        Paths { struck, places: places.into() }
    }

    #[test]
    fn who_has_a_part_in_a_way_hits_it() {
        let way = |chat, from_edge, to_edge| Way { chat, from_edge, to_edge };
        let hits = |struck, ways: [Way; 3]| ways.map(|way| paths(struck).is_hit(way));
        let ways = [way(1, 0, 1), way(2, 0, 1), way(2, 1, 1)];
        assert_eq!(hits(Struck::One("message-svc-0"), ways), [true, false, false]);
        assert_eq!(hits(Struck::One("edge-0"), ways), [true, true, false]);
        assert_eq!(hits(Struck::One("fanout-svc-1"), ways), [true; 3]);
        assert_eq!(hits(Struck::Between("message-svc-1", "edge-0"), ways), [false, true, false]);
        assert_eq!(hits(Struck::One("presence-svc-0"), ways), [false; 3]);
        assert_eq!((hits(Struck::All, ways), hits(Struck::Nobody, ways)), ([true; 3], [false; 3]));
    }
}
