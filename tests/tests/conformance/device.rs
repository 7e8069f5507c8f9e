//! A client's device, however it speaks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use confab_tests::harness::{BOUND, Client, Mode, Poller, Stage};
use serde_json::{Map, Value, json};

/// Messages that are sent before their acks are waited for.
const AT_ONCE: usize = 50;

/// Polls until there is nothing new, at most.
const POLLS_MAX: usize = 4;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Json,
    Proto,
    Poll,
}

pub(crate) const ALL: &[Transport] = &[Transport::Json, Transport::Proto, Transport::Poll];
pub(crate) const SOCKETS: &[Transport] = &[Transport::Json, Transport::Proto];
pub(crate) const JSON: &[Transport] = &[Transport::Json];

impl Transport {
    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Json => Mode::Json,
            Self::Proto => Mode::Proto,
            Self::Poll => panic!("a poll has no socket"),
        }
    }
}

enum Link {
    Socket(Box<Client>),
    Poll(Box<Poller>, VecDeque<Value>),
}

pub(crate) struct Device<'a> {
    stage: &'a Stage,
    pub user: u64,
    pub hello: Value,
    /// Of its sync.
    pub synced: Value,
    link: Link,
}

impl<'a> Device<'a> {
    /// In sync from these (chat, seq) on.
    pub(crate) async fn open(
        stage: &'a Stage,
        transport: Transport,
        user: u64,
        device: &str,
        positions: &[(u64, u64)],
    ) -> Self {
        let token = stage.token(user, device);
        let mut opened = match transport {
            Transport::Poll => {
                let mut poller = Poller::open(stage.edge(), &token, positions).await.unwrap();
                let hello = poller.backlog.pop_front().unwrap();
                let link = Link::Poll(Box::new(poller), VecDeque::new());
                Self { stage, user, hello, synced: Value::Null, link }
            }
            _ => {
                let client = Client::connect(stage.edge(), &token, transport.mode()).await.unwrap();
                let hello = client.hello.clone();
                let mut opened = Self { stage, user, hello, synced: Value::Null, link: Link::Socket(Box::new(client)) };
                let chats: Map<String, Value> =
                    positions.iter().map(|(chat, seq)| (chat.to_string(), json!(seq))).collect();
                opened.say(json!({"type": "sync", "chats": chats})).await;
                opened
            }
        };
        opened.synced = opened.expect("synced").await;
        opened
    }

    /// Sends a frame.
    pub(crate) async fn say(&mut self, frame: Value) {
        match &mut self.link {
            Link::Socket(client) => client.send(&frame).await.unwrap(),
            Link::Poll(poller, answers) => {
                let answered = poller.send(self.stage.edge(), &[frame]).await.unwrap();
                answers.extend(answered);
            }
        }
    }

    /// The next frame that is wanted; others stay, in order.
    pub(crate) async fn expect_where(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        match &mut self.link {
            Link::Socket(client) => client.expect_where(what, wanted).await.unwrap(),
            Link::Poll(poller, answers) => match answers.iter().position(&wanted) {
                Some(at) => answers.remove(at).unwrap(),
                None => poller.expect_where_at(|| self.stage.edge(), what, wanted).await.unwrap(),
            },
        }
    }

    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        self.expect_where(kind, |frame| frame["type"] == kind).await
    }

    pub(crate) async fn expect_error(&mut self, reference: &str) -> Value {
        let what = format!("an error to {reference}");
        self.expect_where(&what, |frame| frame["type"] == "error" && frame["ref"] == reference).await
    }

    /// Sends what takes a seq; the ack's seq.
    pub(crate) async fn put(&mut self, mut frame: Value) -> u64 {
        let client_id = uuid::Uuid::new_v4().to_string();
        frame["client_id"] = json!(client_id);
        self.say(frame).await;
        let answer =
            |frame: &Value| matches!(frame["type"].as_str(), Some("ack" | "error")) && frame["client_id"] == client_id;
        let answer = self.expect_where("the ack", answer).await;
        answer["seq"].as_u64().unwrap_or_else(|| panic!("not acked: {answer}"))
    }

    /// Sends a message; its seq.
    pub(crate) async fn message(&mut self, chat: u64, content: &str) -> u64 {
        self.put(json!({"type": "message", "chat_id": chat, "content": content})).await
    }

    /// Sends messages, many at once.
    pub(crate) async fn messages(&mut self, chat: u64, count: usize) {
        let frame =
            |number| json!({"type": "message", "chat_id": chat, "content": format!("message {number}"), "ref": "many"});
        let is_ack = |frame: &Value| frame["type"] == "ack" && frame["ref"] == "many";
        for first in (0..count).step_by(AT_ONCE) {
            let frames: Vec<Value> = (first..count.min(first + AT_ONCE)).map(frame).collect();
            match &mut self.link {
                Link::Socket(client) => {
                    for frame in &frames {
                        client.send(frame).await.unwrap();
                    }
                    for _ in &frames {
                        client.expect_where("an ack", is_ack).await.unwrap();
                    }
                    client.forget_backlog();
                }
                Link::Poll(poller, _) => {
                    let answers = poller.send(self.stage.edge(), &frames).await.unwrap();
                    assert!(answers.len() == frames.len() && answers.iter().all(is_ack), "{answers:?}");
                }
            }
        }
    }

    /// The message at a seq.
    pub(crate) async fn message_at(&mut self, chat: u64, seq: u64) -> Value {
        let is_it = |frame: &Value| frame["type"] == "message" && frame["chat_id"] == chat && frame["seq"] == seq;
        self.expect_where(&format!("message {seq} of chat {chat}"), is_it).await
    }

    /// Closes its socket.
    pub(crate) async fn leave(self) {
        match self.link {
            Link::Socket(client) => client.close().await.unwrap(),
            Link::Poll(..) => panic!("a poll has no socket"),
        }
    }

    /// The code with which the server closes its socket.
    pub(crate) async fn expect_close(&mut self) -> u16 {
        match &mut self.link {
            Link::Socket(client) => client.expect_close().await.unwrap(),
            Link::Poll(..) => panic!("a poll has no socket"),
        }
    }

    /// All frames that there are by now.
    pub(crate) async fn so_far(&mut self) -> Vec<Value> {
        match &mut self.link {
            Link::Socket(client) => client.until_pong().await.unwrap(),
            Link::Poll(poller, answers) => {
                // An edge that goes on with it tells states again: it may never be without any.
                for _ in 0..POLLS_MAX {
                    if poller.poll(self.stage.edge(), 1).await.unwrap() == 0 {
                        break;
                    }
                }
                answers.drain(..).chain(poller.backlog.drain(..)).collect()
            }
        }
    }

    /// Waits until a frame of those that come is wanted, whatever else comes.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.within(3 * BOUND, wanted).await.unwrap_or_else(|| panic!("waiting for {what}"))
    }

    /// The same, unless it takes longer.
    pub(crate) async fn within(&mut self, bound: Duration, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let begun = Instant::now();
        while begun.elapsed() < bound {
            if let Some(frame) = self.so_far().await.into_iter().find(&wanted) {
                return Some(frame);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }
}
