//! What is measured of Confab, one scenario per file; each starts its own server on a fresh data folder.

pub mod group;
pub mod memory;
pub mod one_to_one;
pub mod presence;
pub mod reconnect;
pub mod slow_client;
