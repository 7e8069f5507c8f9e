//! gRPC reflection: what a process's services look like, for `grpcurl` and the like.

use tonic_reflection::server::Builder;

use crate::{Peer, ServerConfig, server};

/// The gRPC service's name, and that of its older version, which many tools still ask.
pub const SERVICES: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The descriptors are no `FileDescriptorSet`, or lack what they import.
#[derive(Debug, thiserror::Error)]
#[error("these descriptors can't be reflected: {0}")]
pub struct BadDescriptors(String);

/// Answers from `descriptors`, an encoded `FileDescriptorSet` with its imports, and from health's and its own. One peer for
/// each of [`SERVICES`], each with a server's stack of `role`.
///
/// # Errors
/// [`BadDescriptors`]
pub fn reflection(role: &'static str, descriptors: &'static [u8]) -> Result<[(&'static str, Peer); 2], BadDescriptors> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let bad = |error: tonic_reflection::server::Error| BadDescriptors(error.to_string());
    let cfg = || ServerConfig::new(role).streaming(&["ServerReflectionInfo"]);
    let current = server(cfg(), builder().build_v1().map_err(bad)?);
    let older = server(cfg(), builder().build_v1alpha().map_err(bad)?);
    Ok([(SERVICES[0], current), (SERVICES[1], older)])
}
