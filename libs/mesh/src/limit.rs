//! The gate that bounds unary calls under way by what their latency says the server can take, and sheds what is above.
//!
//! `limit/gradient.rs` has the rules, pure; this is the lock around them.

mod gradient;
mod latencies;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::{KeyValue, global, metrics::Gauge};
use tokio::time::Instant;
use tonic::{Code, Status};
use xxhash_rust::xxh3::xxh3_64;

use self::gradient::{Gradient, Sample};
use crate::{
    ServerConfig,
    admission::{Ending, Gate},
    method::Method,
    shed,
};

/// Shared by all clones of a server's stack.
#[derive(Clone)]
pub(crate) struct LimitGate(Arc<Shared>);

struct Shared {
    service: &'static str,
    streaming: &'static [&'static str],
    /// Every call of the server comes by here, twice, for some tens of nanoseconds; nothing waits while it is held.
    gradient: Mutex<Gradient>,
    gauge: Gauge<u64>,
    ends: [KeyValue; 1],
}

impl LimitGate {
    pub(crate) fn new(cfg: &ServerConfig) -> Self {
        let gradient = Gradient::new(cfg.limit_min, cfg.in_flight_max, Instant::now());
        let gauge = global::meter("confab_mesh")
            .u64_gauge("rpc.server.limit")
            .with_description("Unary calls that may be under way at once, by their latency")
            .build();
        Self(Arc::new(Shared {
            service: cfg.service,
            streaming: cfg.streaming,
            gradient: Mutex::new(gradient),
            gauge,
            ends: [KeyValue::new("confab.role", cfg.service)],
        }))
    }
}

impl Shared {
    fn gradient(&self) -> MutexGuard<'_, Gradient> {
        self.gradient.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for LimitGate {
    type Pass = Option<Running>;

    fn admit(&self, path: &str) -> Result<Self::Pass, Status> {
        // A stream lasts: its time says nothing. It is bounded by in_flight_max alone.
        if self.0.streaming.contains(&Method::of_path(path).name) {
            return Ok(None);
        }
        let limit = {
            let mut gradient = self.0.gradient();
            if gradient.admit() {
                let method = xxh3_64(path.as_bytes());
                return Ok(Some(Running { shared: Arc::clone(&self.0), method, started: Instant::now() }));
            }
            gradient.limit()
        };
        Err(shed::refusal(format!(
            "{} sheds load: {limit} unary calls are in flight, all that it takes at their latency",
            self.0.service
        )))
    }
}

/// A call that was let in.
pub(crate) struct Running {
    shared: Arc<Shared>,
    method: u64,
    started: Instant,
}

impl Ending for Option<Running> {
    fn end(self, code: Code) {
        let Some(Running { shared, method, started }) = self else {
            return;
        };
        // How long it takes to be refused, or to lose interest, is no measure of the work.
        let counts = matches!(code, Code::Ok | Code::DeadlineExceeded);
        let sample = counts.then_some(Sample { method, started });
        let changed = shared.gradient().end(sample, Instant::now());
        if let Some(limit) = changed {
            shared.gauge.record(limit as u64, &shared.ends);
        }
    }
}
