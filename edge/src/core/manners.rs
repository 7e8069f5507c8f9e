//! Bad frames: each is answered, many slow the connection down, too many end it.

const SHORT_MS: u64 = 10_000;
const SHORT_MAX: u32 = 20;
const LONG_MS: u64 = 60_000;
const LONG_MAX: u32 = 2_000;

/// How long reading pauses for each bad frame of a connection that sends many, milliseconds.
const PAUSE_MS: u64 = 20;

/// What a bad frame leads to, beside its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    None,
    /// Tell the client once that it is slowed down, then pause.
    Warn {
        pause_until_ms: u64,
    },
    Pause {
        pause_until_ms: u64,
    },
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since_ms: u64,
    count: u32,
}

impl Window {
    fn add(&mut self, now_ms: u64, length_ms: u64) -> u32 {
        if now_ms >= self.since_ms + length_ms {
            *self = Self { since_ms: now_ms, count: 0 };
        }
        self.count += 1;
        self.count
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    short: Window,
    long: Window,
    /// The client was told; until ten seconds with few bad frames have passed, each one pauses.
    warned: bool,
}

impl Manners {
    pub(crate) fn new() -> Self {
        let window = Window { since_ms: 0, count: 0 };
        Self { short: window, long: window, warned: false }
    }

    pub(crate) fn bad_frame(&mut self, now_ms: u64) -> Consequence {
        if self.long.add(now_ms, LONG_MS) > LONG_MAX {
            return Consequence::Close;
        }
        let calm = self.short.count <= SHORT_MAX || now_ms >= self.short.since_ms + 2 * SHORT_MS;
        let over = now_ms >= self.short.since_ms + SHORT_MS;
        self.warned &= !(over && calm);
        let count = self.short.add(now_ms, SHORT_MS);
        let pause_until_ms = now_ms + PAUSE_MS;
        match (self.warned, count > SHORT_MAX) {
            (true, _) => Consequence::Pause { pause_until_ms },
            (false, false) => Consequence::None,
            (false, true) => {
                self.warned = true;
                Consequence::Warn { pause_until_ms }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_21st_in_ten_seconds_warns_once_and_the_2001st_in_a_minute_closes() {
        let mut manners = Manners::new();
        for _ in 0..20 {
            assert_eq!(manners.bad_frame(5), Consequence::None);
        }
        assert_eq!(manners.bad_frame(5), Consequence::Warn { pause_until_ms: 25 });
        for _ in 21..2_000 {
            assert_eq!(manners.bad_frame(5), Consequence::Pause { pause_until_ms: 25 });
        }
        assert_eq!(manners.bad_frame(6), Consequence::Close);
        assert_eq!(manners.bad_frame(70_000), Consequence::None);
    }

    #[test]
    fn one_long_spell_is_warned_of_once() {
        let mut manners = Manners::new();
        let warnings = (0..1_000).filter(|n| matches!(manners.bad_frame(n * 20), Consequence::Warn { .. })).count();
        assert_eq!(warnings, 1);
        assert_eq!(manners.bad_frame(60_000), Consequence::None);
    }
}
