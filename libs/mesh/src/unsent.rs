//! Requests that no server has seen, given back by a peer with its error: whoever called may try another peer.
//!
//! A request's body cannot be cloned, so that a call may only be tried again if its peer gives the request back whole.
//! It travels as the [source](std::error::Error::source) of the [`Status`].

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use http::Request;
use tonic::{Status, body::Body};

/// `status`, and with it the request that was not sent.
#[must_use]
pub fn give_back(mut status: Status, request: Request<Body>) -> Status {
    status.set_source(Arc::new(Unsent(Mutex::new(Some(request)))));
    status
}

/// The request that came back with `status`, if one did; the first time it is asked for.
#[must_use]
pub fn take(status: &Status) -> Option<Request<Body>> {
    let unsent = status.source()?.downcast_ref::<Unsent>()?;
    unsent.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Whether the request of `status` was not sent, wherever it is now.
pub(crate) fn is_source_of(status: &Status) -> bool {
    status.source().is_some_and(|source| source.is::<Unsent>())
}

/// The lock only makes it `Sync`, as a source must be.
struct Unsent(Mutex<Option<Request<Body>>>);

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsent")
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl Error for Unsent {}

#[cfg(test)]
mod tests {
    use super::{Body, Request, Status, give_back, is_source_of, take};

    #[test]
    fn a_request_comes_back_once() {
        let request = Request::post("/a.v1.A/Get").body(Body::empty()).expect("valid");
        let status = give_back(Status::unavailable("no connection"), request);
        let back = take(&status).expect("given back");
        assert_eq!(back.uri(), "/a.v1.A/Get");
        assert!(take(&status).is_none() && is_source_of(&status));
        let sent = Status::unavailable("sent");
        assert!(take(&sent).is_none() && !is_source_of(&sent));
    }
}
