//! Each role in processes of their own: a mesh over mutual TLS, as a cluster has it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

mod chatting;
mod draining;
mod grpcurl;
mod polling;
mod redis;
mod refusals;
mod relaying;
mod watching;
