//! Users of whom somebody has said lately that what others may see of them has changed: who begins to watch them, or watches them again
//! after a broken stream, may not have heard of it.

use std::collections::{HashMap, VecDeque};

use confab_ids::UserId;

use super::Now;

/// How long that is told, milliseconds: longer than a look-up at an edge takes, and than a broken stream is missing.
const KEPT_MS: u64 = 60_000;

/// Users at most; beyond it the oldest notice is forgotten.
const USERS_MAX: usize = if cfg!(test) { 3 } else { 100_000 };

#[derive(Debug, Default)]
pub(crate) struct Noticed {
    /// When it was said last, by [`Now::mono_ms`].
    at_ms: HashMap<UserId, u64>,
    order: VecDeque<(u64, UserId)>,
}

impl Noticed {
    pub(crate) fn note(&mut self, now: Now, user: UserId) {
        self.at_ms.insert(user, now.mono_ms);
        self.order.push_back((now.mono_ms, user));
        self.forget(now);
    }

    pub(crate) fn is_noticed(&self, now: Now, user: UserId) -> bool {
        self.at_ms.get(&user).is_some_and(|at_ms| at_ms + KEPT_MS > now.mono_ms)
    }

    /// Drops what is too old, or too much.
    pub(crate) fn forget(&mut self, now: Now) {
        while let Some((at_ms, user)) = self.order.front().copied()
            && (at_ms + KEPT_MS <= now.mono_ms || self.order.len() > USERS_MAX)
        {
            self.order.pop_front();
            if self.at_ms.get(&user) == Some(&at_ms) {
                self.at_ms.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_kept_for_a_minute_after_the_last_and_the_oldest_goes_where_there_are_many() {
        let at = |mono_ms| Now { wall_ms: 0, mono_ms };
        let mut noticed = Noticed::default();
        noticed.note(at(0), UserId(1));
        noticed.note(at(50_000), UserId(1));
        noticed.forget(at(70_000));
        assert!(noticed.is_noticed(at(70_000), UserId(1)));
        noticed.forget(at(110_000));
        assert!(!noticed.is_noticed(at(110_000), UserId(1)) && noticed.order.is_empty() && noticed.at_ms.is_empty());
        (2..=5).for_each(|user| noticed.note(at(120_000), UserId(user)));
        let kept = (2..=5).filter(|user| noticed.is_noticed(at(120_000), UserId(*user)));
        assert_eq!(Vec::from_iter(kept), [3, 4, 5]);
    }
}
