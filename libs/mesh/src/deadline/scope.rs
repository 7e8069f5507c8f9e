//! What is being handled here, and until when: a task-local that a server's stack sets and a client's reads.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::Status;

use crate::call::ResponseBody;

tokio::task_local! {
    static DEADLINE: Option<Instant>;
}

/// The deadline of the call that is being handled by this task, if any.
pub(super) fn inherited() -> Option<Instant> {
    DEADLINE.try_with(|at| *at).ok().flatten()
}

pin_project! {
    /// Polls a call, and then its body, with `at` as what they inherit.
    ///
    /// `None` is set, too: in process, a handler runs in its caller's task, whose deadline is not its own.
    pub(crate) struct Scoped<T> {
        at: Option<Instant>,
        #[pin]
        inner: T,
    }
}

impl<T> Scoped<T> {
    pub(super) fn new(at: Option<Instant>, inner: T) -> Self {
        Self { at, inner }
    }
}

impl<F, B> Future for Scoped<F>
where
    F: Future<Output = Result<Response<B>, Status>>,
{
    type Output = Result<Response<Scoped<B>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let at = *this.at;
        DEADLINE.sync_scope(at, || this.inner.poll(cx)).map_ok(|response| response.map(|inner| Scoped { at, inner }))
    }
}

impl<B: ResponseBody> Body for Scoped<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        DEADLINE.sync_scope(*this.at, || this.inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
