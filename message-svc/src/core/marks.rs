//! One member's watermarks in one chat: only ever raised.

use confab_ids::Seq;

/// Devices remembered per member and chat; the one that said something longest ago goes first.
pub(crate) const DEVICES_MAX: usize = 20;

/// How long a member's further receipts wait after one, milliseconds.
pub(crate) const RECEIPT_EVERY_MS: u64 = 5_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub read: Seq,
    /// The member's own last send.
    pub own: Seq,
    /// By device, the least recently raised first.
    pub devices: Vec<(String, Seq)>,
}

impl Marks {
    /// The highest delivered over the devices.
    pub(crate) fn delivered(&self) -> Seq {
        self.devices.iter().map(|(_, seq)| *seq).max().unwrap_or(Seq::ZERO).max(self.read)
    }

    pub(crate) fn confirmed(&self, device: &str) -> Option<Seq> {
        self.devices.iter().find(|(name, _)| name == device).map(|(_, seq)| *seq)
    }

    /// Raises what is higher; says whether the device's own marks or the member's changed.
    pub(crate) fn raise(&mut self, device: &str, delivered: Seq, read: Seq) -> bool {
        let delivered = delivered.max(read);
        let mut changed = read > self.read;
        self.read = self.read.max(read);
        match self.devices.iter().position(|(name, _)| name == device) {
            Some(at) if self.devices[at].1 >= delivered => {}
            Some(at) => {
                let mut entry = self.devices.remove(at);
                entry.1 = delivered;
                self.devices.push(entry);
                changed = true;
            }
            None => {
                if self.devices.len() == DEVICES_MAX {
                    self.devices.remove(0);
                }
                self.devices.reserve_exact(1);
                self.devices.push((device.to_owned(), delivered));
                changed = true;
            }
        }
        changed
    }
}

/// When a member's next receipt may go out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReceiptClock {
    next_ms: u64,
    scheduled: bool,
}

impl ReceiptClock {
    /// A watermark changed: `Ok` to tell now, `Err(Some(due))` to come back then, `Err(None)` when that is arranged.
    pub(crate) fn changed(&mut self, now_ms: u64) -> Result<(), Option<u64>> {
        if self.scheduled {
            return Err(None);
        }
        if now_ms >= self.next_ms {
            self.next_ms = now_ms + RECEIPT_EVERY_MS;
            return Ok(());
        }
        self.scheduled = true;
        Err(Some(self.next_ms))
    }

    pub(crate) fn is_scheduled(&self) -> bool {
        self.scheduled
    }

    /// The scheduled receipt goes out.
    pub(crate) fn told(&mut self, now_ms: u64) {
        self.scheduled = false;
        self.next_ms = now_ms + RECEIPT_EVERY_MS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_only_rise_and_read_implies_delivered() {
        let mut marks = Marks::default();
        assert!(marks.raise("a", Seq(5), Seq::ZERO));
        assert!(!marks.raise("a", Seq(3), Seq::ZERO));
        assert!(marks.raise("b", Seq::ZERO, Seq(7)));
        assert_eq!((marks.delivered(), marks.read), (Seq(7), Seq(7)));
        assert_eq!(marks.confirmed("a"), Some(Seq(5)));
        assert_eq!(marks.confirmed("b"), Some(Seq(7)));
    }

    #[test]
    fn the_device_that_was_silent_longest_is_forgotten_first() {
        let mut marks = Marks::default();
        for n in 0..DEVICES_MAX as u64 {
            marks.raise(&n.to_string(), Seq(n + 1), Seq::ZERO);
        }
        marks.raise("0", Seq(99), Seq::ZERO);
        marks.raise("new", Seq(1), Seq::ZERO);
        assert_eq!(marks.confirmed("1"), None);
        assert_eq!(marks.confirmed("0"), Some(Seq(99)));
        assert_eq!(marks.devices.len(), DEVICES_MAX);
    }

    #[test]
    fn the_first_receipt_goes_at_once_and_then_one_per_interval() {
        let mut clock = ReceiptClock::default();
        assert_eq!(clock.changed(1_000), Ok(()));
        assert_eq!(clock.changed(1_001), Err(Some(6_000)));
        assert_eq!(clock.changed(1_002), Err(None));
        clock.told(6_000);
        assert_eq!(clock.changed(6_001), Err(Some(11_000)));
    }
}
