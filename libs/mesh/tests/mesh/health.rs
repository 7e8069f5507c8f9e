//! `grpc.health.v1`, as a probe sees it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use confab_mesh::{
    drain,
    health::{Ready, health},
};
use tokio::time::sleep;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::kit::{in_process, soon};

fn switch(on: bool) -> (Arc<AtomicBool>, Ready) {
    let switch = Arc::new(AtomicBool::new(on));
    let ready = Arc::clone(&switch);
    (switch, Arc::new(move || ready.load(Ordering::SeqCst)))
}

fn of(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest { service: service.to_owned() })
}

#[tokio::test(start_paused = true)]
async fn each_service_says_whether_it_serves_and_none_does_in_a_drain() {
    let (drainer, drain) = drain::channel();
    let (a, a_ready) = switch(true);
    let (b, b_ready) = switch(false);
    let peer = in_process(health("test-svc", vec![("a.v1.A", a_ready), ("b.v1.B", b_ready)], &drain).await);
    let mut client = HealthClient::new(peer);
    let mut statuses = async || {
        let mut statuses = Vec::new();
        for name in ["a.v1.A", "b.v1.B", ""] {
            let answer = client.check(of(name)).await.expect("known").into_inner();
            statuses.push(answer.status() == ServingStatus::Serving);
        }
        statuses
    };
    assert_eq!(statuses().await, [true, false, false]);
    b.store(true, Ordering::SeqCst);
    sleep(Duration::from_millis(600)).await;
    assert_eq!(statuses().await, [true, true, true]);
    a.store(false, Ordering::SeqCst);
    sleep(Duration::from_millis(600)).await;
    assert_eq!(statuses().await, [false, true, false]);
    a.store(true, Ordering::SeqCst);
    drainer.drain(Duration::from_secs(1)).await.expect("it ends");
    assert_eq!(statuses().await, [false, false, false]);
}

#[tokio::test(start_paused = true)]
async fn who_watches_hears_of_changes_and_nothing_else_is_known() {
    let (_drainer, drain) = drain::channel();
    let (a, ready) = switch(true);
    let mut client = HealthClient::new(in_process(health("test-svc", vec![("a.v1.A", ready)], &drain).await));
    let mut request = of("a.v1.A");
    request.set_timeout(Duration::from_secs(3_600));
    let mut changes = client.watch(request).await.expect("known").into_inner();
    for serves in [true, false] {
        let change = soon(changes.message()).await.expect("open").expect("open");
        assert_eq!(change.status() == ServingStatus::Serving, serves);
        a.store(false, Ordering::SeqCst);
    }
    assert_eq!(client.check(of("b.v1.B")).await.expect_err("unknown").code(), Code::NotFound);
}
