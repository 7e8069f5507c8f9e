//! Rendezvous hashing (Thaler and Ravishankar, 1998): which instance a key belongs to, without a table. When an instance
//! comes or goes, only the keys that it gets or had move.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How well `instance` suits `key`: the instance with the highest score has it.
#[must_use]
pub fn score(key: u64, instance: &str) -> u64 {
    xxh3_64_with_seed(instance.as_bytes(), key)
}

/// Which of `instances` has `key`, the best first and at most `count`; equal scores go by name.
#[must_use]
pub fn ranked<'a>(key: u64, instances: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    let mut scored: Vec<(u64, &str)> = instances.into_iter().map(|name| (score(key, name), name)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.into_iter().take(count).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_of_the_instance_that_left_move() {
        let all = ["a:1", "b:1", "c:1", "d:1"];
        let mut counts = [0_u32; 4];
        for key in 0..4_096 {
            let owner = ranked(key, all, 1)[0];
            counts[all.iter().position(|name| *name == owner).expect("one of them")] += 1;
            let left = ranked(key, all.into_iter().filter(|name| *name != "c:1"), 1)[0];
            assert!(owner == "c:1" || owner == left, "key {key} moved from {owner} to {left}");
        }
        assert!(counts.iter().all(|count| (900..1_150).contains(count)), "uneven: {counts:?}");
    }

    #[test]
    fn whoever_has_one_instance_more_or_less_has_the_others_best_among_its_best_two() {
        let (all, fewer) = (["a", "b", "c"], ["a", "b"]);
        for key in 0..1_000 {
            assert!(ranked(key, all, 2).contains(&ranked(key, fewer, 1)[0]));
            assert!(ranked(key, fewer, 2).contains(&ranked(key, all, 1)[0]) || ranked(key, all, 1)[0] == "c");
        }
    }
}
