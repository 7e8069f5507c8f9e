//! The layer that lets a call in or refuses it at once, and knows when it has ended. Nothing waits here.
//!
//! Three gates stand in a server's stack: [`drain`](crate::drain), [`in_flight`](crate::in_flight) and
//! [`limit`](crate::limit).

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

pub(crate) use crate::call::Ending;
use crate::call::{CallBody, CallFuture};

/// Who is let in.
pub(crate) trait Gate: Clone {
    /// Held until the call's very end: the last of its body.
    type Pass: Ending;

    /// `path` is the request's.
    ///
    /// # Errors
    /// The refusal, as the caller gets it.
    fn admit(&self, path: &str) -> Result<Self::Pass, Status>;
}

#[derive(Clone)]
pub(crate) struct AdmissionLayer<G>(pub(crate) G);

impl<G: Clone, S> Layer<S> for AdmissionLayer<G> {
    type Service = Admission<G, S>;

    fn layer(&self, inner: S) -> Self::Service {
        let gate = self.0.clone();
        Admission { gate, inner }
    }
}

#[derive(Clone)]
pub(crate) struct Admission<G, S> {
    gate: G,
    inner: S,
}

type Refused<B, P> = Ready<Result<Response<CallBody<B, P>>, Status>>;

impl<G, S, R, B> Service<Request<R>> for Admission<G, S>
where
    G: Gate,
    S: Service<Request<R>, Response = Response<B>, Error = Status>,
{
    type Response = Response<CallBody<B, G::Pass>>;
    type Error = Status;
    type Future = Either<CallFuture<S::Future, G::Pass>, Refused<B, G::Pass>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        match self.gate.admit(request.uri().path()) {
            Ok(pass) => {
                let call = self.inner.call(request);
                Either::Left(CallFuture::new(call, pass))
            }
            Err(refusal) => Either::Right(ready(Err(refusal))),
        }
    }
}

/// A pass that is nothing but held, and given back when the call ends.
pub(crate) struct Held<P>(pub(crate) P);

impl<P: Unpin + Send + 'static> Ending for Held<P> {
    fn end(self, _code: Code) {
        drop(self.0);
    }
}
