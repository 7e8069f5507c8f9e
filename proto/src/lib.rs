//! The generated code of Confab's four protocols, and the bounds that their comments state; no logic. Made by `cargo xtask
//! proto` from the `.proto` files beside `src/`, which are the place to read.

#![allow(clippy::all, missing_docs, unreachable_pub)]

/// All protocols as one encoded `google.protobuf.FileDescriptorSet`, imports included, comments not: for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");

pub mod client {
    pub mod v1 {
        include!("gen/confab.client.v1.rs");
    }
}
pub mod fanout {
    pub mod v1 {
        include!("gen/confab.fanout.v1.rs");
    }
}
pub mod limits;
pub mod metadata;
pub mod message {
    pub mod v1 {
        include!("gen/confab.message.v1.rs");
    }
}
pub mod presence {
    pub mod v1 {
        include!("gen/confab.presence.v1.rs");
    }
}
