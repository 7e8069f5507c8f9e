//! A call, and then its body, that ends when its deadline passes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{
    task::coop::unconstrained,
    time::{Sleep, sleep_until},
};
use tonic::{Code, Status};

use super::Deadline;
use crate::call::{ResponseBody, code_in};

pin_project! {
    /// Resolves to `DeadlineExceeded` when it is late; what it waited for is dropped then.
    pub(crate) struct Timed<F> {
        #[pin]
        inner: Option<F>,
        deadline: Option<Deadline>,
        // Made only when there is something to wait for: most calls are done before.
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl<F> Timed<F> {
    pub(super) fn new(deadline: Option<Deadline>, inner: F) -> Self {
        Self { inner: Some(inner), deadline, sleep: None }
    }
}

impl<F, B> Future for Timed<F>
where
    F: Future<Output = Result<Response<B>, Status>>,
{
    type Output = Result<Response<TimedBody<B>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let deadline = *this.deadline;
        let polled = inner.poll(cx);
        let Some(deadline) = deadline else {
            return polled.map_ok(|response| response.map(|body| TimedBody::new(None, body)));
        };
        if let Poll::Ready(result) = polled {
            return Poll::Ready(answered(result, deadline));
        }
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline.at)));
        }
        match this.sleep.as_pin_mut().map(|sleep| is_over(sleep, cx)) {
            Some(true) => {
                this.inner.set(None);
                Poll::Ready(Err(deadline.status()))
            }
            _ => Poll::Pending,
        }
    }
}

/// What failed once the deadline had passed failed because of it: tonic's transports keep to `grpc-timeout`, too, say
/// `Cancelled` when it has passed, and may be the first to notice.
fn answered<B>(result: Result<Response<B>, Status>, deadline: Deadline) -> Result<Response<TimedBody<B>>, Status> {
    let failed = match &result {
        Ok(response) => code_in(response.headers()) == Some(Code::Cancelled),
        Err(_) => true,
    };
    if failed && deadline.is_over() {
        return Err(deadline.status());
    }
    result.map(|response| response.map(|body| TimedBody::new(Some(deadline), body)))
}

/// Ends with `DeadlineExceeded` in its trailers when it is late; what it waited for is dropped then.
///
/// Noticed when it is polled, as any body is while its reader reads: one that nobody polls keeps what it holds until it
/// is dropped.
pub(crate) struct TimedBody<B> {
    inner: Option<B>,
    deadline: Option<Deadline>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> TimedBody<B> {
    fn new(deadline: Option<Deadline>, inner: B) -> Self {
        Self { inner: Some(inner), deadline, sleep: None }
    }

    fn end_late(&mut self, deadline: Deadline) -> Option<Result<Frame<Bytes>, Status>> {
        self.inner = None;
        let mut trailers = HeaderMap::new();
        let added = deadline.status().add_header(&mut trailers);
        Some(added.map(|()| Frame::trailers(trailers)))
    }
}

impl<B: ResponseBody> Body for TimedBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(inner).poll_frame(cx);
        let Some(deadline) = this.deadline else {
            return polled;
        };
        let late = match &polled {
            Poll::Pending => {
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline.at)));
                is_over(sleep.as_mut(), cx)
            }
            // One that always has something to say is late, too.
            Poll::Ready(Some(Ok(frame))) => frame.is_data() && deadline.is_over(),
            Poll::Ready(Some(Err(_))) => deadline.is_over(),
            // The end is the end.
            Poll::Ready(None) => false,
        };
        if late {
            return Poll::Ready(this.end_late(deadline));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // Not the inner one's exact size, which being late may cut short.
        SizeHint::default()
    }
}

/// A busy task's used-up budget must not keep its deadline from being seen, hence unconstrained.
fn is_over(sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    Pin::new(&mut unconstrained(sleep)).poll(cx).is_ready()
}
