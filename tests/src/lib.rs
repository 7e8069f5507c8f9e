//! The harness of Confab's end-to-end, fault and conformance tests; the tests themselves are in `tests/tests/`.
//!
//! - [`checker`]: judges a recorded history: nothing lost, nothing twice, in order. Pure.
//! - [`harness`]: a real server process to kill and restart, tokens, and clients that speak the public protocol.
//! - [`lossy_fs`]: a disk that forgets what was not synced; [`power`] runs stores on it.
//! - [`roam`]: clients that drop and reconnect at random, for the checker.
//! - [`cluster`]: a mesh on this machine for a person to try out.
//! - [`faults`]: what befalls a mesh on Cassandra, and what may come of it.
//! - [`foreign`]: installs and runs clients that others wrote.
//!
//! Every random choice comes from a seed that is printed; `CONFAB_SEED` sets it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test prints is what its reader sees")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod checker;
pub mod cluster;
pub mod faults;
pub mod foreign;
pub mod harness;
pub mod held_write;
pub mod lossy_fs;
pub mod power;
pub mod roam;
