//! Who owns which chats, and through which stream each owner is reached.

use std::sync::Arc;

use confab_ids::{ChatId, SHARDS, Shard};
use confab_proto::message::v1::WatchShardsResponse;

/// A stream's number: no two have the same.
pub(crate) type Stream = u64;

/// There is none.
pub(super) const NO_STREAM: Stream = 0;

/// Which shards have another owner now; `true` at a shard's number: it has.
pub(super) type Moved = Vec<bool>;

#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Of the newest map; `None`: there was none yet.
    version: Option<u64>,
    /// None: the only instance that there is owns all.
    names: Vec<String>,
    /// By shard: the owner's place in `names`, counted from 1; 0: nobody's for now.
    shards: Vec<u16>,
    /// The open ones, by instance. A few.
    streams: Vec<(Arc<str>, Stream)>,
    /// By place in `names`.
    reach: Vec<Stream>,
}

impl Owners {
    /// The stream to a chat's owner. Two look-ups by number: it is asked for each command.
    pub(super) fn stream_of(&self, chat: ChatId) -> Stream {
        if self.names.is_empty() {
            let sole = self.version.and(self.streams.first());
            return sole.map_or(NO_STREAM, |(_, stream)| *stream);
        }
        let place = self.shards.get(usize::from(Shard::of_chat(chat).0)).copied().unwrap_or(0);
        match place.checked_sub(1) {
            Some(at) => self.reach.get(usize::from(at)).copied().unwrap_or(NO_STREAM),
            None => NO_STREAM,
        }
    }

    /// The stream that an instance has had.
    pub(super) fn stream_to(&self, name: &str) -> Option<Stream> {
        self.streams.iter().find(|(known, _)| **known == *name).map(|(_, stream)| *stream)
    }

    /// The instance that has a stream.
    pub(super) fn name_of(&self, stream: Stream) -> Option<Arc<str>> {
        self.streams.iter().find(|(_, open)| *open == stream).map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn opened(&mut self, name: &str, stream: Stream) {
        self.streams.push((name.into(), stream));
        self.find_streams();
    }

    pub(super) fn closed(&mut self, stream: Stream) {
        self.streams.retain(|(_, open)| *open != stream);
        self.find_streams();
    }

    fn find_streams(&mut self) {
        let reach = |name: &String| self.stream_to(name).unwrap_or(NO_STREAM);
        self.reach = self.names.iter().map(reach).collect();
    }

    /// Takes a map in, unless it is an old one, or not one.
    pub(super) fn mapped(&mut self, map: WatchShardsResponse) -> Option<Moved> {
        let known = self.version.is_some_and(|version| map.version <= version);
        if known || !map.owners.is_empty() && map.shards.len() != usize::from(SHARDS) {
            return None;
        }
        // Two lives of one instance may be in it: they are reached through the same stream.
        let place_of = |name: &String| map.owners.iter().position(|owner| owner == name).map_or(0, |at| at + 1);
        let canonical: Vec<u16> = map.owners.iter().map(|name| u16::try_from(place_of(name)).unwrap_or(0)).collect();
        let place = |place: &u32| {
            let at = usize::try_from(*place).unwrap_or(0).checked_sub(1);
            at.and_then(|at| canonical.get(at)).copied().unwrap_or(0)
        };
        let shards: Vec<u16> = map.shards.iter().map(place).collect();
        let was: Vec<u16> = self.names.iter().map(|name| u16::try_from(place_of(name)).unwrap_or(0)).collect();
        let moved = if self.names.is_empty() || map.owners.is_empty() {
            vec![true; usize::from(SHARDS)]
        } else {
            let was = |old: &u16| match old.checked_sub(1) {
                // Of an owner that is no longer in the map: no place at all.
                Some(at) => was.get(usize::from(at)).copied().filter(|place| *place > 0),
                None => Some(0),
            };
            self.shards.iter().zip(&shards).map(|(old, new)| was(old) != Some(*new)).collect()
        };
        self.version = Some(map.version);
        (self.names, self.shards) = (map.owners, shards);
        self.find_streams();
        Some(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: u64, owners: &[&str], place: impl Fn(u16) -> u32) -> WatchShardsResponse {
        let owners = owners.iter().map(ToString::to_string).collect();
        WatchShardsResponse { version, owners, shards: (0..SHARDS).map(place).collect() }
    }

    fn chat_of(shard: u16) -> ChatId {
        (1..).map(ChatId).find(|chat| Shard::of_chat(*chat).0 == shard).expect("a chat")
    }

    #[test]
    fn a_chat_is_reached_at_its_shards_owner() {
        let mut owners = Owners::default();
        owners.opened("b:1", 7);
        assert_eq!(owners.stream_of(ChatId(1)), NO_STREAM, "nobody knows whose it is");
        assert_eq!(
            owners.mapped(map(3, &["a:1", "b:1"], |shard| u32::from(shard % 3))).map(|all| all.len()),
            Some(4096)
        );
        let reached = |owners: &Owners| [3, 1, 2].map(|shard| owners.stream_of(chat_of(shard)));
        assert_eq!(reached(&owners), [NO_STREAM, NO_STREAM, 7]);
        owners.opened("a:1", 8);
        assert_eq!(reached(&owners), [NO_STREAM, 8, 7]);
        owners.closed(7);
        assert_eq!(reached(&owners), [NO_STREAM, 8, NO_STREAM]);
    }

    #[test]
    fn the_only_instance_has_all() {
        let mut owners = Owners::default();
        assert!(owners.mapped(map(0, &[], |_| 0)).is_some());
        assert_eq!(owners.stream_of(ChatId(1)), NO_STREAM);
        owners.opened("local", 1);
        owners.opened("other", 2);
        assert_eq!(owners.stream_of(ChatId(1)), 1);
        owners.closed(1);
        assert_eq!(owners.stream_of(ChatId(1)), 2);
    }

    #[test]
    fn shards_move_by_their_owners_names_and_versions_rise() {
        let mut owners = Owners::default();
        owners.mapped(map(3, &["a", "b"], |shard| u32::from(shard % 3)));
        assert!(owners.mapped(map(3, &["c"], |_| 1)).is_none());
        assert!(owners.mapped(WatchShardsResponse { shards: vec![1], ..map(4, &["c"], |_| 1) }).is_none());
        // `a` is gone and `c` has its shards; `b`, with a second life, is named at other places.
        let moved = owners.mapped(map(5, &["c", "b", "b"], |shard| [0, 1, 3][usize::from(shard % 3)])).expect("newer");
        assert!(moved.iter().zip(0..).all(|(moved, shard)| *moved == (shard % 3 == 1)));
        let moved = owners.mapped(map(6, &["c", "b"], |shard| [1, 1, 0][usize::from(shard % 3)])).expect("newer");
        assert!(moved.iter().zip(0..).all(|(moved, shard)| *moved == (shard % 3 != 1)));
    }
}
