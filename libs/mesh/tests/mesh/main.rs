//! The stacks as services use them: a small tonic server, called through both.

mod admission;
mod balancing;
mod breaker;
mod certificates;
mod connecting;
mod deadlines;
mod discovery;
mod draining;
mod health;
mod identity;
mod kit;
mod load;
mod loopback;
mod metrics;
mod network;
mod policy;
mod proxy;
mod reflection;
mod retries;
mod serving;
mod statuses;
mod streams;
