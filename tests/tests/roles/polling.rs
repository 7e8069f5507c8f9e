//! A long poll's client is served by whichever edge it comes to.

use std::time::{Duration, Instant};

use confab_tests::harness::client::message;
use confab_tests::harness::{BOUND, Mesh, Poller, Shape, http, seed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

fn is_message(frame: &Value) -> bool {
    frame["type"] == "message"
}

/// One who polls edges at random, and sends by edges at random, gets each message once and in order; its own, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_moves_between_edges_loses_nothing_and_gets_nothing_twice() {
    const MESSAGES: u64 = 120;
    let seed = seed();
    println!("CONFAB_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mesh = Mesh::start(Shape::default()).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let mut two = Poller::open(mesh.edge(0), &mesh.token(2), &[(chat, 1)]).await.unwrap();
    let mut seqs = Vec::new();
    for number in 0..MESSAGES {
        let edge = mesh.edge(rng.random_range(0..2));
        if number % 4 == 0 {
            let frame = message(chat, &format!("own {number}"), &format!("own {number}"));
            let answers = two.send(edge, &[frame]).await.unwrap();
            assert_eq!(answers[0]["type"], "ack", "{answers:?}");
        } else {
            one.say(chat, &format!("message {number}")).await.unwrap();
        }
        if rng.random_range(0..3) > 0 {
            two.poll(mesh.edge(rng.random_range(0..2)), 1).await.unwrap();
        }
        if rng.random_range(0..8) == 0 {
            // The answer gets lost: the client asks again, of somebody else.
            two.ask(edge, &two.cursor, 1).await.unwrap();
        }
        seqs.extend(two.backlog.drain(..).filter(is_message).map(|frame| frame["seq"].as_u64().unwrap()));
    }
    let begun = Instant::now();
    while (seqs.len() as u64) < MESSAGES && begun.elapsed() < BOUND {
        two.poll(mesh.edge(rng.random_range(0..2)), 1).await.unwrap();
        seqs.extend(two.backlog.drain(..).filter(is_message).map(|frame| frame["seq"].as_u64().unwrap()));
    }
    assert_eq!(seqs, (2..2 + MESSAGES).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_takes_no_poll_with_it() {
    let mut mesh = Mesh::start(Shape::default()).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let there = mesh.edge(1);
    let mut two = Poller::open(there, &mesh.token(2), &[(chat, 1)]).await.unwrap();
    two.send(there, &[json!({"type": "watch", "user_ids": [1]})]).await.unwrap();
    two.expect(there, "presence").await.unwrap();
    one.say(chat, "before").await.unwrap();
    two.expect_where(there, "a message", is_message).await.unwrap();
    two.backlog.clear();
    mesh.process("edge-1").kill9().unwrap();
    one.say(chat, "after").await.unwrap();
    let here = mesh.edge(0);
    let next = two.expect_where(here, "a message", is_message).await.unwrap();
    assert_eq!((&next["content"], &next["seq"]), (&json!("after"), &json!(3)));
    assert!(!two.backlog.iter().any(|frame| frame["type"] == "hello"), "{:?}", two.backlog);
    // It still watches whom it did.
    drop(one);
    let offline = |frame: &Value| frame["type"] == "presence" && frame["status"] == "offline";
    let begun = Instant::now();
    while !two.backlog.iter().any(offline) {
        assert!(begun.elapsed() < Duration::from_secs(40), "user 1 is still not offline");
        two.poll(here, 1).await.unwrap();
    }
}

/// What presence-svc has kept is gone with its instances, and an edge that has the poll says all of it again.
#[tokio::test(flavor = "multi_thread")]
async fn presence_that_starts_anew_learns_of_polls_again() {
    let mut mesh = Mesh::start(Shape::default()).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let (here, there) = (mesh.edge(0), mesh.edge(1));
    let mut two = Poller::open(there, &mesh.token(2), &[(chat, 1)]).await.unwrap();
    two.expect(there, "synced").await.unwrap();
    for name in ["presence-svc-0", "presence-svc-1"] {
        mesh.process(name).kill9().unwrap();
        mesh.process(name).respawn().unwrap();
        mesh.process(name).wait_ready().await.unwrap();
    }
    // Edges find them again; until then what they have kept may be nowhere.
    let mut number = 0;
    let begun = Instant::now();
    let mut seqs = Vec::new();
    loop {
        number += 1;
        one.say(chat, &format!("message {number}")).await.unwrap();
        two.poll(there, 5).await.unwrap();
        seqs.extend(two.backlog.drain(..).filter(is_message).map(|frame| frame["seq"].as_u64().unwrap()));
        if two.ask(here, &two.cursor, 0).await.unwrap().status == 200 {
            break;
        }
        assert!(begun.elapsed() < BOUND, "no edge can go on with it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    one.say(chat, "the last one").await.unwrap();
    let last = two.expect_where(here, "the last one", |frame| frame["content"] == "the last one").await.unwrap();
    seqs.extend(two.backlog.drain(..).filter(is_message).map(|frame| frame["seq"].as_u64().unwrap()));
    seqs.push(last["seq"].as_u64().unwrap());
    assert_eq!(seqs, (2..3 + number).collect::<Vec<u64>>());
}

/// A client that goes from edge to edge waits as long as it says if there is nothing new: an edge that goes on tells it nothing that it
/// knows.
#[tokio::test(flavor = "multi_thread")]
async fn who_changes_edges_waits_as_long_at_each() {
    let mesh = Mesh::start(Shape::default()).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let mut two = Poller::open(mesh.edge(0), &mesh.token(2), &[(chat, 1)]).await.unwrap();
    two.send(mesh.edge(0), &[json!({"type": "watch", "user_ids": [1]})]).await.unwrap();
    two.expect(mesh.edge(0), "presence").await.unwrap();
    let seq = one.say(chat, "hello").await.unwrap()["seq"].clone();
    two.expect_where(mesh.edge(1), "a message", is_message).await.unwrap();
    one.send(&json!({"type": "read", "chat_id": chat, "seq": seq})).await.unwrap();
    // Receipts of that, as long as there are some.
    let begun = Instant::now();
    while two.poll(mesh.edge(0), 6).await.unwrap() > 0 {
        assert!(begun.elapsed() < 2 * BOUND, "{:?}", two.backlog);
    }
    for edge in [1, 0, 1] {
        let begun = Instant::now();
        two.poll(mesh.edge(edge), 3).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(3), "woken by {:?}", two.backlog);
    }
    assert!(!two.backlog.iter().any(is_message), "{:?}", two.backlog);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_edge_it_is_its_devices_and_over_when_it_has_ended() {
    let mesh = Mesh::start(Shape::default()).await.unwrap();
    let (here, there) = (mesh.edge(0), mesh.edge(1));
    let mut two = Poller::open(here, &mesh.device_token(2, "phone"), &[]).await.unwrap();
    two.expect(here, "synced").await.unwrap();
    while two.poll(here, 1).await.unwrap() > 0 {}
    let path = format!("/poll?session={}&cursor={}&wait=0", two.session, two.cursor);
    for token in [mesh.token(3), mesh.device_token(2, "tablet")] {
        let answer = http::request(there, "GET", &path, Some(&token), None).await.unwrap();
        assert_eq!((answer.status, &answer.json().unwrap()["code"]), (403, &json!("FORBIDDEN")));
    }
    // Nobody else's question has taken it from where it is: one that waits there goes on, until it is ended, by whichever edge.
    let ending = async {
        // Either order ends with 410: the wait is only to have it wait.
        tokio::time::sleep(Duration::from_millis(300)).await;
        two.end(there).await.unwrap()
    };
    let (waiting, ended) = tokio::join!(two.ask(here, &two.cursor, 10), ending);
    assert_eq!((waiting.unwrap().status, ended), (410, 204));
    for edge in [here, there] {
        assert_eq!(two.ask(edge, &two.cursor, 0).await.unwrap().status, 410);
    }
}
