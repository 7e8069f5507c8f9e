//! The balancer as a peer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;

use super::{
    BalanceConfig,
    core::{Choice, Core, Outcome},
};
use crate::{
    Members, Peer, Pool,
    call::{Ending, answered, code_in},
    method::Method,
    unsent,
};

/// Calls whichever of the pool's instances suits best: see the fields of [`BalanceConfig`].
///
/// A call that an instance gave back [unsent](crate::unsent) is tried on another at once. With nobody to call it fails at
/// once with `Unavailable`, which says whom it was to, and gives the request back.
#[must_use]
pub fn balanced(pool: Pool, cfg: BalanceConfig) -> Peer {
    let (attempts, streaming) = (cfg.attempts.max(1), cfg.streaming);
    let balancer = Arc::new(Balancer { pool, attempts, streaming, state: Mutex::new(State::new(cfg)) });
    Peer::new(tower::service_fn(move |request| call(Arc::clone(&balancer), request)))
}

struct Balancer {
    pool: Pool,
    attempts: usize,
    streaming: &'static [&'static str],
    /// Shared by all calls, held for a look at the instances: microseconds, and never across a wait.
    state: Mutex<State>,
}

struct State {
    core: Core,
    synced: Option<Members>,
}

impl State {
    fn new(cfg: BalanceConfig) -> Self {
        Self { core: Core::new(cfg), synced: None }
    }
}

impl Balancer {
    /// # Errors
    /// `Unavailable` if there is nobody.
    fn choose(&self, tried: &[u64]) -> Result<Choice, Status> {
        let members = self.pool.members();
        let mut state = self.lock();
        if !state.synced.as_ref().is_some_and(|synced| Arc::ptr_eq(synced, &members)) {
            state.core.sync(&members);
            state.synced = Some(members);
        }
        let choice = state.core.choose(Instant::now(), rand::random(), tried);
        choice.ok_or_else(|| Status::unavailable(state.core.nobody()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The core does not panic; if it did, its figures are still figures.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call(balancer: Arc<Balancer>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
    let lasts = balancer.streaming.contains(&Method::of_path(request.uri().path()).name);
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let choice = match balancer.choose(&tried) {
            Ok(choice) => choice,
            Err(nobody) => return Err(unsent::give_back(last.unwrap_or(nobody), request)),
        };
        tried.push(choice.key);
        let mut under_way = UnderWay::begin(Arc::clone(&balancer), choice.key);
        let status = match choice.peer.oneshot(request).await {
            Ok(response) => {
                if lasts && code_in(response.headers()).is_none() {
                    under_way.head();
                }
                return Ok(answered(response, under_way).map(Body::new));
            }
            Err(status) => status,
        };
        under_way.end_as(Outcome::Failed);
        request = match unsent::take(&status) {
            Some(request) if tried.len() < balancer.attempts => request,
            Some(request) => return Err(unsent::give_back(status, request)),
            None => return Err(status),
        };
        last = Some(status);
    }
}

/// A call to one instance, until its very end. Dropped before, it was given up.
struct UnderWay {
    balancer: Arc<Balancer>,
    key: u64,
    since: Instant,
    head: bool,
    ended: bool,
}

impl UnderWay {
    fn begin(balancer: Arc<Balancer>, key: u64) -> Self {
        Self { balancer, key, since: Instant::now(), head: false, ended: false }
    }

    /// A lasting stream's head came.
    fn head(&mut self) {
        self.head = true;
        let now = Instant::now();
        self.balancer.lock().core.answered(self.key, now - self.since, now);
    }

    fn end_as(&mut self, outcome: Outcome) {
        if !self.ended {
            self.ended = true;
            let now = Instant::now();
            self.balancer.lock().core.ended(self.key, outcome, now - self.since, now);
        }
    }
}

impl Ending for UnderWay {
    fn end(mut self, code: Code) {
        self.end_as(match code {
            Code::Unavailable => Outcome::Failed,
            _ if self.head => Outcome::Over,
            Code::Cancelled => Outcome::GivenUp,
            Code::DeadlineExceeded => Outcome::Late,
            _ => Outcome::Answered,
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.end_as(if self.head { Outcome::Over } else { Outcome::GivenUp });
    }
}

#[cfg(test)]
mod tests;
