//! The open connections of one instance, and which of them the next call goes over.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use hyper::client::conn::http2::SendRequest;
use tonic::{Code, Status, body::Body};

use super::errors::Whom;
use crate::call::Ending;

/// Shared by the calls, which choose, and the tasks that open connections. A lock is held for a few comparisons.
pub(super) struct Open {
    pub(super) whom: Whom,
    in_flight_max: u32,
    /// As many as are configured: bounded.
    connections: Mutex<Vec<Connection>>,
}

struct Connection {
    number: u64,
    sender: SendRequest<Body>,
    in_flight: Arc<AtomicU32>,
}

/// A place on a connection, given back when the call ends.
pub(super) struct Place(Arc<AtomicU32>);

impl Open {
    pub(super) fn new(whom: Whom, in_flight_max: u32) -> Self {
        Self { whom, in_flight_max, connections: Mutex::default() }
    }

    /// A number is used once.
    pub(super) fn add(&self, number: u64, sender: SendRequest<Body>) {
        let in_flight = Arc::default();
        self.lock().push(Connection { number, sender, in_flight });
    }

    /// Nothing happens to the calls that are under way on it.
    pub(super) fn remove(&self, number: u64) {
        self.lock().retain(|connection| connection.number != number);
    }

    pub(super) fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// A place on the connection with the fewest calls.
    ///
    /// # Errors
    /// `Unavailable` if there is none, or no place.
    pub(super) fn choose(&self) -> Result<(u64, SendRequest<Body>, Place), Status> {
        let connections = self.lock();
        let calls = |connection: &Connection| connection.in_flight.load(Ordering::Relaxed);
        let fewest = connections.iter().min_by_key(|connection| calls(connection));
        let fewest = fewest.ok_or_else(|| self.whom.no_connection())?;
        if connections.iter().map(calls).sum::<u32>() >= self.in_flight_max {
            return Err(self.whom.too_many(self.in_flight_max));
        }
        fewest.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok((fewest.number, fewest.sender.clone(), Place(Arc::clone(&fewest.in_flight))))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics while it is held.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending for Place {
    fn end(self, _code: Code) {}
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
