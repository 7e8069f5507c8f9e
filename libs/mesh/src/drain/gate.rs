//! The gate that refuses new calls once a drain has begun.

use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use crate::{
    Drain,
    admission::{Gate, Held},
};

#[derive(Clone)]
pub(crate) struct DrainGate {
    service: &'static str,
    drain: Option<Drain>,
}

impl DrainGate {
    pub(crate) fn new(service: &'static str, drain: Option<Drain>) -> Self {
        Self { service, drain }
    }
}

impl Gate for DrainGate {
    /// The drain waits for it.
    type Pass = Held<Option<TaskTrackerToken>>;

    fn admit(&self, _path: &str) -> Result<Self::Pass, Status> {
        let Some(drain) = &self.drain else {
            return Ok(Held(None));
        };
        // The token first: a call that sees no drain here is then seen by the drain's wait.
        let token = drain.tasks.token();
        if drain.is_started() {
            let message = format!("{} is draining: call another instance", self.service);
            return Err(Status::unavailable(message));
        }
        Ok(Held(Some(token)))
    }
}
