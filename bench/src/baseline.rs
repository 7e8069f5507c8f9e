//! What the same machine does without Confab, so that a figure means something on another machine.

pub mod append;
pub mod echo;
pub mod write_loop;
