//! Who may talk to whom: handshakes, reloading, and what the server's stack makes of certificates and tokens.
//!
//! A process of its own, for its one log is looked at.

mod authority;
mod handshakes;
mod log;
mod loopback;
mod refusals;
mod reload;

#[expect(dead_code, reason = "the other tests' part of it")]
#[path = "../mesh/kit.rs"]
mod kit;
