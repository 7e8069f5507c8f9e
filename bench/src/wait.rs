//! Waiting: always on a condition, always with a bound.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::recorder::Complaints;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `reached`; fails as soon as there is a complaint, or after `bound`.
pub async fn until(bound: Duration, complaints: &Complaints, mut reached: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + bound;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        complaints.check()?;
        if reached() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("not within {bound:?}");
        }
    }
}
