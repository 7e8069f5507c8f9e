//! Writing behind: what is to be written waits in a queue of bounded size, and one task writes it, batch after batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};
use tokio::sync::mpsc;

use crate::{Command, Redis};

/// Of all that waits; what comes beyond it is dropped. Bytes, as [`Weighed`] counts them.
const WAITING_MAX: usize = 16 << 20;
/// Pieces that wait, whatever they weigh.
const PIECES_MAX: usize = 4_096;
/// A batch ends with the piece that goes over this, bytes: so that it is done in time, and reads need not wait for it.
const BATCH_BYTES: usize = 256 << 10;
/// How long a batch may take. Nobody waits for it.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// What a piece costs in memory, bytes.
pub trait Weighed {
    fn weight(&self) -> usize;
}

/// The way into the queue. With the last clone it ends, after what waits was written.
///
/// A piece may be lost without a word to whoever wrote it: where the queue is full, Redis is gone, or the process ends.
pub struct Behind<T> {
    pieces: mpsc::Sender<T>,
    waiting: Arc<AtomicUsize>,
    dropped: Dropped,
}

impl<T: Weighed + Send + 'static> Behind<T> {
    /// `what` names it in metrics. `encode` makes commands of pieces, which are in the order in which they came.
    pub fn start<E>(redis: Redis, what: &'static str, encode: E) -> Self
    where
        E: Fn(Vec<T>) -> Vec<Command> + Send + 'static,
    {
        let (pieces, queue) = mpsc::channel(PIECES_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let dropped = Dropped::new(what);
        drop(tokio::spawn(run(redis, queue, waiting.clone(), dropped.clone(), encode)));
        Self { pieces, waiting, dropped }
    }

    /// Never waits.
    pub fn push(&self, piece: T) {
        let weight = piece.weight();
        let before = self.waiting.fetch_add(weight, Ordering::Relaxed);
        if before + weight > WAITING_MAX || self.pieces.try_send(piece).is_err() {
            self.waiting.fetch_sub(weight, Ordering::Relaxed);
            self.dropped.count(1, "full");
        }
    }
}

async fn run<T: Weighed>(
    redis: Redis,
    mut queue: mpsc::Receiver<T>,
    waiting: Arc<AtomicUsize>,
    dropped: Dropped,
    encode: impl Fn(Vec<T>) -> Vec<Command>,
) {
    while let Some(first) = queue.recv().await {
        let mut weight = first.weight();
        let mut batch = vec![first];
        while weight < BATCH_BYTES
            && let Ok(next) = queue.try_recv()
        {
            weight += next.weight();
            batch.push(next);
        }
        let count = batch.len();
        let commands = encode(batch);
        if redis.ask(commands, BATCH_TIME).await.is_err() {
            dropped.count(count, "failed");
        }
        // It counts until it is gone: meanwhile it is in memory.
        waiting.fetch_sub(weight, Ordering::Relaxed);
    }
}

impl<T> Clone for Behind<T> {
    fn clone(&self) -> Self {
        Self { pieces: self.pieces.clone(), waiting: self.waiting.clone(), dropped: self.dropped.clone() }
    }
}

impl<T> std::fmt::Debug for Behind<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Behind({})", self.dropped.what)
    }
}

#[derive(Clone)]
struct Dropped {
    what: &'static str,
    pieces: Counter<u64>,
}

impl Dropped {
    fn new(what: &'static str) -> Self {
        let pieces = global::meter("confab_redis")
            .u64_counter("confab.redis.dropped")
            .with_description("Pieces that were to be written to Redis and were not")
            .build();
        Self { what, pieces }
    }

    fn count(&self, pieces: usize, why: &'static str) {
        let labels = [KeyValue::new("what", self.what), KeyValue::new("why", why)];
        self.pieces.add(pieces.try_into().unwrap_or(u64::MAX), &labels);
    }
}
