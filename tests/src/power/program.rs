//! The real program on the lossy disk: `confab serve`, with senders over WebSocket until the power goes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message as Ws;

use super::{Items, Workload};
use crate::harness::Server;
use crate::harness::client::{Client, Mode, message};

/// The chat that a fresh folder has, and who is in it.
const CHAT: u64 = 1;
const MEMBERS: [u64; 2] = [1, 2];
/// Sends that each sender keeps un-acked.
const WINDOW: usize = 8;
const PAGE: usize = 200;

/// Runs the program; each ack's key is its seq.
pub struct Program {
    /// Connections that send; each is a device of its own.
    pub senders: usize,
    /// Makes the program ack what is only buffered: control.
    pub unsafe_durability: bool,
    /// Starts that had to cut a torn batch off the journal.
    pub torn: u32,
    /// Messages sent by all runs, so that each has its own content.
    sent: AtomicU64,
}

impl Program {
    #[must_use]
    pub fn new(senders: usize, unsafe_durability: bool) -> Self {
        Self { senders, unsafe_durability, torn: 0, sent: AtomicU64::new(0) }
    }

    fn env(&self) -> &'static [(&'static str, &'static str)] {
        if self.unsafe_durability { &[("CONFAB_UNSAFE_DURABILITY", "buffered")] } else { &[] }
    }
}

impl Workload for Program {
    async fn run_until_cut(
        &mut self,
        dir: &Path,
        mut cut: watch::Receiver<bool>,
        acked: &mut Items,
    ) -> anyhow::Result<()> {
        let starting = Server::start_on(dir, self.env(), &[]);
        let mut server = match starting.await {
            Ok(server) => server,
            // At the cut: the power went while it started.
            Err(error) => {
                let at_the_cut = *cut.borrow();
                return if at_the_cut { Ok(()) } else { Err(error.context("starting on the lossy disk")) };
            }
        };
        let (acks, mut taken) = mpsc::unbounded_channel();
        let senders: Vec<_> = (0..self.senders)
            .map(|number| {
                let user = MEMBERS[number % MEMBERS.len()];
                let token = server.minter().token(user, Some(&format!("sender-{number}")));
                let run = self.sent.fetch_add(1_000_000, Ordering::Relaxed);
                tokio::spawn(send_until_closed(server.addr(), token, run, acks.clone()))
            })
            .collect();
        drop(acks);
        let cut_came = {
            let waiting = async { cut.wait_for(|cut| *cut).await.is_ok() };
            tokio::time::timeout(crate::harness::BOUND * 2, waiting).await.is_ok()
        };
        server.kill9()?;
        for sender in senders {
            sender.await?;
        }
        while let Some((seq, content)) = taken.recv().await {
            acked.insert(key(seq), content);
        }
        if !cut_came {
            bail!(
                "the load didn't reach the cut: too few file operations; the server's log ends:\n{}",
                server.log_tail()
            );
        }
        Ok(())
    }

    async fn recovered(&mut self, dir: &Path) -> anyhow::Result<Items> {
        let mut server = Server::start_on(dir, self.env(), &[]).await?;
        let mut client = server.connect(MEMBERS[0]).await?;
        let read =
            read_all(&mut client).await.with_context(|| format!("the server's log ends:\n{}", server.log_tail()));
        self.torn += u32::from(server.log_tail().contains("torn by a power cut"));
        server.kill9()?;
        read
    }
}

fn key(seq: u64) -> String {
    format!("{seq:08}")
}

/// Sends with a window until the connection ends, and passes on (seq, "message_id content") of each ack.
async fn send_until_closed(
    addr: std::net::SocketAddr,
    token: String,
    first: u64,
    acks: mpsc::UnboundedSender<(u64, String)>,
) {
    // Whatever fails here fails because the power or the server is gone, and the run's end says so.
    let Ok(client) = Client::connect(addr, &token, Mode::Json).await else { return };
    let mut socket = client.into_socket();
    let mut next = first;
    let mut open = 0;
    loop {
        while open < WINDOW {
            let frame = message(CHAT, &content(next), &next.to_string()).to_string();
            if socket.send(Ws::text(frame)).await.is_err() {
                return;
            }
            next += 1;
            open += 1;
        }
        let text = match socket.next().await {
            Some(Ok(Ws::Text(text))) => text,
            Some(Ok(_)) => continue,
            _ => return,
        };
        let Ok(frame) = serde_json::from_str::<Value>(&text) else { return };
        match (frame["type"].as_str(), frame["seq"].as_u64(), frame["client_id"].as_str()) {
            (Some("ack"), Some(seq), Some(client_id)) => {
                open -= 1;
                let sent = client_id.parse().unwrap_or(0);
                let there = item(&frame["message_id"], &content(sent));
                if acks.send((seq, there)).is_err() {
                    return;
                }
            }
            (Some("error"), ..) => open = open.saturating_sub(1),
            _ => {}
        }
    }
}

fn content(number: u64) -> String {
    format!("message {number} {}", "z".repeat(usize::try_from(number % 300).unwrap_or(0)))
}

fn item(message_id: &Value, content: &str) -> String {
    format!("{} {content}", message_id.as_str().unwrap_or("no id"))
}

/// The whole chat by `history`, newest page first. Also checks that no seq is missing.
async fn read_all(client: &mut Client) -> anyhow::Result<Items> {
    let mut items = Items::new();
    let mut before: Option<u64> = None;
    loop {
        let mut ask = json!({"type": "history", "chat_id": CHAT, "limit": PAGE});
        if let Some(before) = before {
            ask["before"] = json!(before);
        }
        client.send(&ask).await?;
        let page = client.expect("history").await?;
        let events = page["events"].as_array().with_context(|| format!("no events in {page}"))?;
        for event in events {
            let seq = event["seq"].as_u64().with_context(|| format!("no seq in {event}"))?;
            let there = match event["type"].as_str() {
                Some("message") => item(&event["message_id"], event["content"].as_str().unwrap_or("no content")),
                _ => event["type"].to_string(),
            };
            if items.insert(key(seq), there).is_some() {
                bail!("history gave seq {seq} twice");
            }
        }
        let first = events.first().and_then(|event| event["seq"].as_u64());
        if page["more"] != true || first.is_none() {
            break;
        }
        before = first;
    }
    let last = items.keys().next_back().and_then(|key| key.parse::<usize>().ok()).unwrap_or(0);
    let first = items.keys().next().and_then(|key| key.parse::<usize>().ok()).unwrap_or(1);
    if first > 1 || last + 1 - first != items.len() {
        bail!("the log has a hole: {} events from seq {first} to {last}", items.len());
    }
    Ok(items)
}
