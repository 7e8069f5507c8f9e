//! The gate that bounds the calls under way, and sheds what is above.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::{
    admission::{Gate, Held},
    shed,
};

/// Shared by all clones of a server's stack: the bound is the server's, not a connection's.
#[derive(Clone)]
pub(crate) struct InFlight {
    permits: Arc<Semaphore>,
    service: &'static str,
    max: usize,
}

impl InFlight {
    pub(crate) fn new(service: &'static str, max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(max));
        Self { permits, service, max }
    }
}

impl Gate for InFlight {
    type Pass = Held<OwnedSemaphorePermit>;

    fn admit(&self, _path: &str) -> Result<Self::Pass, Status> {
        Arc::clone(&self.permits).try_acquire_owned().map(Held).map_err(|_| {
            shed::refusal(format!(
                "{} sheds load: {} calls are in flight, which is its bound (in_flight_max)",
                self.service, self.max
            ))
        })
    }
}
