//! A mesh with Redis: what it spares, and that all goes on without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use confab_proto::presence::v1::{GetPresenceRequest, LocateRequest, Presence, PresenceStatus, UserSet};
use confab_redis::{Command, Redis, Reply};
use confab_test_servers::{Cassandra, Mode, Redis as Server};
use confab_tests::harness::{BOUND, Client, Mesh, Shape, Signal, Store, cassandra_reads, wait_for};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::chatting::{SOON, talk};
use crate::{relaying, watching};

const PRESENCES: [&str; 2] = ["presence-svc-0", "presence-svc-1"];
const EDGES: [&str; 2] = ["edge-0", "edge-1"];

async fn server(mode: Mode) -> Server {
    spawn_blocking(move || Server::start(mode)).await.unwrap().unwrap()
}

/// What one presence instance says of user 1 and user 2: the edges of the first, and both presences.
async fn ask(mesh: &Mesh, at: usize) -> Option<(Vec<String>, Vec<Presence>)> {
    let mut presence =
        PresenceServiceClient::connect(format!("http://{}", mesh.grpc("presence-svc", at))).await.ok()?;
    let sets = vec![UserSet { user_ids: vec![1, 2] }];
    let request = LocateRequest { sets, ..LocateRequest::default() };
    let mut answers = presence.locate(tokio_stream::once(request)).await.ok()?.into_inner();
    let located = answers.message().await.ok()??.locations.pop()?;
    let of_user_1 = located.edges.into_iter().filter(|edge| edge.user_ids == [1]).map(|edge| edge.edge_id);
    let presences = presence.get_presence(GetPresenceRequest { user_ids: vec![1, 2] }).await.ok()?;
    Some((of_user_1.collect(), presences.into_inner().presences))
}

async fn restart_presences(mesh: &mut Mesh) {
    for name in PRESENCES {
        mesh.process(name).kill9().unwrap();
    }
    for name in PRESENCES {
        mesh.process(name).respawn().unwrap();
    }
    for name in PRESENCES {
        mesh.process(name).wait_ready().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_presence_instances_know_at_once_who_is_where_and_when_they_were_seen() {
    let server = server(Mode::Standalone).await;
    let grace = ("CONFAB_PRESENCE__GRACE_SECONDS".to_owned(), "1".to_owned());
    // Without certificates, so that the test may ask.
    let shape = Shape { tls: false, redis: Some(server.url()), env: vec![grace], ..Shape::default() };
    let mut mesh = Mesh::start(shape).await.unwrap();
    let chat = mesh.direct(0, 1, 2).await.unwrap();
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let mut two = mesh.connect(1, 2).await.unwrap();
    two.sync(&[]).await.unwrap();
    two.close().await.unwrap();

    let redis = Redis::connect(&server.url().parse().unwrap(), None).unwrap();
    // One's session with its edge, and that it lives; of two only when it was seen.
    let noted = || async {
        let asked = vec![
            Command::new("HVALS", "presence:{1}"),
            Command::new("HLEN", "presence:{2}"),
            Command::new("HGET", "presence:{2}").text("last_seen"),
        ];
        let mut replies = redis.ask(asked, BOUND).await.ok()?;
        let last_seen: i64 = replies[2].parsed()?;
        let alone = replies[1] == Reply::Number(1);
        let edge: String = replies.swap_remove(0).into_list().pop()?.parsed()?;
        let lives = redis.ask(vec![Command::new("EXISTS", format!("edge:{{{edge}}}"))], BOUND).await.ok()?;
        (alone && lives == [Reply::Number(1)]).then_some(last_seen)
    };
    let last_seen = wait_for("one session of user 1 and none of user 2", BOUND, noted).await.unwrap();

    // The edges stand still: they tell the fresh instances nothing.
    for edge in EDGES {
        mesh.process(edge).signal(Signal::Stop).unwrap();
    }
    restart_presences(&mut mesh).await;
    let ready = Instant::now();
    for at in [0, 1] {
        let knows = || async {
            let (edges, presences) = ask(&mesh, at).await?;
            let online = presences[0].status() == PresenceStatus::Online;
            let seen = presences[1].status() != PresenceStatus::Online && presences[1].last_seen_ms == last_seen;
            (edges.len() == 1 && online && seen).then_some(())
        };
        wait_for("what was noted", Duration::from_secs(8), knows).await.unwrap();
    }
    println!("both know by notes alone, {:.1?} after they were ready", ready.elapsed());
    for edge in EDGES {
        mesh.process(edge).signal(Signal::Cont).unwrap();
    }
    let mut two = mesh.connect(1, 2).await.unwrap();
    two.sync(&[]).await.unwrap();
    talk(chat, &mut one, &mut two, "after the restart").await;

    // Without Redis it is as without notes: sessions are told by their edges, and pushes go on.
    server.kill_primary().unwrap();
    restart_presences(&mut mesh).await;
    let started = Instant::now();
    talk(chat, &mut one, &mut two, "without Redis").await;
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let seen = ask(&mesh, 0).await.unwrap().1;
    assert_eq!(seen.iter().map(|presence| presence.last_seen_ms).collect::<Vec<_>>(), [0, 0]);
}

const CHATS: u64 = 10;
const MESSAGES: u64 = 12;
const MISSED: u64 = 5;
/// Of a message: what is missed of a chat is more than its owner keeps in memory, or Redis would not be asked.
const BYTES: usize = 6_700;
const RECONNECTS: u64 = 20;

/// User 1 comes back to where it was [`MISSED`] events ago in each chat, and gets them.
async fn reconnect(mesh: &Mesh, edge: usize, heads: &[(u64, u64)]) {
    let positions: Vec<(u64, u64)> = heads.iter().map(|(chat, head)| (*chat, head - MISSED)).collect();
    let mut client = mesh.connect(edge, 1).await.unwrap();
    client.sync(&positions).await.unwrap();
    let frames = client.until_pong().await.unwrap();
    for (chat, head) in heads {
        let of_chat = frames.iter().filter(|frame| frame["chat_id"] == *chat && frame["type"] == "message");
        let seqs: Vec<u64> = of_chat.filter_map(|frame| frame["seq"].as_u64()).collect();
        assert_eq!(seqs, (head - MISSED + 1..=*head).collect::<Vec<_>>(), "of chat {chat}");
    }
    client.close().await.unwrap();
}

/// Reads per reconnect, by table; over both edges.
async fn cost(mesh: &Mesh, cassandra: &Arc<Cassandra>, heads: &[(u64, u64)], times: u64) -> BTreeMap<String, f64> {
    let before = cassandra_reads(cassandra).await.unwrap();
    for time in 0..times {
        reconnect(mesh, usize::try_from(time % 2).unwrap(), heads).await;
    }
    let after = cassandra_reads(cassandra).await.unwrap();
    #[allow(clippy::cast_precision_loss, reason = "hundreds")]
    let each = |(name, count): (&String, &u64)| (name.clone(), (count - before[name]) as f64 / times as f64);
    after.iter().map(each).filter(|(_, count)| *count > 0.0).collect()
}

/// A message that was edited and one that was deleted, among more than an owner keeps in memory, are read as they are now: soon, for
/// Redis is written behind the acks.
async fn changes_are_read(mesh: &Mesh, one: &mut Client, chat: u64) {
    let mut seqs = Vec::new();
    for number in 0..MESSAGES {
        seqs.push(one.say(chat, &format!("{number:0BYTES$}")).await.unwrap()["seq"].clone());
    }
    let edit = json!({"type": "edit", "chat_id": chat, "target": seqs[3], "content": "other words", "client_id": "e"});
    let delete = json!({"type": "delete", "chat_id": chat, "target": seqs[4], "client_id": "d"});
    for frame in [edit, delete] {
        one.send(&frame).await.unwrap();
        one.answer_to(frame["client_id"].as_str().unwrap()).await.unwrap();
    }
    for edge in 0..EDGES.len() {
        let are_read = || async {
            let mut client = mesh.connect(edge, 1).await.ok()?;
            client.sync(&[(chat, 1)]).await.ok()?;
            let frames = client.until_pong().await.ok()?;
            let mut messages = frames.iter().filter(|frame| frame["type"] == "message" && frame["chat_id"] == chat);
            let mut content = |seq: &Value| messages.find(|frame| frame["seq"] == *seq).map(|frame| &frame["content"]);
            let contents = [content(&seqs[3])?, content(&seqs[4])?];
            client.close().await.ok()?;
            (contents == [&json!("other words"), &json!("")]).then_some(())
        };
        wait_for("what was changed, as it is", BOUND, are_read).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_served_from_redis_and_without_it_from_cassandra_and_chats_go_on() {
    let (cassandra, server) = tokio::join!(spawn_blocking(|| Cassandra::start(1)), server(Mode::Cluster));
    let cassandra = cassandra.unwrap().unwrap();
    let store = Store::plain(cassandra.points());
    let shape = Shape { message: 2, cassandra: Some(store), redis: Some(server.url()), ..Shape::default() };
    let mut mesh = Mesh::start(shape).await.unwrap();
    let cassandra = Arc::new(cassandra);
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    let mut heads = Vec::new();
    for peer in 2..2 + CHATS {
        let chat = mesh.direct(0, 1, peer).await.unwrap();
        let mut head = 0;
        for number in 0..MESSAGES {
            head = one.say(chat, &format!("{number:0BYTES$}")).await.unwrap()["seq"].as_u64().unwrap();
        }
        heads.push((chat, head));
    }
    // The first one finds what the owners' queues have written, or has it read and kept.
    reconnect(&mesh, 0, &heads).await;
    let with = cost(&mesh, &cassandra, &heads, RECONNECTS).await;
    println!("reads of Cassandra per reconnect with {CHATS} chats behind, with Redis: {with:?}");
    assert_eq!(with.get("messages"), None, "{with:?}");

    // A mesh of several owners is at hand.
    relaying::a_stream_goes_by_way_of_another_instance(&mesh, mesh.direct(0, 1, 99).await.unwrap(), 1).await;

    changes_are_read(&mesh, &mut one, mesh.direct(0, 1, 98).await.unwrap()).await;

    // All of it is killed while people chat.
    for peer in server.servers() {
        server.signal(&peer, "KILL").unwrap();
    }
    let (chat, mut two) = (heads[0].0, mesh.connect(1, 2).await.unwrap());
    two.sync(&[]).await.unwrap();
    let killed = Instant::now();
    talk(chat, &mut one, &mut two, "without Redis").await;
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    heads[0].1 += 2;
    let without = cost(&mesh, &cassandra, &heads, RECONNECTS).await;
    println!("without: {without:?}");
    #[allow(clippy::cast_precision_loss, reason = "ten")]
    let all = CHATS as f64;
    assert!(without["messages"] >= all, "each chat's events are read: {without:?}");

    let _server = spawn_blocking(move || server.up().map(|()| server)).await.unwrap().unwrap();
    let up = Instant::now();
    loop {
        let again = cost(&mesh, &cassandra, &heads, 2).await;
        if !again.contains_key("messages") {
            break;
        }
        assert!(up.elapsed() < 2 * BOUND, "Redis is back, and is not read: {again:?}");
    }
    println!("read from Redis again {:.1?} after it was back", up.elapsed());
    one = Client::connect(mesh.edge(0), &mesh.token(1), confab_tests::harness::Mode::Json).await.unwrap();
    one.sync(&[]).await.unwrap();
    talk(chat, &mut one, &mut two, "with Redis again").await;

    let group = mesh.group(0, 1, &[2]).await.unwrap();
    watching::a_service_follows_a_chat(&mut mesh, group, &mut one).await;
}
