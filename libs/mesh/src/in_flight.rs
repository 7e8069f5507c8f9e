//! The gate that bounds the calls under way, and sheds what is above.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::admission::Gate;

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
    type Pass = OwnedSemaphorePermit;

    fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            Status::unavailable(format!(
                "{} sheds load: {} calls are in flight, which is its bound (in_flight_max)",
                self.service, self.max
            ))
        })
    }
}
