//! A fault on purpose, for the control of the fault tests; only in programs built with the feature `failpoints`.
//!
//! While the file that `FAILPOINT_HOLD` names exists, this owner's writes and the renewals of its lease are on their way
//! and do not arrive. What was on its way arrives when the file is gone, whatever the owner wants by then, as it can from a
//! network. With `FAILPOINT_UNFENCED=1` such a write takes its timestamp when it arrives, as one without a timestamp of
//! its own does: then nothing fences it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::core::owner::Write;
use crate::store::Store;

const LOOK: Duration = Duration::from_millis(10);

fn file() -> Option<PathBuf> {
    std::env::var_os("FAILPOINT_HOLD").map(PathBuf::from).filter(|file| file.exists())
}

/// Writes are held now.
pub(super) fn is_holding() -> bool {
    file().is_some()
}

/// Waits while writes are held.
pub(super) async fn released() {
    while is_holding() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Has the write arrive late, if writes are held.
pub(super) fn delay(store: &impl Store, write: &Write) {
    if !is_holding() {
        return;
    }
    let unfenced = std::env::var_os("FAILPOINT_UNFENCED").is_some();
    let (store, rows, stamp) = (store.clone(), write.rows.clone(), write.stamp);
    drop(tokio::spawn(async move {
        released().await;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(wall.as_micros()).unwrap_or(i64::MAX);
        let stored = store.commit(rows, if unfenced { now } else { stamp }).await;
        tracing::warn!(unfenced, stored = stored.is_ok(), "failpoint: a held write has arrived");
    }));
}
