//! "Bad input": each answered as the protocol says, the connection kept where it says so, the next frame handled.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

mod flood;
mod frames;
mod http;
mod issuer;
mod limits;
mod tokens;
mod websocket;
