//! The stacks as services use them: a small tonic server, called through both.

mod admission;
mod breaker;
mod deadlines;
mod draining;
mod identity;
mod kit;
mod load;
mod metrics;
mod network;
mod policy;
mod retries;
mod statuses;
mod streams;
