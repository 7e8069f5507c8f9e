//! `grpc.health.v1`: whether a process's services serve, by their own word.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{Drain, Peer, ServerConfig, server};

/// The gRPC service's name.
pub const SERVICE: &str = "grpc.health.v1.Health";

/// How often services are asked.
const EVERY: Duration = Duration::from_millis(250);

/// Whether a service can do its job, now. Asked often: it must not wait.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

/// Answers `Check` and `Watch` for `services`, by their gRPC names, and for all together, by the empty name. What it says
/// is at most a quarter of a second old; once `drain` has begun nothing serves any more.
///
/// It has a server's stack of its own, of `role`, without a policy and a drain: who watches gets to see the end.
pub async fn health(role: &'static str, services: Vec<(&'static str, Ready)>, drain: &Drain) -> Peer {
    let (reporter, service) = tonic_health::server::health_reporter();
    report(&reporter, &services, false).await;
    let ended = drain.clone();
    drain.spawn(async move {
        loop {
            tokio::select! {
                () = sleep(EVERY) => report(&reporter, &services, false).await,
                () = ended.started() => break,
            }
        }
        report(&reporter, &services, true).await;
    });
    server(ServerConfig::new(role).streaming(&["Watch"]), service)
}

/// Only changes reach those who watch.
async fn report(reporter: &HealthReporter, services: &[(&'static str, Ready)], draining: bool) {
    let mut all = !draining;
    for (name, ready) in services {
        let serves = !draining && ready();
        all &= serves;
        reporter.set_service_status(*name, status(serves)).await;
    }
    reporter.set_service_status("", status(all)).await;
}

fn status(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}
