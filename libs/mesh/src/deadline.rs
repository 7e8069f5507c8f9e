//! Deadlines that hold in process and over networks, from the edge to the last hop.
//!
//! - A **client** stack gives every call a `grpc-timeout`: the one that the caller set, else its configured timeout, but
//!   never more than what is left of the call that is being handled. So it shrinks at every hop.
//! - A **server** stack keeps to it, capped; a call without one gets a default.
//! - Both end a call that is late, be it before its response's head or in the midst of its body, with
//!   `DeadlineExceeded`, and drop what was under way.
//!
//! Methods that are configured as `streaming` live as long as they like: they have a deadline only if they bring one.
//!
//! What is left travels along in a task-local, which `tokio::spawn` does not inherit: a handler that spawns its calls
//! reads [`remaining`] first and sets their timeout itself.

pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod wire;

mod scope;
mod timed;

use std::time::Duration;

use tokio::time::Instant;

/// How long the call that is being handled here may still take; zero if it is late already, `None` if there is no such
/// call or it has no deadline.
#[must_use]
pub fn remaining() -> Option<Duration> {
    let at = scope::inherited()?;
    Some(at.saturating_duration_since(Instant::now()))
}

/// An instant, and what to say when it has passed.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    /// `message-svc did not …`
    late: &'static str,
    service: &'static str,
}

impl Deadline {
    fn status(self) -> tonic::Status {
        tonic::Status::deadline_exceeded(format!("{}: {}", self.service, self.late))
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.at
    }
}
