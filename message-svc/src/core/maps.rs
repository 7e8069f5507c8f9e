//! The hash maps of the cores. What a core does in the order of one is the same in each test run: a simulated schedule is
//! its seed. Elsewhere the hasher is keyed at random, for clients choose some of the keys.

#[cfg(not(test))]
type State = std::hash::RandomState;
#[cfg(test)]
type State = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, State>;
pub(crate) type HashSet<T> = std::collections::HashSet<T, State>;
