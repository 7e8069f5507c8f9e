//! Clients that chat through nginx while a process is killed and started again, judged by the checker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::checker::{Device, History};
use crate::cluster::nginx::FRONT;
use crate::harness::token::Minter;
use crate::harness::{http, wait_for};
use crate::roam::{Field, roam};

const GROUPS: usize = 4;
/// Of each group; each has a connection of its own.
const MEMBERS: usize = 6;
/// Of each member, one after the other.
const MESSAGES: usize = 30;
const PACE: Duration = Duration::from_millis(500);
/// What may be acked before it happens: most has to come after it.
const BEFORE: u64 = 2 * (GROUPS * MEMBERS) as u64;
/// How long the load may take in all.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Load {
    field: Arc<Field>,
    roamers: Vec<JoinHandle<anyhow::Result<History>>>,
    seed: u64,
}

/// What the checker found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judged {
    pub(super) acked: usize,
    pub(super) reconnects: u64,
}

impl Load {
    /// Chats are made, and messages flow. `first`: a user above all that have been in a load before.
    ///
    /// # Errors
    /// If a chat can't be made, or nothing is acked.
    pub(super) async fn begin(minter: &Minter, seed: u64, first: u64) -> anyhow::Result<Self> {
        let users: Vec<u64> = (first..).take(GROUPS * MEMBERS).collect();
        let mut chats = Vec::new();
        for members in users.chunks(MEMBERS) {
            chats.push(group(minter, members).await?);
        }
        // Nobody drops a connection but the one that is killed.
        let mut field = Field::new([FRONT], seed, u32::MAX - 1..u32::MAX, &chats, users.len());
        field.pace = PACE;
        let field = Arc::new(field);
        let mut roamers = Vec::new();
        for (at, user) in users.iter().enumerate() {
            let (field, token, chat) = (Arc::clone(&field), minter.token(*user, None), chats[at / MEMBERS]);
            let device = Device { user: *user, name: "default".to_owned() };
            roamers.push(tokio::spawn(async move { roam(&field, device, token, &[chat], MESSAGES, PATIENCE).await }));
        }
        let load = Self { field, roamers, seed };
        load.field.reaches(BEFORE, "the first acks", PATIENCE).await?;
        Ok(load)
    }

    /// Where every chat is.
    pub(super) fn heads(&self) -> BTreeMap<u64, u64> {
        self.field.heads()
    }

    /// Waits until every chat is further than at `heads`, which was at `since`; how long that took.
    ///
    /// # Errors
    /// If one isn't within `bound`.
    pub(super) async fn passes(
        &self,
        heads: &BTreeMap<u64, u64>,
        since: Instant,
        bound: Duration,
    ) -> anyhow::Result<Duration> {
        let passed = || self.field.heads().iter().all(|(chat, head)| heads.get(chat).is_some_and(|then| head > then));
        wait_for("an ack in every chat", bound, || std::future::ready(passed().then(|| since.elapsed()))).await
    }

    /// Until all is sent and seen by all.
    ///
    /// # Errors
    /// If something was lost, came twice or out of order.
    pub(super) async fn end(self) -> anyhow::Result<Judged> {
        let mut history = History::new(self.seed);
        for roamer in self.roamers {
            history.absorb(roamer.await??);
        }
        let report = history.judge();
        ensure!(report.is_clean(), "{report}");
        let acked = report.counts.acked;
        ensure!(acked == GROUPS * MEMBERS * MESSAGES, "{acked} acked");
        Ok(Judged { acked, reconnects: self.field.reconnects() })
    }
}

async fn group(minter: &Minter, members: &[u64]) -> anyhow::Result<u64> {
    let creator = members.first().copied().context("a group of nobody")?;
    let body = json!({"kind": "group", "title": "a group", "members": members});
    let token = minter.token(creator, None);
    http::create_chat(FRONT, &token, &body, &[201]).await
}
