//! Metadata that calls carry beside their messages.

/// Of `message.v1.MessageService/Converse`: the address, as the shard map has it, of the instance that the stream is for. Whoever
/// gets it passes it on to that instance, once: for an edge that can't reach it itself. Without it the stream is for whoever gets it.
pub const RELAY_TO: &str = "confab-relay-to";
