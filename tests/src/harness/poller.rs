//! A long-poll client for tests: each of its requests may go to another edge.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::BOUND;
use super::http::{self, Response};

/// Seconds that a poll waits.
const WAIT_S: u64 = 5;

pub struct Poller {
    token: String,
    pub session: String,
    pub cursor: String,
    /// Frames that nobody has taken yet, in order.
    pub backlog: VecDeque<Value>,
}

impl Poller {
    /// Opens a session for a client that has these (chat, seq).
    ///
    /// # Errors
    /// If it can't be opened, or doesn't say `hello`.
    pub async fn open(addr: SocketAddr, token: &str, positions: &[(u64, u64)]) -> anyhow::Result<Self> {
        let sync: Map<String, Value> = positions.iter().map(|(chat, seq)| (chat.to_string(), json!(seq))).collect();
        let response = http::request(addr, "POST", "/poll", Some(token), Some(&json!({"sync": sync}))).await?;
        ensure!(response.status == 200, "opening a poll: {} {}", response.status, response.text());
        ensure!(response.header("cache-control") == Some("no-store"), "{:?}", response.headers);
        let opened = response.json()?;
        let text =
            |name: &str| opened[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {opened}"));
        let mut poller = Self {
            token: token.to_owned(),
            session: text("session")?,
            cursor: String::new(),
            backlog: VecDeque::new(),
        };
        poller.take(&opened)?;
        ensure!(poller.backlog.front().is_some_and(|frame| frame["type"] == "hello"), "{opened}");
        Ok(poller)
    }

    fn take(&mut self, page: &Value) -> anyhow::Result<()> {
        self.cursor = page["cursor"].as_str().with_context(|| format!("no cursor: {page}"))?.to_owned();
        self.backlog.extend(page["frames"].as_array().with_context(|| format!("no frames: {page}"))?.iter().cloned());
        Ok(())
    }

    /// Asks once, with any cursor, and takes nothing.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask(&self, addr: SocketAddr, cursor: &str, wait: u64) -> anyhow::Result<Response> {
        let path = format!("/poll?session={}&cursor={cursor}&wait={wait}", self.session);
        http::request(addr, "GET", &path, Some(&self.token), None).await
    }

    /// Asks once, and takes what comes: how many frames.
    ///
    /// # Errors
    /// If the answer isn't a page.
    pub async fn poll(&mut self, addr: SocketAddr, wait: u64) -> anyhow::Result<usize> {
        let response = self.ask(addr, &self.cursor, wait).await?;
        ensure!(response.status == 200, "a poll: {} {}", response.status, response.text());
        let before = self.backlog.len();
        self.take(&response.json()?)?;
        Ok(self.backlog.len() - before)
    }

    /// The next frame for which `wanted` holds; others stay, in order.
    ///
    /// # Errors
    /// If it doesn't come within [`BOUND`].
    pub async fn expect_where(
        &mut self,
        addr: SocketAddr,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.expect_where_at(|| addr, what, wanted).await
    }

    /// The same, each time at another edge.
    ///
    /// # Errors
    /// If it doesn't come within [`BOUND`].
    pub async fn expect_where_at(
        &mut self,
        edge: impl Fn() -> SocketAddr,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.backlog.iter().position(&wanted) {
                return self.backlog.remove(at).context("unreachable: the position was just found");
            }
            ensure!(begun.elapsed() < BOUND, "waiting for {what}; instead: {:?}", self.backlog);
            self.poll(edge(), WAIT_S).await.with_context(|| format!("waiting for {what}"))?;
        }
    }

    /// The next frame of a type.
    ///
    /// # Errors
    /// As [`Self::expect_where`].
    pub async fn expect(&mut self, addr: SocketAddr, kind: &str) -> anyhow::Result<Value> {
        self.expect_where(addr, kind, |frame| frame["type"] == kind).await
    }

    /// Sends frames: the answers.
    ///
    /// # Errors
    /// If it isn't answered by a list.
    pub async fn send(&self, addr: SocketAddr, frames: &[Value]) -> anyhow::Result<Vec<Value>> {
        let path = format!("/poll/send?session={}", self.session);
        let response = http::request(addr, "POST", &path, Some(&self.token), Some(&json!(frames))).await?;
        ensure!(response.status == 200, "sending: {} {}", response.status, response.text());
        Ok(response.json()?.as_array().context("a list")?.clone())
    }

    /// Ends the session: the status.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn end(&self, addr: SocketAddr) -> anyhow::Result<u16> {
        let path = format!("/poll?session={}", self.session);
        Ok(http::request(addr, "DELETE", &path, Some(&self.token), None).await?.status)
    }
}
