//! A chat is followed by a service, at whichever instance it asks, and goes on where the chat does.

use std::time::Duration;

use confab_proto::message::v1::{Event, WatchChatRequest, WatchChatResponse, event};
use confab_tests::harness::shards::owner;
use confab_tests::harness::{BOUND, Client, Mesh, Signal, wait_for};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

struct Watch {
    frames: Streaming<WatchChatResponse>,
    events: std::collections::VecDeque<Event>,
}

impl Watch {
    async fn start(mesh: &Mesh, at: &str, asked: WatchChatRequest) -> Result<Self, Status> {
        let mut messages = mesh.messages_as("service-bot", at).await.unwrap();
        let mut frames = messages.watch_chat(asked).await?.into_inner();
        let first = timeout(BOUND, frames.message()).await.expect("it says that it watches")?.expect("a frame");
        let mut watch = Self { frames, events: Default::default() };
        watch.take(first);
        Ok(watch)
    }

    fn take(&mut self, frame: WatchChatResponse) {
        let decoded = frame.events.iter().map(|event| Event::decode(&event[..]).unwrap());
        self.events.extend(decoded);
    }

    async fn next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let frame = timeout(BOUND, self.frames.message()).await.expect("an event in time")?;
            self.take(frame.ok_or_else(|| Status::cancelled("it has ended"))?);
        }
    }
}

fn text(event: &Event) -> &str {
    match &event.body {
        Some(event::Body::Content(content)) => &content.text,
        _ => "",
    }
}

/// `chat`: a group whose admin `one` is, user 1, with user 2. In the end its owner ends, too.
pub(crate) async fn a_service_follows_a_chat(mesh: &mut Mesh, chat: u64, one: &mut Client) {
    mesh.certs(&mesh.certs_folder(), &["service:bot"]).unwrap();
    let map = mesh.shard_map().await.unwrap();
    let at = owner(&map, chat).unwrap().to_owned();
    let elsewhere = map.owners.iter().find(|name| **name != at).unwrap().clone();
    let asked = |user_id, after| WatchChatRequest { chat_id: chat, user_id, after };

    let before = one.say(chat, "before").await.unwrap()["seq"].as_u64().unwrap();
    let mut whole = Watch::start(mesh, &elsewhere, asked(0, Some(0))).await.unwrap();
    let mut fresh = Watch::start(mesh, &at, asked(0, None)).await.unwrap();
    let mut member = Watch::start(mesh, &elsewhere, asked(2, Some(before - 1))).await.unwrap();
    for seq in 1..=before {
        assert_eq!(whole.next().await.unwrap().seq, seq, "all of the log");
    }
    assert_eq!(text(&member.next().await.unwrap()), "before");
    let stranger = Watch::start(mesh, &elsewhere, asked(77, Some(0))).await.err().unwrap();
    assert_eq!(stranger.code(), Code::PermissionDenied, "{stranger:?}");
    let nowhere = WatchChatRequest { chat_id: 1 << 50, ..asked(0, Some(0)) };
    assert_eq!(Watch::start(mesh, &at, nowhere).await.err().unwrap().code(), Code::PermissionDenied);
    for number in 0..50 {
        let said = one.say(chat, &format!("live {number}")).await.unwrap();
        for watch in [&mut whole, &mut fresh, &mut member] {
            let event = watch.next().await.unwrap();
            assert_eq!((text(&event), said["seq"].as_u64()), (&*format!("live {number}"), Some(event.seq)));
        }
    }

    // Who is removed sees that, and their stream ends.
    let path = format!("/v1/chats/{chat}/members/2");
    assert_eq!(mesh.http(0, 1, "DELETE", &path, &serde_json::Value::Null).await.unwrap().status, 204);
    assert!(matches!(member.next().await.unwrap().body, Some(event::Body::Membership(_))));
    assert_eq!(member.next().await.unwrap_err().code(), Code::Cancelled, "it ends well");
    let removed = whole.next().await.unwrap().seq;

    // Its owner goes: who asks again, after what has come, misses nothing.
    let name =
        (0..2).find(|at_| mesh.grpc("message-svc", *at_).to_string() == at).map(|at| format!("message-svc-{at}"));
    let owner = mesh.process(&name.unwrap());
    owner.signal(Signal::Term).unwrap();
    let ended = whole.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let said = one.say(chat, "under its heir").await.unwrap()["seq"].as_u64().unwrap();
    assert_eq!(said, removed + 1);
    let again = || async { Watch::start(mesh, &elsewhere, asked(0, Some(removed))).await.ok() };
    let mut again = wait_for("the heir", Duration::from_secs(10), again).await.unwrap();
    let event = again.next().await.unwrap();
    assert_eq!((event.seq, text(&event)), (said, "under its heir"));
}
