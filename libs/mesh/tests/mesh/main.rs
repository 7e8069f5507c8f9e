//! The stacks as services use them: a small tonic server, called through both.

mod admission;
mod breaker;
mod deadlines;
mod draining;
mod health;
mod identity;
mod kit;
mod load;
mod metrics;
mod network;
mod policy;
mod reflection;
mod retries;
mod statuses;
mod streams;
