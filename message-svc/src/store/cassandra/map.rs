//! The shard map's stored form: each owner once, and by shard which of them, and since which timestamp. About 40 KiB.

use std::collections::BTreeMap;
use std::sync::Arc;

use confab_ids::SHARDS;
use prost::Message;

use crate::core::ownership::lease::Incarnation;
use crate::core::ownership::map::{ShardMap, Tenure};
use crate::store::StoreError;

#[derive(Clone, PartialEq, Message)]
struct MapValue {
    #[prost(message, repeated, tag = "1")]
    owners: Vec<OwnerValue>,
    /// By shard, its owner's place in `owners`.
    #[prost(uint32, repeated, tag = "2")]
    owner: Vec<u32>,
    /// By shard, microseconds.
    #[prost(sint64, repeated, tag = "3")]
    floor: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct OwnerValue {
    /// 16 bytes, big-endian.
    #[prost(bytes = "vec", tag = "1")]
    incarnation: Vec<u8>,
    /// Empty: not known.
    #[prost(string, tag = "2")]
    addr: String,
}

pub(super) fn encoded(map: &ShardMap) -> Vec<u8> {
    let mut places: BTreeMap<Incarnation, u32> = BTreeMap::new();
    let mut value = MapValue::default();
    for tenure in &map.tenures {
        let next = u32::try_from(places.len()).unwrap_or(u32::MAX);
        let place = *places.entry(tenure.owner).or_insert_with(|| {
            let addr = map.addrs.get(&tenure.owner).map(|addr| addr.to_string()).unwrap_or_default();
            value.owners.push(OwnerValue { incarnation: tenure.owner.0.to_be_bytes().to_vec(), addr });
            next
        });
        value.owner.push(place);
        value.floor.push(tenure.floor);
    }
    value.encode_to_vec()
}

pub(super) fn decoded(version: u64, bytes: &[u8]) -> Result<ShardMap, StoreError> {
    let damaged = || StoreError("the shard map's row is damaged".into());
    let value = MapValue::decode(bytes)?;
    if value.owner.len() != usize::from(SHARDS) || value.floor.len() != value.owner.len() {
        return Err(damaged());
    }
    let mut owners = Vec::with_capacity(value.owners.len());
    let mut addrs = BTreeMap::new();
    for OwnerValue { incarnation, addr } in value.owners {
        let incarnation = Incarnation(u128::from_be_bytes(incarnation.try_into().map_err(|_| damaged())?));
        if !addr.is_empty() {
            addrs.insert(incarnation, Arc::from(addr));
        }
        owners.push(incarnation);
    }
    let tenure = |(place, floor): (u32, i64)| {
        let owner = usize::try_from(place).ok().and_then(|place| owners.get(place)).copied();
        owner.map(|owner| Tenure { owner, floor })
    };
    let tenures: Option<Vec<Tenure>> = value.owner.into_iter().zip(value.floor).map(tenure).collect();
    Ok(ShardMap { version, addrs, tenures: tenures.ok_or_else(damaged)? })
}

#[cfg(test)]
mod tests {
    use confab_ids::Shard;

    use super::*;
    use crate::core::ownership::map::Move;

    #[test]
    fn a_map_is_read_as_it_was_written_and_a_damaged_one_is_refused() {
        let moves: Vec<Move> = Shard::all()
            .take(3_000)
            .map(|shard| Move { shard, to: Incarnation(u128::from(shard.0 % 3) << 100), floor: 1_700_000_000_000_000 })
            .collect();
        let map = ShardMap::default().moved(&moves, |owner| (owner.0 > 0).then(|| Arc::from(format!("{owner:?}:1"))));
        let bytes = encoded(&map);
        assert!(bytes.len() < 48 << 10, "{}", bytes.len());
        assert_eq!(decoded(1, &bytes).expect("a map"), map);
        let short = MapValue { owner: vec![0], ..MapValue::default() };
        assert!(decoded(1, &short.encode_to_vec()).is_err());
        let nobody = MapValue { owners: Vec::new(), ..MapValue::decode(&bytes[..]).expect("a map") };
        assert!(decoded(1, &nobody.encode_to_vec()).is_err());
    }
}
