//! At rest: a device gets what there still is for it, until it has all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Device;
use crate::finding::Kind;
use crate::link::Link;
use crate::replica::{BACK, Chat};

/// Pages of a history, for one chat.
const PAGES_MAX: usize = 100;

/// Polls until there is nothing new, at most.
const POLLS_MAX: usize = 4;

impl Device {
    /// Waits until it is where its chats end for it, has read back to where they begin, and nothing more comes.
    pub(crate) async fn come_to_rest(&mut self, ends: &BTreeMap<u64, u64>, until: Instant) -> anyhow::Result<()> {
        self.connect().await?;
        while let Some((chat, end)) = self.behind(ends) {
            if Instant::now() > until {
                let found = format!("up to {}", self.replica.position(chat));
                self.replica.find(Kind::Missing, chat, format!("all up to {end}"), found);
                return Ok(());
            }
            self.wait_for_more().await?;
        }
        self.read_back(until).await?;
        self.ask_who_is_there().await?;
        self.take_the_rest(until).await
    }

    fn behind(&self, ends: &BTreeMap<u64, u64>) -> Option<(u64, u64)> {
        let ends = ends.iter().map(|(chat, end)| (*chat, *end));
        ends.into_iter().find(|(chat, end)| self.replica.position(*chat) < *end)
    }

    /// What it has not got, as a client's user scrolls up.
    async fn read_back(&mut self, until: Instant) -> anyhow::Result<()> {
        let chats: Vec<u64> = self.replica.chats.keys().copied().collect();
        for chat in chats {
            let mut pages = 0;
            while let Some(before) = self.replica.chats.get(&chat).and_then(Chat::lacks_before) {
                pages += 1;
                if pages > PAGES_MAX || Instant::now() > until {
                    self.replica.find(Kind::Missing, chat, "a history that has an end", format!("before {before}"));
                    break;
                }
                self.say(vec![
                    json!({"type": "history", "chat_id": chat, "before": before, "limit": 200, "ref": BACK}),
                ])
                .await?;
                let has_come =
                    |device: &Self| device.replica.chats.get(&chat).and_then(Chat::lacks_before) != Some(before);
                while !has_come(self) && Instant::now() <= until {
                    self.wait_for_more().await?;
                }
            }
        }
        Ok(())
    }

    /// A last `ping` shows whether anything comes behind it that must not; and what was said before has been read.
    async fn take_the_rest(&mut self, until: Instant) -> anyhow::Result<()> {
        if self.link.as_ref().is_some_and(Link::is_poll) {
            for _ in 0..POLLS_MAX {
                // An edge that goes on with it tells states again: it may never be without any.
                if self.hear(Duration::ZERO).await? == 0 {
                    break;
                }
            }
            return Ok(());
        }
        let name = self.ping().await?;
        while self.ponged.as_deref() != Some(name.as_str()) {
            if Instant::now() > until {
                self.replica.find(Kind::Connection, 0, "a pong", "none in time");
                return Ok(());
            }
            self.wait_for_more().await?;
        }
        self.said.settle("before a ping");
        Ok(())
    }

    /// Takes what comes in a while: receipts are told one per 5 s.
    pub(crate) async fn listen(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            let wait = if self.link.as_ref().is_some_and(Link::is_poll) { 1_000 } else { 200 };
            self.hear(Duration::from_millis(wait)).await?;
        }
        Ok(())
    }
}
