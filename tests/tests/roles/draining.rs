//! SIGTERM: a process is not ready any more, lets its streams end, and ends itself, while the others go on.

use std::time::{Duration, Instant};

use confab_tests::harness::{Incoming, Mesh, Shape, Signal};
use serde_json::json;

/// Within what Kubernetes gives by default, of which it needs little.
const BOUND: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn each_role_ends_in_time_and_the_others_go_on() {
    let mut mesh = Mesh::start(Shape::default()).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let mut two = mesh.connect(1, 2).await.unwrap();
    two.sync(&[]).await.unwrap();
    for name in ["presence-svc-1", "fanout-svc-1", "fanout-svc-0", "presence-svc-0"] {
        let process = mesh.process(name);
        process.signal(Signal::Term).unwrap();
        let ended = Instant::now();
        let status = process.wait_exit(BOUND).await.unwrap();
        assert!(status.success(), "{name}: {status}");
        println!("{name} ended after {:.1?}", ended.elapsed());
        assert!(!process.log().contains("did not end in time"), "{}", process.log());
        let said = one.say(chat, name).await.unwrap();
        assert_eq!(two.expect_message(chat).await.unwrap()["seq"], said["seq"], "without {name}");
        let process = mesh.process(name);
        process.respawn().unwrap();
        process.wait_ready().await.unwrap();
    }

    // The edge sends its clients away.
    mesh.process("edge-1").signal(Signal::Term).unwrap();
    two.expect("reconnect").await.unwrap();
    assert_eq!(two.expect_close().await.unwrap(), 1001);
    assert!(mesh.process("edge-1").wait_exit(BOUND).await.unwrap().success());
    let mut two = mesh.connect(0, 2).await.unwrap();
    two.sync(&[]).await.unwrap();

    // With its streams open: the edge tells nobody, and sends again when there is a successor.
    mesh.process("message-svc-0").signal(Signal::Term).unwrap();
    assert!(mesh.process("message-svc-0").wait_exit(BOUND).await.unwrap().success());
    assert!(!mesh.process("message-svc-0").log().contains("did not end in time"));
    mesh.process("message-svc-0").respawn().unwrap();
    mesh.process("message-svc-0").wait_ready().await.unwrap();
    let said = one.say(chat, "with its successor").await.unwrap();
    assert_eq!(two.expect_message(chat).await.unwrap()["seq"], said["seq"]);
    two.send(&json!({"type": "ping"})).await.unwrap();
    assert!(matches!(two.next().await.unwrap(), Incoming::Frame(frame) if frame["type"] == "pong"));
}

/// Whatever it waits for at its start, a signal ends it.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_waits_for_the_others_ends_in_time() {
    let mut mesh = Mesh::prepare(Shape::default()).unwrap();
    let specs = mesh.specs();
    mesh.spawn(specs.into_iter().find(|spec| spec.name == "edge-0").unwrap()).unwrap();
    confab_tests::harness::wait_for("it to listen", BOUND, || {
        let there = mesh.process("edge-0").log().contains("\"listening\"");
        async move { there.then_some(()) }
    })
    .await
    .unwrap();
    mesh.process("edge-0").signal(Signal::Term).unwrap();
    assert!(mesh.process("edge-0").wait_exit(BOUND).await.unwrap().success());
}
