//! Everyone at once: a thousand who read what a thousand get, thousands who watch one user or come back together, and edges that
//! end without a word. What it costs is counted here; how long thousands take is the load generator's (`docs/benchmark.md`), which
//! runs on a release build.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

mod crowd;
mod messages;
mod presence;

use tokio::sync::Mutex;

/// A storm has both cores for itself: taken for the time of each test.
static ALONE: Mutex<()> = Mutex::const_new(());
