//! Several instances of presence and fanout, and several edges: what is sent arrives, whichever of them fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::{Duration, Instant};

use confab_tests::harness::Client;
use serde_json::json;

use crate::cluster::{Cluster, Passes};

/// User 1 on one edge and others on the other one, in a chat with each: enough chats and users for every instance to have some.
struct Talk {
    one: Client,
    others: Vec<(u64, Client)>,
}

impl Talk {
    async fn new(cluster: &Cluster) -> Self {
        let one = cluster.client(0, 1).await;
        let mut others = Vec::new();
        for user in 2..10 {
            let chat = cluster.chat(1, user).await;
            others.push((chat, cluster.client(1, user).await));
        }
        Self { one, others }
    }

    /// Everybody says something to their peer, and it arrives within `bound`.
    async fn talk(&mut self, round: &str, bound: Duration) {
        let began = Instant::now();
        for (chat, other) in &mut self.others {
            let said = self.one.say(*chat, &format!("{round} to {chat}")).await.unwrap();
            let heard = other.expect_message(*chat).await.unwrap();
            assert_eq!((&heard["seq"], &heard["content"]), (&said["seq"], &json!(format!("{round} to {chat}"))));
            let said = other.say(*chat, &format!("{round} from {chat}")).await.unwrap();
            let is_it = |frame: &serde_json::Value| frame["type"] == "message" && frame["seq"] == said["seq"];
            self.one.expect_where("the answer", |frame| is_it(frame) && frame["chat_id"] == *chat).await.unwrap();
            other.expect_where("its own", is_it).await.unwrap();
        }
        assert!(began.elapsed() < bound, "{round} took {:?}", began.elapsed());
    }

    /// Nobody was sent away, and nothing came twice.
    async fn nothing_else_has_come(&mut self) {
        for client in self.others.iter_mut().map(|(_, client)| client).chain([&mut self.one]) {
            let others = client.until_pong().await.unwrap();
            let unexpected = |frame: &&serde_json::Value| frame["type"] == "reconnect" || frame["type"] == "error";
            assert_eq!(others.iter().find(unexpected), None);
        }
    }
}

const SOON: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn every_chat_goes_its_way_and_one_of_each_is_enough() {
    let cluster = Cluster::start(0).await;
    let mut talk = Talk::new(&cluster).await;
    talk.talk("with all", SOON).await;
    for instance in ["f", "p", "g", "q"] {
        cluster.set("*", instance, Passes::Nothing);
        talk.talk(&format!("without {instance}"), SOON).await;
        cluster.set("*", instance, Passes::All);
        talk.talk(&format!("with {instance} again"), SOON).await;
    }
    talk.nothing_else_has_come().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presence_instance_that_begins_anew_learns_all_before_it_is_relied_on() {
    let cluster = Cluster::start(15).await;
    let mut talk = Talk::new(&cluster).await;
    for (instance, name) in [(0, "q"), (1, "p"), (0, "q")] {
        cluster.restart_presence(instance, 15);
        // At once, and with what the other one knows; then with what it has learned.
        talk.talk("just after a start", SOON).await;
        cluster.set("*", name, Passes::Nothing);
        talk.talk("without the other", SOON).await;
        cluster.set("*", name, Passes::All);
        talk.talk("with both", SOON).await;
    }
    talk.nothing_else_has_come().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_presence_instance_delays_by_its_bound_and_no_more() {
    let cluster = Cluster::start(0).await;
    let mut talk = Talk::new(&cluster).await;
    cluster.set("*", "p", Passes::Frozen);
    // Each time it is found again it is asked again: this is the slowest that it can be.
    talk.talk("with one frozen", Duration::from_secs(30)).await;
    cluster.set("*", "p", Passes::All);
    talk.talk("thawed", SOON).await;
    talk.nothing_else_has_come().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_misses_while_its_streams_are_away_comes_when_they_are_back() {
    // Within what is kept, and beyond it: by markers.
    for (away, count) in [(Duration::from_millis(300), 20), (Duration::from_millis(11_500), 5)] {
        let cluster = Cluster::start(0).await;
        let mut talk = Talk::new(&cluster).await;
        talk.talk("before", SOON).await;
        cluster.set("edge-1", "f", Passes::Nothing);
        cluster.set("edge-1", "g", Passes::Nothing);
        let mut said = Vec::new();
        for number in 0..count {
            for (chat, _) in &talk.others {
                said.push((*chat, talk.one.say(*chat, &format!("missed {number}")).await.unwrap()["seq"].clone()));
            }
        }
        tokio::time::sleep(away).await;
        cluster.set("edge-1", "*", Passes::All);
        for (chat, other) in &mut talk.others {
            for (_, seq) in said.iter().filter(|(of, _)| of == chat) {
                assert_eq!(other.expect_message(*chat).await.unwrap()["seq"], *seq);
            }
        }
        talk.talk("after", SOON).await;
        talk.nothing_else_has_come().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_edge_is_noticed_by_its_silence_and_holds_up_nobody() {
    let cluster = Cluster::start(0).await;
    let mut talk = Talk::new(&cluster).await;
    talk.one.send(&json!({"type": "watch", "user_ids": [2]})).await.unwrap();
    let online = |frame: &serde_json::Value| frame["type"] == "presence" && frame["status"] == "online";
    talk.one.expect_where("online", online).await.unwrap();
    let began = Instant::now();
    cluster.set("edge-1", "*", Passes::Nothing);
    let (chat, _) = talk.others[0];
    let mut gone = cluster.client(0, 2).await;
    gone.close().await.unwrap();
    gone = cluster.client(0, 3).await;
    talk.one.say(chat, "to nobody").await.unwrap();
    let (chat, _) = talk.others[1];
    talk.one.say(chat, "to who has come again").await.unwrap();
    gone.expect_message(chat).await.unwrap();
    let offline = |frame: &serde_json::Value| frame["type"] == "presence" && frame["status"] == "offline";
    let mut told = talk.one.expect_where("offline", offline).await;
    if told.is_err() && began.elapsed() < Duration::from_secs(22) {
        told = talk.one.expect_where("offline", offline).await;
    }
    let frame = told.unwrap();
    assert_eq!((&frame["user_id"], &frame["status"]), (&json!(2), &json!("offline")));
    assert!((8..22).contains(&began.elapsed().as_secs()), "after {:?}", began.elapsed());
}
