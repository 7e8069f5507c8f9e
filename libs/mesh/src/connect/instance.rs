//! One instance: its connections, its peer, and whether it is up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ConnectConfig, HealthCheck, backoff, calls,
    connection::{Tasks, connect},
    errors::Whom,
    open::Open,
};
use crate::Peer;

/// A connection that lasted this long was a good one: the next attempt's pause is the shortest again.
const LASTED: Duration = Duration::from_secs(1);

/// One that doesn't serve is asked again so soon.
const NOT_YET: Duration = Duration::from_millis(250);

/// Dropped, it takes no more calls, and its streams go on for at most
/// [`leave_timeout`](ConnectConfig::leave_timeout).
pub(crate) struct Instance {
    shared: Arc<Shared>,
    peer: Peer,
    closing: CancellationToken,
}

struct Shared {
    open: Arc<Open>,
    cfg: Arc<ConnectConfig>,
    serves: AtomicBool,
    connections_made: AtomicU64,
    /// There is a first connection to ask for health over.
    connected: Notify,
    /// Whoever keeps a list of instances looks again.
    changed: Arc<Notify>,
}

impl Instance {
    /// Begins to connect to `address` (`host:port`). `changed` is notified whenever [`is_up`](Self::is_up) may be.
    pub(crate) fn start(address: &Arc<str>, cfg: &Arc<ConnectConfig>, changed: &Arc<Notify>) -> Self {
        let whom = Whom { target: cfg.target, address: Arc::clone(address) };
        let shared = Arc::new(Shared {
            open: Arc::new(Open::new(whom, cfg.in_flight_max)),
            cfg: Arc::clone(cfg),
            serves: AtomicBool::new(cfg.health.is_none()),
            connections_made: AtomicU64::default(),
            connected: Notify::new(),
            changed: Arc::clone(changed),
        });
        let peer = calls::peer(&shared.open, cfg.tls.is_some());
        let closing = CancellationToken::new();
        let tasks = Tasks { stop: CancellationToken::new(), tracker: TaskTracker::new() };
        for _ in 0..cfg.connections.max(1) {
            tokio::spawn(closing.clone().run_until_cancelled_owned(keep_connected(Arc::clone(&shared), tasks.clone())));
        }
        if let Some(health) = &cfg.health {
            let asking = keep_asking(Arc::clone(&shared), peer.clone(), Arc::clone(health));
            tokio::spawn(closing.clone().run_until_cancelled_owned(asking));
        }
        tokio::spawn(end_streams(closing.clone(), tasks, cfg.leave_timeout));
        Self { shared, peer, closing }
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer.clone()
    }

    /// There is a connection, and the instance says that it serves.
    pub(crate) fn is_up(&self) -> bool {
        self.shared.serves.load(Ordering::Relaxed) && self.shared.open.any()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Opens one connection again and again.
async fn keep_connected(shared: Arc<Shared>, tasks: Tasks) {
    let cfg = &shared.cfg;
    let mut failures = 0;
    loop {
        match connect(&shared.open.whom.address, cfg, &tasks).await {
            Ok((sender, until)) => {
                let number = shared.connections_made.fetch_add(1, Ordering::Relaxed);
                let opened = Opened { shared: &shared, number };
                let since = Instant::now();
                shared.open.add(number, sender);
                shared.connected.notify_one();
                shared.changed.notify_one();
                until.await;
                drop(opened);
                failures = if since.elapsed() < LASTED { failures + 1 } else { 0 };
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(target_service = cfg.target, instance = %shared.open.whom.address, %error, failures, "no connection");
            }
        }
        sleep(backoff::pause(failures, cfg.backoff_min, cfg.backoff_max, rand::random())).await;
    }
}

/// A connection that calls may choose, until this is dropped.
struct Opened<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.shared.open.remove(self.number);
        self.shared.changed.notify_one();
    }
}

async fn keep_asking(shared: Arc<Shared>, peer: Peer, health: HealthCheck) {
    loop {
        if !shared.open.any() {
            shared.connected.notified().await;
        }
        let answer = timeout(shared.cfg.health_interval, health(peer.clone())).await;
        let serves = answer.unwrap_or(false);
        if shared.serves.swap(serves, Ordering::Relaxed) != serves {
            shared.changed.notify_one();
        }
        // One that has just come says soon that it serves.
        let pause = if serves { shared.cfg.health_interval } else { shared.cfg.health_interval.min(NOT_YET) };
        sleep(pause).await;
    }
}

/// Once closing, waits for the streams that are left, and then ends them.
async fn end_streams(closing: CancellationToken, tasks: Tasks, patience: Duration) {
    closing.cancelled().await;
    tasks.tracker.close();
    // Whether they ended by themselves or not.
    let _ = timeout(patience, tasks.tracker.wait()).await;
    tasks.stop.cancel();
}
