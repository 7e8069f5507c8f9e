//! Redis as a cache that may be gone: one narrow way to it, so that no service sees the client that is used.
//!
//! What is asked is bounded in time, and what is written waits in a queue of bounded size. Where Redis fails again and again
//! it isn't asked for a while. Nobody may rely on an answer, nor on what was written being there: whoever calls this can do
//! without.
//!
//! ```text
//! address.rs   where it is     client.rs   asking     command.rs   what, and the answers     behind.rs   writing
//! ```
//!
//! ```no_run
//! # use std::time::Duration;
//! # use confab_redis::{Address, Command, Redis};
//! # async fn ask() -> Result<(), Box<dyn std::error::Error>> {
//! let address: Address = "redis-cluster://10.0.0.5:6379?node=10.0.0.6:6379".parse()?;
//! let redis = Redis::connect(&address, None)?;
//! let commands = vec![Command::new("GET", "a"), Command::new("GET", "b")];
//! let replies = redis.ask(commands, Duration::from_millis(50)).await?;
//! # Ok(()) }
//! ```

mod address;
mod behind;
mod client;
mod command;

pub use address::{Address, InvalidAddress};
pub use behind::{Behind, Weighed};
pub use client::{ConnectError, Failure, Redis};
pub use command::{Command, Reply};
