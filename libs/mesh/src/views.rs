//! Where a key's state is kept, while not everybody sees the same instances.
//!
//! Whoever keeps state about a key and whoever asks for it compute the same thing: its *homes*, the best two of the instances
//! listed now and the best two of those listed [`VIEW_LAG_MS`] ago. One instance more or less leaves two views with a home in
//! common (`rendezvous.rs`); the view of before covers changes of several instances at once, for views that lag by less.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::rendezvous::score;

/// How long an earlier view counts, milliseconds: how far two views of the same discovery may be apart.
pub const VIEW_LAG_MS: u64 = 30_000;

/// Changes that wait to become the view of before; beyond it the oldest becomes so early.
const CHANGES_MAX: usize = 16;

/// How many homes a key has at most.
const HOMES_MAX: usize = 4;

/// The instances' names, ascending.
pub type Names = Arc<[Arc<str>]>;

/// The homes of a key, by their numbers in [`Views`]; they hold until it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    at: [u32; HOMES_MAX],
    len: u8,
}

/// One participant's view of the instances, now and before.
#[derive(Clone, Debug)]
pub struct Views {
    now: Names,
    before: Names,
    /// When which view becomes the one before.
    changes: VecDeque<(u64, Names)>,
    all: Vec<Listed>,
}

#[derive(Clone, Debug)]
struct Listed {
    name: Arc<str>,
    now: bool,
    before: bool,
}

impl Views {
    /// The first view: it is the one before, too.
    #[must_use]
    pub fn new(names: Names) -> Self {
        let mut views = Self { now: names.clone(), before: names, changes: VecDeque::new(), all: Vec::new() };
        views.number();
        views
    }

    /// The instances listed from `now_ms` on. Says whether that changes any key's homes.
    pub fn change(&mut self, now_ms: u64, names: Names) -> bool {
        if names == self.now {
            return false;
        }
        self.now = names.clone();
        self.changes.push_back((now_ms + VIEW_LAG_MS, names));
        if self.changes.len() > CHANGES_MAX
            && let Some((_, names)) = self.changes.pop_front()
        {
            self.before = names;
        }
        self.number();
        true
    }

    /// Lets views go that are too old. Says whether that changes any key's homes.
    pub fn tick(&mut self, now_ms: u64) -> bool {
        let mut changed = false;
        while let Some((_, names)) = self.changes.pop_front_if(|(at, _)| *at <= now_ms) {
            self.before = names;
            changed = true;
        }
        if changed {
            self.number();
        }
        changed
    }

    fn number(&mut self) {
        let mut names: Vec<&Arc<str>> = self.now.iter().chain(self.before.iter()).collect();
        names.sort_unstable();
        names.dedup();
        let listed = |name: &Arc<str>| Listed {
            name: name.clone(),
            now: self.now.contains(name),
            before: self.before.contains(name),
        };
        self.all = names.into_iter().map(listed).collect();
    }

    /// The homes of every key, where there are so few instances that all keys have the same.
    #[must_use]
    pub fn homes_of_all(&self) -> Option<Homes> {
        let mut homes = Homes::default();
        (0..self.all.len().min(2)).for_each(|at| homes.add(at));
        (self.all.len() <= 2).then_some(homes)
    }

    /// The homes of `key`; none, where no instance is listed. Costs a hash per instance and no allocation.
    #[must_use]
    pub fn homes(&self, key: u64) -> Homes {
        if let Some(homes) = self.homes_of_all() {
            return homes;
        }
        let mut homes = Homes::default();
        let (mut now, mut before) = (Best::default(), Best::default());
        for (at, listed) in self.all.iter().enumerate() {
            let score = score(key, &listed.name);
            if listed.now {
                now.offer(score, at);
            }
            if listed.before {
                before.offer(score, at);
            }
        }
        for (_, at) in now.0.into_iter().chain(before.0).flatten() {
            homes.add(at);
        }
        homes
    }

    /// The names of some homes.
    pub fn names(&self, homes: Homes) -> impl Iterator<Item = &Arc<str>> {
        homes.at.into_iter().take(usize::from(homes.len)).filter_map(|at| Some(&self.all.get(at as usize)?.name))
    }

    /// Whether an instance is listed now, or was before.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.all.iter().any(|listed| *listed.name == *name)
    }

    /// The one instance to follow `key` at: the best of those listed now and before, for by then everybody has told it what
    /// they know; without such a one the best of those listed now.
    #[must_use]
    pub fn follow(&self, key: u64) -> Option<&Arc<str>> {
        let best = |old: bool| {
            let listed = self.all.iter().filter(move |listed| listed.now && (listed.before || !old));
            listed.max_by_key(|listed| (score(key, &listed.name), &listed.name)).map(|listed| &listed.name)
        };
        best(true).or_else(|| best(false))
    }
}

impl Homes {
    fn add(&mut self, at: usize) {
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        let len = usize::from(self.len);
        if len < HOMES_MAX && !self.at[..len].contains(&at) {
            self.at[len] = at;
            self.len += 1;
        }
    }
}

/// The best two of what was offered.
#[derive(Default)]
struct Best([Option<(u64, usize)>; 2]);

impl Best {
    fn offer(&mut self, score: u64, at: usize) {
        let offered = Some((score, at));
        if offered > self.0[0] {
            self.0 = [offered, self.0[0]];
        } else if offered > self.0[1] {
            self.0[1] = offered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::ranked;

    fn names(names: &[&str]) -> Names {
        let mut names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        names.sort_unstable();
        names.into()
    }

    fn homes(views: &Views, key: u64) -> Vec<String> {
        views.names(views.homes(key)).map(|name| name.to_string()).collect()
    }

    #[test]
    fn homes_are_the_best_two_of_now_and_of_before() {
        let old = ["a", "b", "c"];
        let new = ["c", "d", "e", "f"];
        let mut views = Views::new(names(&old));
        assert!(!views.change(5, names(&old)));
        assert!(views.change(10, names(&new)));
        for key in 0..500 {
            let mut expected = ranked(key, new, 2);
            expected.extend(ranked(key, old, 2));
            expected.sort_unstable();
            expected.dedup();
            let mut is = homes(&views, key);
            is.sort_unstable();
            assert_eq!(is, expected);
        }
        assert!(!views.tick(VIEW_LAG_MS + 9));
        assert!(views.tick(VIEW_LAG_MS + 10));
        for key in 0..500 {
            assert_eq!(homes(&views, key), ranked(key, new, 2));
        }
    }

    #[test]
    fn two_views_that_lag_have_a_home_in_common() {
        let (old, new) = (names(&["a", "b"]), names(&["a", "b", "c", "d", "e"]));
        for (from, to) in [(old.clone(), new.clone()), (new, old)] {
            let behind = Views::new(from.clone());
            let mut ahead = Views::new(from);
            ahead.change(0, to);
            for key in 0..500 {
                let (behind, ahead) = (homes(&behind, key), homes(&ahead, key));
                assert!(behind.iter().any(|name| ahead.contains(name)), "{behind:?} and {ahead:?}");
            }
        }
    }

    #[test]
    fn a_new_instance_is_followed_when_everybody_knows_it_and_one_that_left_no_more() {
        let mut views = Views::new(names(&["a", "b"]));
        views.change(0, names(&["b", "c"]));
        assert!((0..100).all(|key| views.follow(key).is_some_and(|name| **name == *"b")));
        views.tick(VIEW_LAG_MS);
        assert!((0..100).any(|key| views.follow(key).is_some_and(|name| **name == *"c")));
        assert_eq!(Views::new(names(&[])).follow(1), None);
    }
}
