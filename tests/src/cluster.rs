//! A cluster on this machine, for a person to try out: two of each role over mutual TLS, three nodes of Cassandra, a Redis
//! cluster, nginx in front. `cargo xtask cluster` runs it, by the binary `confab-cluster`.
//!
//! Nothing watches over it: its processes are on their own, and [`state`] says which they are. Every command looks there.
//!
//! ```text
//! verbs.rs    up, status, restart, down     state.rs   the folder, and what is in it     sample.rs  looks at each process
//! plan.rs     what is started, and where    launch.rs  starting and ending               table.rs   what a person sees of it
//! stores.rs   Cassandra and Redis           nginx.rs   the proxy's settings              screen.rs  the terminal
//! shards.rs   who owns how many of them     kernel.rs  processes and sockets             probe.rs   who is ready
//! check.rs    tries all of it
//! ```

pub mod check;
pub mod kernel;
pub mod launch;
pub mod nginx;
pub mod plan;
pub mod probe;
pub mod sample;
pub mod screen;
pub mod shards;
pub mod state;
pub mod stores;
pub mod table;
pub mod verbs;
