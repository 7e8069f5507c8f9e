//! Users on different edges chat, and go on when processes are killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use confab_tests::checker::{Device, History};
use confab_tests::harness::{Client, Mesh, Shape, Signal, seed};
use confab_tests::roam::{Field, roam};
use serde_json::json;

/// After a kill the others go on within this time.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Both say something in `chat`, and hear each other.
pub(crate) async fn talk(chat: u64, one: &mut Client, two: &mut Client, round: &str) {
    let said = one.say(chat, &format!("{round}: hello")).await.unwrap();
    let heard = two.expect_message(chat).await.unwrap();
    assert_eq!((&heard["seq"], &heard["content"]), (&said["seq"], &json!(format!("{round}: hello"))));
    let said = two.say(chat, &format!("{round}: hello yourself")).await.unwrap();
    let answer = |frame: &serde_json::Value| frame["type"] == "message" && frame["seq"] == said["seq"];
    one.expect_where("the answer", answer).await.unwrap();
    two.expect_where("its own", answer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_on_two_edges_chat_and_see_each_other() {
    let mesh = Mesh::start(Shape::default()).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    one.send(&json!({"type": "watch", "user_ids": [2]})).await.unwrap();
    let mut two = mesh.connect(1, 2).await.unwrap();
    two.sync(&[]).await.unwrap();
    let online = |frame: &serde_json::Value| frame["type"] == "presence" && frame["status"] == "online";
    assert_eq!(one.expect_where("user 2 online", online).await.unwrap()["user_id"], 2);
    for round in 0..10 {
        talk(chat, &mut one, &mut two, &format!("round {round}")).await;
    }
    two.close().await.unwrap();
    // Presence instances that have just started say of nobody that they are offline, for 15 s.
    let offline = |frame: &serde_json::Value| frame["type"] == "presence" && frame["status"] == "offline";
    let closed = Instant::now();
    let gone = loop {
        let frames = one.until_pong().await.unwrap();
        if let Some(gone) = frames.into_iter().find(offline) {
            break gone;
        }
        assert!(closed.elapsed() < Duration::from_secs(30), "user 2 is still not offline");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(gone["user_id"], 2);
}

/// Roamers of four groups, on both edges, while a fanout and an edge are killed and start again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_a_fanout_and_an_edge_are_killed() {
    const USERS: u64 = 24;
    const PER_CHAT: usize = 1_500;
    const PATIENCE: Duration = Duration::from_secs(90);
    let seed = seed();
    println!("CONFAB_SEED={seed}");
    let mut mesh = Mesh::start(Shape::default()).await.unwrap();
    let users: Vec<u64> = (1..=USERS).collect();
    let mut chats = Vec::new();
    for part in users.chunks(6) {
        chats.push(mesh.group(0, part[0], &part[1..]).await.unwrap());
    }
    let addrs = [mesh.edge(0), mesh.edge(1)];
    let field = Arc::new(Field::new(addrs, seed, 200..2_000, &chats, users.len()));
    let roamers: Vec<_> = users
        .iter()
        .zip(users.chunks(6).zip(&chats).flat_map(|(part, chat)| part.iter().map(|_| *chat)))
        .map(|(user, chat)| {
            let (field, token) = (Arc::clone(&field), mesh.token(*user));
            let device = Device { user: *user, name: "default".to_owned() };
            tokio::spawn(async move { roam(&field, device, token, &[chat], PER_CHAT, PATIENCE).await })
        })
        .collect();

    let all = USERS * PER_CHAT as u64;
    for (share, victim) in [(1, "fanout-svc-1"), (2, "edge-1"), (3, "fanout-svc-0")] {
        field.reaches(all * share / 6, "acks before a kill", PATIENCE).await.unwrap();
        mesh.process(victim).kill9().unwrap();
        let (acked, killed) = (field.acked(), Instant::now());
        // Of far more than were under way: they go on.
        assert!(acked + 200 <= all, "{victim} was killed when all was done: too tame");
        field.reaches(acked + 200, "acks after a kill", SOON).await.unwrap();
        println!("{victim} killed at {acked} acks; 200 more after {:.1?}", killed.elapsed());
        mesh.process(victim).respawn().unwrap();
        mesh.process(victim).wait_ready().await.unwrap();
    }
    let mut history = History::new(seed);
    for roamer in roamers {
        history.absorb(roamer.await.unwrap().unwrap());
    }
    let report = history.judge();
    report.assert_clean();
    assert_eq!(report.counts.chats, chats.len());
    assert!(report.counts.acked as u64 >= all, "only {} acked", report.counts.acked);
}

/// What is said while a fanout is gone arrives within the bound, for each of many chats: half of them went by that one.
#[tokio::test(flavor = "multi_thread")]
async fn messages_flow_within_seconds_of_a_kill() {
    let mut mesh = Mesh::start(Shape::default()).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let mut others = Vec::new();
    for user in 2..10 {
        let chat = mesh.direct(1, 1, user).await.unwrap();
        let mut other = mesh.connect(1, user).await.unwrap();
        other.sync(&[]).await.unwrap();
        others.push((user, chat, other));
    }
    for (_, chat, other) in &mut others {
        talk(*chat, &mut one, other, "before").await;
    }
    for victim in ["fanout-svc-0", "presence-svc-0"] {
        mesh.process(victim).kill9().unwrap();
        let killed = Instant::now();
        for (_, chat, other) in &mut others {
            talk(*chat, &mut one, other, victim).await;
        }
        assert!(killed.elapsed() < SOON, "without {victim} it took {:?}", killed.elapsed());
        println!("all heard without {victim} after {:.1?}", killed.elapsed());
        mesh.process(victim).respawn().unwrap();
        mesh.process(victim).wait_ready().await.unwrap();
    }
    // The edge of the others: they come again by the other one, and miss nothing.
    let (user, chat, _) = others.swap_remove(0);
    mesh.process("edge-1").kill9().unwrap();
    let killed = Instant::now();
    let said = one.say(chat, "while you are away").await.unwrap();
    let before = said["seq"].as_u64().unwrap() - 1;
    let mut again = mesh.connect(0, user).await.unwrap();
    again.sync(&[(chat, before)]).await.unwrap();
    assert_eq!(again.expect_message(chat).await.unwrap()["content"], "while you are away");
    talk(chat, &mut one, &mut again, "on one edge").await;
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_roles_share_a_process_whose_certificate_says_so() {
    let mut mesh = Mesh::prepare(Shape { edge: 1, ..Shape::default() }).unwrap();
    mesh.certs(&mesh.certs_folder(), &["confab"]).unwrap();
    let there = format!("static:{}", mesh.grpc("message-svc", 0));
    for mut spec in mesh.specs().into_iter().filter(|spec| ["edge-0", "message-svc-0"].contains(&spec.name.as_str())) {
        let others = ["FANOUT_SVC", "PRESENCE_SVC"].map(|name| format!("CONFAB_MESH__DISCOVER__{name}"));
        let several = spec.name == "message-svc-0";
        for (key, value) in &mut spec.env {
            if others.contains(key) {
                value.clone_from(&there);
            } else if several && key.starts_with("CONFAB_MESH__TLS") {
                *value = value.replace("message-svc.", "confab.");
            }
        }
        if several {
            spec.args.extend(["--role", "fanout-svc,presence-svc"].map(str::to_owned));
        }
        mesh.spawn(spec).unwrap();
    }
    mesh.wait_ready().await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let (mut one, mut two) = (mesh.connect(0, 1).await.unwrap(), mesh.connect(0, 2).await.unwrap());
    one.sync(&[]).await.unwrap();
    two.sync(&[]).await.unwrap();
    talk(chat, &mut one, &mut two, "by one process").await;
    mesh.process("message-svc-0").signal(Signal::Term).unwrap();
    assert!(mesh.process("message-svc-0").wait_exit(Duration::from_secs(15)).await.unwrap().success());
    assert!(!mesh.process("message-svc-0").log().contains("did not end in time"));
}

/// Everybody would refuse it: it says so itself, and by which field.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_another_role_s_certificate_does_not_start() {
    let mut mesh = Mesh::prepare(Shape::default()).unwrap();
    let mut spec = mesh.specs().remove(0);
    for (_, value) in &mut spec.env {
        *value = value.replace("presence-svc.crt", "edge.crt").replace("presence-svc.key", "edge.key");
    }
    mesh.spawn(spec).unwrap();
    let process = mesh.process("presence-svc-0");
    assert!(!process.wait_exit(Duration::from_secs(15)).await.unwrap().success());
    let log = process.log();
    assert!(log.contains("mesh.tls.cert: ") && log.contains("confab certs --role presence-svc"), "{log}");
}
