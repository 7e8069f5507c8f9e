//! The fault table: what befalls a mesh on Cassandra under load, and what may come of it. Nothing that was acked is lost,
//! doubled or out of order; messages flow again within a bound; who isn't touched hardly feels it.
//!
//! ```text
//! table.rs   the rows            load.rs      who talks, and how much       capacity.rs   how much of it the mesh takes
//! cluster.rs runs a row          strikes.rs   what happens to the mesh      report.rs     docs/faults.md
//! paths.rs   who is touched      watching.rs  the figures of a run          cut.rs        packets that vanish
//! wiring.rs  meshes of their own proxy.rs     an endpoint that is slow
//! ```

mod capacity;
mod cluster;
mod cut;
mod load;
mod paths;
mod proxy;
mod report;
mod strikes;
mod table;
mod watching;
mod wiring;

pub use capacity::{Capacity, measure};
pub use cluster::{Cluster, Outcome};
pub use load::{Load, Population, SHARE};
pub use report::Page;
pub use table::{BASELINE, Row, Strike, TABLE, row};
pub use watching::{Figures, Spread};
pub use wiring::{UPGRADE_FROM, Wiring};
