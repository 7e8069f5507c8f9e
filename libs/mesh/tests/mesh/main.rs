//! The stacks as services use them: a small tonic server, called through both.

mod admission;
mod balancing;
mod certificates;
mod connecting;
mod deadlines;
mod discovery;
mod draining;
mod identity;
mod kit;
mod loopback;
mod metrics;
mod network;
mod proxy;
mod serving;
mod statuses;
mod streams;
