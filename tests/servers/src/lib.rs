//! Real servers for tests, by the scripts in `tests/services/`: on free ports, with folders of their own, and gone with the
//! process that started them, however that ends.

mod cassandra;
mod metrics;
mod ports;
mod redis;
mod script;

pub use cassandra::Cassandra;
pub use redis::{Mode, Redis};
