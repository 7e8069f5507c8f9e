//! Randomness from a seed: the same seed, the same schedule.

/// SplitMix64 (Steele, Lea, Flood, 2014).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `below` - 1.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// One time in `of`.
    pub(super) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// How long something is under way, milliseconds: mostly short, sometimes beyond a lease.
    pub(super) fn delay(&mut self) -> u64 {
        match self.below(100) {
            0..70 => self.between(1, 5),
            70..90 => self.between(1, 50),
            90..97 => self.between(50, 1_000),
            97..99 => self.between(500, 4_000),
            _ => self.between(4_000, 15_000),
        }
    }
}
