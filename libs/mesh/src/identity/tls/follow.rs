//! Looks whether the files have changed.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::UnixTime;
use tokio::time::sleep;

use super::{Credentials, Files, files::Material};

const EVERY: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// From then on the log says that a certificate ends.
const WARN_BEFORE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Never ends.
pub(super) async fn follow(credentials: Credentials) {
    // Whatever they were when they were loaded: they are read once more.
    let (mut taken, mut seen) = (None, None);
    let mut warned: Option<UnixTime> = None;
    loop {
        warn_of_end(&credentials, UnixTime::now(), &mut warned);
        sleep(EVERY).await;
        let now = stamp(&credentials.files);
        // Three files are not written at once: what still changes is not looked at yet.
        if now == seen && now != taken {
            taken.clone_from(&now);
            take(&credentials).await;
        }
        seen = now;
    }
}

async fn take(credentials: &Credentials) {
    let files = Arc::clone(&credentials.files);
    let loaded = tokio::task::spawn_blocking(move || Material::load(&files, UnixTime::now())).await;
    match loaded {
        Ok(Ok(material)) => {
            tracing::info!(identity = %material.identity, "the certificate files are read");
            credentials.current.send_replace(Arc::new(material));
        }
        Ok(Err(error)) => tracing::warn!(%error, "the new certificate files are no good: the old ones hold"),
        Err(panicked) => tracing::error!(%panicked, "reading the certificate files: the old ones hold"),
    }
}

fn warn_of_end(credentials: &Credentials, now: UnixTime, warned: &mut Option<UnixTime>) {
    let today = warned.is_some_and(|at| now.as_secs().saturating_sub(at.as_secs()) < DAY.as_secs());
    if today {
        return;
    }
    let material = credentials.current.borrow().clone();
    if let Some(end) = material.ends_within(WARN_BEFORE, now) {
        let hours_left = end.as_secs().saturating_sub(now.as_secs()) / 3_600;
        let file = credentials.files.cert.display();
        tracing::warn!(%file, identity = %material.identity, hours_left, "the certificate ends soon");
        *warned = Some(now);
    }
}

/// Of each file: when it was changed, and its length.
type Stamp = [Option<(SystemTime, u64)>; 3];

fn stamp(files: &Files) -> Option<Stamp> {
    let of = |path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    Some([of(&files.cert), of(&files.key), of(&files.authorities)])
}
