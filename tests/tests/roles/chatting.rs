//! Users on different edges chat, and go on when processes are killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use confab_tests::checker::{Device, History};
use confab_tests::harness::{Client, Mesh, Shape, seed, wait_for};
use confab_tests::roam::{Field, roam};
use serde_json::json;

/// After a kill the others go on within this time.
const SOON: Duration = Duration::from_secs(5);

/// Both say something in `chat`, and hear each other.
async fn talk(chat: u64, one: &mut Client, two: &mut Client, round: &str) {
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
    let offline = |frame: &serde_json::Value| frame["type"] == "presence" && frame["status"] == "offline";
    let gone = one.expect_where("user 2 offline", offline).await;
    assert_eq!(gone.unwrap()["user_id"], 2);
}
