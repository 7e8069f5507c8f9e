//! A device's way to the server: a socket or a long poll, at one edge or another.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use confab_tests::harness::{Client, Incoming, Mode, Poller};
use serde_json::Value;
use tokio::time::timeout;

/// Polls that are ended by others (409) before the next one has to hold.
const ENDED_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Json,
    Proto,
    Poll,
}

pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Json, Transport::Proto, Transport::Poll];

enum Way {
    Socket(Box<Client>),
    Poll(Box<Poller>),
}

pub(crate) struct Link {
    way: Way,
    /// Of a poll: where it asks next.
    pub edge: SocketAddr,
    /// Answers to what was sent by a poll, and what came with its opening.
    answers: VecDeque<Value>,
}

impl Link {
    /// Connected, and in sync from these positions once `synced` has come.
    pub(crate) async fn open(
        transport: Transport,
        edge: SocketAddr,
        token: &str,
        positions: &[(u64, u64)],
    ) -> anyhow::Result<Self> {
        let mode = match transport {
            Transport::Json => Mode::Json,
            Transport::Proto => Mode::Proto,
            Transport::Poll => {
                let mut poller = Poller::open(edge, token, positions).await?;
                let answers = std::mem::take(&mut poller.backlog);
                return Ok(Self { way: Way::Poll(Box::new(poller)), edge, answers });
            }
        };
        let mut client = Client::connect(edge, token, mode).await?;
        let chats: serde_json::Map<String, Value> =
            positions.iter().map(|(chat, seq)| (chat.to_string(), (*seq).into())).collect();
        client.send(&serde_json::json!({"type": "sync", "chats": chats})).await?;
        Ok(Self { way: Way::Socket(Box::new(client)), edge, answers: VecDeque::new() })
    }

    pub(crate) fn is_poll(&self) -> bool {
        matches!(self.way, Way::Poll(_))
    }

    /// Sends frames, in their order.
    pub(crate) async fn say(&mut self, frames: &[Value]) -> anyhow::Result<()> {
        match &mut self.way {
            Way::Socket(client) => {
                for frame in frames {
                    client.send(frame).await?;
                }
            }
            Way::Poll(poller) => self.answers.extend(poller.send(self.edge, frames).await?),
        }
        Ok(())
    }

    /// Frames that come within `wait`; of a poll whole seconds count. None: nothing came.
    pub(crate) async fn hear(&mut self, wait: Duration) -> anyhow::Result<Vec<Value>> {
        if !self.answers.is_empty() {
            return Ok(self.answers.drain(..).collect());
        }
        match &mut self.way {
            Way::Socket(client) => match timeout(wait, client.next()).await {
                Err(_) => Ok(Vec::new()),
                Ok(incoming) => match incoming? {
                    Incoming::Frame(frame) => Ok(vec![frame]),
                    other => bail!("{other:?}"),
                },
            },
            Way::Poll(poller) => poll(poller, self.edge, wait.as_secs()).await,
        }
    }

    /// Of a poll: asks, and the answer gets lost. The same cursor gives the same events again.
    pub(crate) async fn lose_an_answer(&mut self) -> anyhow::Result<()> {
        if let Way::Poll(poller) = &mut self.way {
            poller.ask(self.edge, &poller.cursor, 0).await?;
        }
        Ok(())
    }

    /// Goes: politely, or without a word.
    pub(crate) async fn close(self, is_polite: bool) -> anyhow::Result<()> {
        match self.way {
            Way::Socket(client) if is_polite => client.close().await,
            Way::Poll(poller) if is_polite => poller.end(self.edge).await.map(drop),
            _ => Ok(()),
        }
    }
}

async fn poll(poller: &mut Poller, edge: SocketAddr, wait: u64) -> anyhow::Result<Vec<Value>> {
    for _ in 0..ENDED_MAX {
        let answer = poller.ask(edge, &poller.cursor, wait).await?;
        match answer.status {
            200 => {
                let page = answer.json()?;
                page["cursor"].as_str().with_context(|| format!("no cursor: {page}"))?.clone_into(&mut poller.cursor);
                return Ok(page["frames"].as_array().with_context(|| format!("no frames: {page}"))?.clone());
            }
            // docs/protocol.md, "Long poll": `history` by way of another edge ends a poll; 503 is retryable.
            409 | 503 => {}
            _ => bail!("a poll: {} {}", answer.status, answer.text()),
        }
    }
    bail!("polls are ended by others all the time")
}
