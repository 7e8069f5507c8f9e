//! A call from its beginning to its very end: response head, body, trailers.
//!
//! A gRPC call is not over when its service's future is: its code comes in the trailers, after a body that may last for
//! hours. Layers that count, time, trace or admit calls put an [`Ending`] around them with [`CallFuture`].

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};

/// A response body that layers can wrap without boxing it: [`tonic::body::Body`] and what they made of it.
pub(crate) trait ResponseBody: Body<Data = Bytes, Error = Status> + Unpin + Send + 'static {}
impl<B> ResponseBody for B where B: Body<Data = Bytes, Error = Status> + Unpin + Send + 'static {}

/// What to do when a call ends. It is called once, whichever way that happens.
pub(crate) trait Ending: Unpin + Send + 'static {
    /// `code` is what the caller gets to see; `Cancelled` if the caller left first, `Unknown` if a body ended without a
    /// status.
    fn end(self, code: Code);
}

pin_project! {
    /// Ends `ending` with the call: with an error, a head that has a status, the body's end, or when dropped.
    pub(crate) struct CallFuture<F, E: Ending> {
        #[pin]
        inner: F,
        ending: Once<E>,
    }
}

impl<F, E: Ending> CallFuture<F, E> {
    pub(crate) fn new(inner: F, ending: E) -> Self {
        let ending = Once(Some(ending));
        Self { inner, ending }
    }
}

impl<F, B, E> Future for CallFuture<F, E>
where
    F: Future<Output = Result<Response<B>, Status>>,
    E: Ending,
{
    type Output = Result<Response<CallBody<B, E>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut ending = Once(this.ending.0.take());
        Poll::Ready(match result {
            Ok(response) => Ok(with_head(response, ending)),
            Err(status) => {
                ending.end(status.code());
                Err(status)
            }
        })
    }
}

/// Ends `ending` with what is left of a call whose head is there.
pub(crate) fn answered<B, E: Ending>(response: Response<B>, ending: E) -> Response<CallBody<B, E>> {
    with_head(response, Once(Some(ending)))
}

fn with_head<B, E: Ending>(response: Response<B>, mut ending: Once<E>) -> Response<CallBody<B, E>> {
    if let Some(code) = code_in(response.headers()) {
        ending.end(code);
    }
    response.map(|inner| CallBody { inner, ending })
}

/// The body of a call that has an [`Ending`].
pub(crate) struct CallBody<B, E: Ending> {
    inner: B,
    ending: Once<E>,
}

impl<B: ResponseBody, E: Ending> Body for CallBody<B, E> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.ending.end(code_in(trailers).unwrap_or(Code::Unknown));
                }
            }
            Some(Err(status)) => self.ending.end(status.code()),
            None => self.ending.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Sees to it that an ending happens once.
struct Once<E: Ending>(Option<E>);

impl<E: Ending> Once<E> {
    fn end(&mut self, code: Code) {
        if let Some(ending) = self.0.take() {
            ending.end(code);
        }
    }
}

impl<E: Ending> Drop for Once<E> {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The status of a head that has no body, or of trailers.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// The code's name in the gRPC specification: what dashboards and other languages show.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
