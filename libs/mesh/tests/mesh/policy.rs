//! Who is let in, in process as over a network; `tests/tls` has the rest.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use confab_mesh::{Identity, Peer, Policy, ServerConfig, local, server};
use tonic::{Code, Response};

use crate::kit::{empty, raw, say, send, unary};

fn guarded(policy: Policy) -> (Peer, Arc<AtomicUsize>) {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let handler = move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(Response::new(String::new())) }
    };
    (server(ServerConfig::new("test-svc").policy(policy), unary(handler)), handled)
}

#[tokio::test(start_paused = true)]
async fn in_process_too_only_who_is_in_the_table_is_let_in() {
    let (peer, handled) = guarded(Policy::new().allow("edge", &["/confab.test.v1.Test/*"]));
    say(&local(Identity::new("edge"), peer.clone()), empty()).await.expect("allowed");
    let refusal = say(&local(Identity::new("fanout-svc"), peer.clone()), empty()).await.expect_err("not allowed");
    assert_eq!((refusal.code(), refusal.message()), (Code::PermissionDenied, "not allowed"));
    let refusal = send(&peer, raw(&[])).await;
    assert_eq!((refusal.code(), refusal.message()), (Code::Unauthenticated, "who calls is not known"));
    assert_eq!(handled.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_anyone_may_call_needs_no_identity() {
    let (peer, _) = guarded(Policy::new().allow_anyone(&["/confab.test.v1.Test/Say"]));
    assert_eq!(send(&peer, raw(&[])).await.code(), Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn without_keys_a_token_is_nothing() {
    let (peer, _) = guarded(Policy::new().allow("service:billing", &["/confab.test.v1.Test/*"]));
    let refusal = send(&peer, raw(&[("authorization", "Bearer x")])).await;
    assert_eq!(refusal.code(), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_takes_up_no_place() {
    let mut cfg = ServerConfig::new("test-svc").policy(Policy::new());
    cfg.in_flight_max = 0;
    let peer = server(cfg, unary(|_| async { Ok(Response::new(String::new())) }));
    assert_eq!(send(&peer, raw(&[])).await.code(), Code::Unauthenticated);
}
