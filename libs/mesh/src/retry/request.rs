//! A request that can be sent more than once.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Request, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tonic::{Status, body::Body};

use crate::deadline::wire;

/// A larger request is sent on as it comes, and once.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Of gRFC A6: how many tries came before this one.
const PREVIOUS: &str = "grpc-previous-rpc-attempts";

pub(super) enum Gathered {
    Whole(Replayable),
    TooLarge(Request<Body>),
}

/// Reads a request's body to its end, or to the bound.
///
/// # Errors
/// What the body fails with.
pub(super) async fn gather(request: Request<Body>) -> Result<Gathered, Status> {
    let (mut head, mut body) = request.into_parts();
    // The client's stack clears them before they go out: each try without a copy.
    head.extensions.clear();
    let mut whole = Bytes::new();
    while let Some(frame) = body.frame().await {
        // A request has no trailers in gRPC.
        let Ok(data) = frame?.into_data() else { continue };
        whole = joined(whole, data);
        if whole.len() > BODY_BYTES_MAX {
            let begun = stream::iter([Ok(whole)]);
            let all = begun.chain(body.into_data_stream()).map_ok(Frame::data);
            return Ok(Gathered::TooLarge(Request::from_parts(head, Body::new(StreamBody::new(all)))));
        }
    }
    Ok(Gathered::Whole(Replayable { head, body: whole }))
}

/// tonic sends a message as one frame: then nothing is copied.
fn joined(whole: Bytes, data: Bytes) -> Bytes {
    if whole.is_empty() {
        return data;
    }
    let mut both = BytesMut::from(whole);
    both.extend_from_slice(&data);
    both.freeze()
}

pub(super) struct Replayable {
    head: Parts,
    body: Bytes,
}

impl Replayable {
    pub(super) fn replay(&self) -> Request<Body> {
        Request::from_parts(self.head.clone(), Body::new(Full::new(self.body.clone())))
    }

    pub(super) fn last(self) -> Request<Body> {
        Request::from_parts(self.head, Body::new(Full::new(self.body)))
    }

    /// What the next try says of itself: how many came before it, and what is left of the call's time.
    pub(super) fn set_try(&mut self, before: u32, left: Option<Duration>) {
        self.head.headers.insert(PREVIOUS, HeaderValue::from(before));
        if let Some(left) = left {
            wire::write(&mut self.head.headers, left);
        }
    }
}
