//! Which service a call is for.

use std::{
    collections::BTreeMap,
    future::{Ready, ready},
    sync::Arc,
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{ServiceExt, util::Oneshot};

use crate::{Peer, method::Method};

type Answer = Either<Oneshot<Peer, Request<Body>>, Ready<Result<Response<Body>, Status>>>;

/// One peer of several services, told apart by their full gRPC names (`confab.message.v1.MessageService`), as in a path
/// `/confab.message.v1.MessageService/Converse`.
///
/// A call of a service that is not among them is answered `Unimplemented`. Of two with the same name the last counts.
#[must_use]
pub fn route<N: Into<Arc<str>>>(services: impl IntoIterator<Item = (N, Peer)>) -> Peer {
    let services: BTreeMap<Arc<str>, Peer> = services.into_iter().map(|(name, peer)| (name.into(), peer)).collect();
    let services = Arc::new(services);
    Peer::new(tower::service_fn(move |request: Request<Body>| -> Answer {
        let service = Method::of_path(request.uri().path()).service;
        match services.get(service) {
            Some(peer) => Either::Left(peer.clone().oneshot(request)),
            None => Either::Right(ready(Ok(unknown(service)))),
        }
    }))
}

fn unknown(service: &str) -> Response<Body> {
    Status::unimplemented(format!("no service {service:?} here")).into_http()
}
