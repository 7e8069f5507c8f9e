//! The in-process transport.

use tower::ServiceBuilder;

use crate::{Identity, Peer};

/// An in-process peer: calls `server` as `identity`.
///
/// Only what would cross a network crosses here: headers and bodies. Extensions are cleared in both directions, and the
/// request's then hold the [`Identity`] alone.
#[must_use]
pub fn local(identity: Identity, server: Peer) -> Peer {
    let stack = ServiceBuilder::new()
        .map_request(move |mut request: http::Request<tonic::body::Body>| {
            request.extensions_mut().clear();
            request.extensions_mut().insert(identity.clone());
            request
        })
        .map_response(|mut response: http::Response<tonic::body::Body>| {
            response.extensions_mut().clear();
            response
        })
        .service(server);
    Peer::new(stack)
}
