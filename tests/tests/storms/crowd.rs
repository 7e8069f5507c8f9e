//! Connections of many members, each as light as it can be: thousands share this process with what else a test does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use confab_bench::scan::scan;
use confab_tests::harness::{Client, Mesh, wait_for};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Handshakes at a time.
const OPENING: usize = 64;

/// A receipt with numbers, as a sender gets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub at: Instant,
    pub seq: u64,
    pub read_by: u64,
}

/// What the members saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub receipts: BTreeMap<u64, Vec<Receipt>>,
    /// Of each sender: the seqs of what they sent, and when they were told.
    pub acks: BTreeMap<u64, Vec<(Instant, u64)>>,
    /// Of each watcher of each user: the states, and when they were told.
    pub presence: BTreeMap<(u64, u64), Vec<(Instant, String)>>,
    /// What no member should see.
    pub wrong: Vec<String>,
}

/// Members of chats on their connections. Dropping it breaks them all.
pub(crate) struct Crowd {
    members: BTreeMap<u64, mpsc::UnboundedSender<String>>,
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Connects each user at the edge that `edge` says.
    pub(crate) async fn connect(mesh: &Mesh, users: impl Iterator<Item = u64>, edge: impl Fn(u64) -> usize) -> Self {
        let mut crowd = Self { members: BTreeMap::new(), seen: Arc::default(), tasks: JoinSet::new() };
        let opening = users.map(|user| {
            let connected = mesh.connect(edge(user), user);
            async move {
                let mut client = connected.await.unwrap();
                client.sync(&[]).await.unwrap();
                client
            }
        });
        let mut opening = stream::iter(opening).buffer_unordered(OPENING);
        while let Some(client) = opening.next().await {
            crowd.add(client);
        }
        crowd
    }

    /// One more, who has synced.
    pub(crate) fn add(&mut self, client: Client) {
        let (orders, queue) = mpsc::unbounded_channel();
        let member = Member { user: client.user, socket: client.into_socket(), seen: Arc::clone(&self.seen) };
        self.members.insert(member.user, orders);
        self.tasks.spawn(member.run(queue));
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member says something.
    pub(crate) fn say(&self, user: u64, frame: &Value) {
        self.members[&user].send(frame.to_string()).unwrap();
    }

    /// Waits until what was seen is enough.
    pub(crate) async fn until(&self, what: &str, bound: Duration, enough: impl Fn(&Seen) -> bool) {
        let waited = wait_for(what, bound, || std::future::ready(enough(&self.seen()).then_some(()))).await;
        let wrong = std::mem::take(&mut self.seen().wrong);
        assert!(wrong.is_empty(), "{} times something is wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        waited.unwrap();
    }
}

struct Member {
    user: u64,
    socket: WebSocketStream<TcpStream>,
    seen: Arc<Mutex<Seen>>,
}

impl Member {
    /// Reads each message that comes: says so of all that have come together.
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<String>) {
        loop {
            let sent = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.socket.send(Message::text(order)).await,
                    None => return,
                },
                message = self.socket.next() => {
                    let mut read = None;
                    let mut next = Some(message);
                    while let Some(message) = next {
                        match message {
                            Some(Ok(Message::Text(text))) => read = self.take(&text).or(read),
                            Some(Ok(_)) => {}
                            // An edge that was killed; what it should have told is missed.
                            Some(Err(_)) | None => return,
                        }
                        next = self.socket.next().now_or_never();
                    }
                    match read {
                        Some((chat, seq)) => {
                            let read = json!({"type": "read", "chat_id": chat, "seq": seq});
                            self.socket.send(Message::text(read.to_string())).await
                        }
                        None => Ok(()),
                    }
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Gives the message that it was, if it was one.
    fn take(&self, text: &str) -> Option<(u64, u64)> {
        let frame = scan(text)?;
        let at = Instant::now();
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match frame.kind {
            "message" => return frame.chat_id.zip(frame.seq),
            "ack" => seen().acks.entry(self.user).or_default().push((at, frame.seq?)),
            "receipt" => {
                let told: Value = serde_json::from_str(text).ok()?;
                let receipt = Receipt { at, seq: frame.seq?, read_by: told["read_by"].as_u64()? };
                seen().receipts.entry(self.user).or_default().push(receipt);
            }
            "presence" => {
                let told: Value = serde_json::from_str(text).ok()?;
                let state = (at, told["status"].as_str()?.to_owned());
                seen().presence.entry((self.user, told["user_id"].as_u64()?)).or_default().push(state);
            }
            "error" | "gap" | "reconnect" => seen().wrong.push(text.to_owned()),
            _ => {}
        }
        None
    }
}
