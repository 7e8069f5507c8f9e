//! The client's layer that tries a call again: unary calls of methods that are named idempotent, and only while nobody
//! has answered them, or with `Unavailable`.
//!
//! A try follows after a backoff of 25 ms, then 50 ms, each ± 50 %, or after what the server asks for. All tries of all
//! calls come out of one budget per client, so that a service in trouble gets at most a tenth more calls, and not three
//! times as many: tower's [`TpsBudget`], which is finagle's and linkerd's.

mod request;
mod verdict;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tonic::{Status, body::Body};
use tower::{
    Layer, Service,
    retry::budget::{Budget, TpsBudget},
};

use self::{
    request::{Gathered, gather},
    verdict::Verdict,
};
use crate::{ClientConfig, deadline::wire, method::Method};

/// Tries after the first.
const RETRIES_MAX: u32 = 2;
/// Before the first of them; doubles.
const BACKOFF: Duration = Duration::from_millis(25);
/// How long a call counts for the budget.
const BUDGET_TTL: Duration = Duration::from_secs(10);
/// What may be tried again whatever the rate of calls, per second; up to ten seconds' worth at once.
const BUDGET_RESERVE: u32 = 10;
/// The part of calls that may be tried again beyond that.
const BUDGET_RATIO: f32 = 0.1;

/// Its budget is shared by all clones of the client's stack.
#[derive(Clone)]
pub(crate) struct RetryLayer {
    idempotent: &'static [&'static str],
    budget: Arc<TpsBudget>,
}

impl RetryLayer {
    pub(crate) fn new(cfg: &ClientConfig) -> Self {
        let budget = Arc::new(TpsBudget::new(BUDGET_TTL, BUDGET_RESERVE, BUDGET_RATIO));
        Self { idempotent: cfg.idempotent, budget }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { layer: self.clone(), inner }
    }
}

#[derive(Clone)]
pub(crate) struct Retry<S> {
    layer: RetryLayer,
    inner: S,
}

impl<S, B> Service<Request<Body>> for Retry<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Status> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = Status;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<B>, Status>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !self.layer.idempotent.contains(&Method::of_path(request.uri().path()).name) {
            return Either::Left(self.inner.call(request));
        }
        // The one that is ready; its clone is made ready anew.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        Either::Right(Box::pin(call(inner, request, Arc::clone(&self.layer.budget))))
    }
}

async fn call<S, B>(mut inner: S, request: Request<Body>, budget: Arc<TpsBudget>) -> Result<Response<B>, Status>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Status>,
{
    // What the layer above wrote there a moment ago.
    let deadline = wire::read(request.headers())?.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut request = match gather(request).await? {
        Gathered::Whole(request) => request,
        Gathered::TooLarge(request) => return inner.call(request).await,
    };
    budget.deposit();
    for retries in 0..RETRIES_MAX {
        let result = inner.call(request.replay()).await;
        let Some(pause) = pause(&Verdict::of(&result), retries) else {
            return result;
        };
        // Not a try that could only be late: what went wrong says more than that.
        let too_late = deadline.is_some_and(|at| at.saturating_duration_since(Instant::now()) <= pause);
        if too_late || !budget.withdraw() {
            return result;
        }
        sleep(pause).await;
        poll_fn(|cx| inner.poll_ready(cx)).await?;
        request.set_try(retries + 1, deadline.map(|at| at.saturating_duration_since(Instant::now())));
    }
    inner.call(request.last()).await
}

/// How long to wait before trying again, or `None` if that is not to be.
fn pause(verdict: &Verdict, retries: u32) -> Option<Duration> {
    match *verdict {
        Verdict::Final => None,
        Verdict::Again { after: None } => Some((BACKOFF * 2_u32.pow(retries)).mul_f64(rand::random_range(0.5..1.5))),
        // At least that, and not all of its callers in the same moment.
        Verdict::Again { after: Some(asked) } => Some(asked.mul_f64(rand::random_range(1.0..1.25))),
    }
}
