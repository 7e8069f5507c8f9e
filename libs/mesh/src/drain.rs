//! Stopping without losing what is under way: [`channel`] gives a [`Drainer`], kept by `main`, and a [`Drain`], cloned
//! into everything that has to end well.

pub(crate) mod gate;

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A connected pair. Dropping the [`Drainer`] begins nothing.
#[must_use]
pub fn channel() -> (Drainer, Drain) {
    let drain = Drain { begun: CancellationToken::new(), tasks: TaskTracker::new() };
    (Drainer { drain: drain.clone() }, drain)
}

/// Begins the drain and waits for its end.
#[derive(Debug)]
pub struct Drainer {
    drain: Drain,
}

impl Drainer {
    /// Tells every [`Drain`] to stop, then waits for all tracked tasks and calls to end, at most `timeout`.
    ///
    /// May be called again, for instance to wait longer.
    ///
    /// # Errors
    /// [`Unfinished`] says how many had not ended in time. They still run: nothing is aborted here.
    pub async fn drain(&self, timeout: Duration) -> Result<(), Unfinished> {
        self.drain.begun.cancel();
        self.drain.tasks.close();
        tokio::time::timeout(timeout, self.drain.tasks.wait())
            .await
            .map_err(|_elapsed| Unfinished { count: self.drain.tasks.len() })
    }
}

/// Tells when to stop, and tracks what must end first.
#[derive(Clone, Debug)]
pub struct Drain {
    begun: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// Returns once the drain has begun; at once, if it already has. Cancel safe.
    pub async fn started(&self) {
        self.begun.cancelled().await;
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Spawns a task that the drain waits for. It must itself end soon after [`started`](Self::started).
    /// Allowed after the drain has begun, too: ending well may need it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }
}

/// What had not ended when the drain's time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Tracked tasks and calls that still run.
    pub count: usize,
}

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tasks had not ended in time", self.count)
    }
}

impl std::error::Error for Unfinished {}
