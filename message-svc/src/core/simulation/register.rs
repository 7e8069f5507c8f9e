//! A row that is changed by compare-and-set only. Who asks may not hear what came of it: then it may have happened, may yet
//! happen, or never will; what is asked next decides that first.

use std::collections::BTreeMap;

use super::chance::Chance;
use crate::core::ownership::lease::Swapped;

/// What the row is to be, `Some(None)`: removed; or `None`, if the change is refused.
pub(super) type Change<T> = Box<dyn Fn(Option<&T>) -> Option<Option<T>>>;

pub(super) struct Register<T> {
    value: Option<T>,
    /// Changes that nobody knows the outcome of.
    open: BTreeMap<u64, Change<T>>,
    next: u64,
}

impl<T> Default for Register<T> {
    fn default() -> Self {
        Self { value: None, open: BTreeMap::new(), next: 0 }
    }
}

impl<T: Clone> Register<T> {
    pub(super) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Tries a change; `Err`: its outcome is open, and [`Register::settle`] with this number decides it at last.
    pub(super) fn swap(
        &mut self,
        chance: &mut Chance,
        unknown: bool,
        change: Change<T>,
    ) -> Result<Swapped<Option<T>>, u64> {
        let mut open: Vec<u64> = self.open.keys().copied().collect();
        open.sort_unstable();
        for number in open {
            self.settle(chance, number);
        }
        if unknown {
            self.next += 1;
            self.open.insert(self.next, change);
            return Err(self.next);
        }
        match change(self.value.as_ref()) {
            Some(value) => {
                self.value = value;
                Ok(Swapped::Applied)
            }
            None => Ok(Swapped::Refused(self.value.clone())),
        }
    }

    pub(super) fn settle(&mut self, chance: &mut Chance, number: u64) {
        let Some(change) = self.open.remove(&number) else { return };
        if chance.one_in(2)
            && let Some(value) = change(self.value.as_ref())
        {
            self.value = value;
        }
    }
}
