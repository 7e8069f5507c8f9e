//! Calls to one instance.

use std::sync::Arc;

use http::{
    Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tonic::{Status, body::Body};

use super::open::{Open, Place};
use crate::{Peer, call::CallFuture, unsent};

/// Calls over the connections that are `open` at the time.
pub(super) fn peer(open: &Arc<Open>, tls: bool) -> Peer {
    let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
    let authority = Authority::try_from(open.whom.address.as_ref()).ok();
    let open = Arc::clone(open);
    Peer::new(tower::service_fn(move |mut request: Request<Body>| {
        if let Some(authority) = &authority {
            *request.uri_mut() = full(request.uri(), scheme.clone(), authority.clone());
        }
        let open = Arc::clone(&open);
        async move { call(&open, request).await }
    }))
}

/// HTTP/2 wants to know the scheme and the host, too.
fn full(uri: &Uri, scheme: Scheme, authority: Authority) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority, parts.path_and_query) = (Some(scheme), Some(authority), Some(path));
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Tries each connection that is open; one that gives the request back takes no more calls.
async fn call(open: &Open, mut request: Request<Body>) -> Result<Response<Body>, Status> {
    loop {
        let (number, sender, place) = match open.choose() {
            Ok(chosen) => chosen,
            Err(none) => return Err(unsent::give_back(none, request)),
        };
        match over(open, sender, place, request).await {
            Ok(response) => return Ok(response),
            Err(Failed::Broken(status)) => return Err(status),
            Err(Failed::Unsent(back)) => {
                open.remove(number);
                request = *back;
            }
        }
    }
}

enum Failed {
    Unsent(Box<Request<Body>>),
    Broken(Status),
}

async fn over(
    open: &Open,
    mut sender: SendRequest<Body>,
    place: Place,
    request: Request<Body>,
) -> Result<Response<Body>, Failed> {
    let mut back = None;
    let sent = async {
        let answered = sender.try_send_request(request).await;
        let response = answered.map_err(|mut error| {
            back = error.take_message().map(Box::new);
            open.whom.broken(error.error())
        })?;
        let whom = open.whom.clone();
        Ok(response.map(|body: Incoming| body.map_err(move |error| whom.broken(&error))))
    };
    let answered = CallFuture::new(sent, place).await;
    match (answered, back) {
        (Ok(response), _) => Ok(response.map(Body::new)),
        (Err(_), Some(request)) => Err(Failed::Unsent(request)),
        (Err(status), None) => Err(Failed::Broken(status)),
    }
}
