//! A simulated device: it does what is drawn for it, over a link that it drops and changes, and takes what it is told.

mod acting;
mod resting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use confab_tests::harness::BOUND;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::draw::{Setting, draw};
use crate::event::{Role, is_event};
use crate::field::Field;
use crate::finding::Kind;
use crate::link::{Link, TRANSPORTS};
use crate::log::Asked;
use crate::replica::{Id, Marks, Replica, Standing};

/// Sends without an answer.
const WINDOW: usize = 3;

/// Frames that are taken between two operations, at most.
const TAKEN_MAX: usize = 500;

/// Connections that may fail in a row.
const TRIES_MAX: usize = 5;

/// The `ref` of `typing`, which is answered only where it is refused.
const TYPING: &str = "typing";

/// How something that was asked of a chat was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub id: Id,
    pub chat: u64,
    pub asked: Asked,
    /// Of a message or an edit.
    pub text: Option<String>,
    pub client_id: Option<String>,
    /// The chat's last event that the device had seen when it asked.
    pub known: u64,
    pub outcome: Outcome,
    /// What it said, to be said again.
    frame: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acked { seq: u64, id: String, duplicate: bool },
    Done,
    Refused(String),
}

/// What waits for its answer.
struct Pending {
    reference: String,
    chat: u64,
    asked: Asked,
    text: Option<String>,
    known: u64,
    frame: Value,
}

/// Watermarks that were said by this device.
#[derive(Default)]
pub(crate) struct Said {
    /// The server has them, by all that is promised.
    pub certain: BTreeMap<u64, Marks>,
    /// How the highest of them were said, for who reads of it.
    pub how: BTreeMap<u64, String>,
    /// It may have them.
    pub possible: BTreeMap<u64, Marks>,
    /// On a socket that is still there.
    on_this_link: BTreeMap<u64, Marks>,
}

pub(crate) struct Device {
    pub replica: Replica,
    pub answered: Vec<Answered>,
    pub said: Said,
    /// Operations and refusals, by name.
    pub counts: BTreeMap<String, u64>,
    /// In this round it stays connected at its edge.
    pub is_steady: bool,
    field: Arc<Field>,
    token: String,
    rng: StdRng,
    link: Option<Link>,
    pending: Vec<Pending>,
    made: u64,
    connections: u64,
    /// The `ref` of the last pong.
    ponged: Option<String>,
    /// Chats, by where they begin for it, of which it has asked who is in them.
    asked_about: BTreeSet<(u64, u64)>,
}

impl Device {
    pub(crate) fn new(field: &Arc<Field>, id: Id) -> Self {
        let place = id.device.bytes().fold(id.user, |sum, byte| sum * 257 + u64::from(byte));
        Self {
            token: field.token(id.user, &id.device),
            rng: StdRng::seed_from_u64(field.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            replica: Replica::new(id),
            answered: Vec::new(),
            said: Said::default(),
            counts: BTreeMap::new(),
            is_steady: false,
            field: Arc::clone(field),
            link: None,
            pending: Vec::new(),
            made: 0,
            connections: 0,
            ponged: None,
            asked_about: BTreeSet::new(),
        }
    }

    pub(crate) fn id(&self) -> &Id {
        &self.replica.id
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Does what is drawn until there is nothing left to be done, and has all its answers then.
    pub(crate) async fn play(&mut self) -> anyhow::Result<()> {
        self.connect().await?;
        while self.field.begin_one() {
            let is_poll = self.link.as_ref().is_some_and(Link::is_poll);
            let setting = Setting { users: &self.field.users, is_steady: self.is_steady, is_poll };
            let op = draw(&mut self.rng, &self.replica, &setting);
            self.count(op.name());
            self.act(op).await?;
            self.take_what_is_there().await?;
            let begun = Instant::now();
            while self.pending.len() >= WINDOW {
                ensure!(begun.elapsed() < BOUND, "{}: no answer to {}", self.id(), self.pending[0].frame);
                self.hear(Duration::from_secs(1)).await?;
            }
        }
        self.finish().await
    }

    /// Waits for the answers to all that it has said.
    async fn finish(&mut self) -> anyhow::Result<()> {
        self.connect().await?;
        let begun = Instant::now();
        while let Some(first) = self.pending.first() {
            ensure!(begun.elapsed() < BOUND, "{}: no answer to {}", self.replica.id, first.frame);
            self.hear(Duration::from_secs(1)).await?;
        }
        Ok(())
    }

    /// If it isn't connected: by any transport, at any edge. What has no answer is sent again.
    async fn connect(&mut self) -> anyhow::Result<()> {
        let mut failed = None;
        for _ in 0..TRIES_MAX {
            if self.link.is_some() {
                return Ok(());
            }
            let transport = *TRANSPORTS.choose(&mut self.rng).context("there are three")?;
            let edge = *self.field.edges.choose(&mut self.rng).context("there is one")?;
            match Link::open(transport, edge, &self.token, &self.replica.positions()).await {
                Ok(link) => {
                    self.count(format!("- by {transport:?}"));
                    self.connections += 1;
                    self.replica.by = format!("connection {} by {transport:?} at {edge}", self.connections);
                    self.link = Some(link);
                    let frames: Vec<Value> = self.pending.iter().map(|pending| pending.frame.clone()).collect();
                    self.say(frames).await?;
                }
                Err(error) => failed = Some(error),
            }
        }
        match (self.link.is_some(), failed) {
            (false, Some(error)) => Err(error.context(format!("{} can't connect", self.id()))),
            _ => Ok(()),
        }
    }

    async fn say(&mut self, frames: Vec<Value>) -> anyhow::Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        match link.say(&frames).await {
            Ok(()) => Ok(()),
            Err(error) => self.broken(&error),
        }
    }

    /// Nobody has ended it but the server.
    fn broken(&mut self, error: &anyhow::Error) -> anyhow::Result<()> {
        self.replica.find(Kind::Connection, 0, "a connection that lasts", format!("{error:#}"));
        self.leave_link();
        Ok(())
    }

    /// Without knowing what has come of what was said on it.
    fn leave_link(&mut self) -> Option<Link> {
        self.said.on_this_link.clear();
        self.replica.stayed = false;
        self.link.take()
    }

    async fn take_what_is_there(&mut self) -> anyhow::Result<()> {
        for _ in 0..TAKEN_MAX {
            if self.hear(Duration::ZERO).await? == 0 {
                break;
            }
            if self.link.as_ref().is_some_and(Link::is_poll) {
                // Each question is a request.
                break;
            }
        }
        self.ask_who_is_there().await
    }

    /// Takes what comes within `wait`: how many frames.
    async fn hear(&mut self, wait: Duration) -> anyhow::Result<usize> {
        self.connect().await?;
        let Some(link) = &mut self.link else { return Ok(0) };
        let frames = match link.hear(wait).await {
            Ok(frames) => frames,
            Err(error) => {
                self.broken(&error)?;
                return Ok(0);
            }
        };
        let mut again = Vec::new();
        for frame in &frames {
            again.extend(self.take(frame));
        }
        self.say(again).await?;
        Ok(frames.len())
    }

    /// Takes a frame; what is to be said again.
    fn take(&mut self, frame: &Value) -> Option<Value> {
        if matches!(frame["type"].as_str(), Some("ack" | "error")) {
            return self.take_answer(frame);
        }
        if frame["type"] == "pong" {
            self.ponged = frame["ref"].as_str().map(str::to_owned);
            return None;
        }
        let is_told = is_event(frame) || matches!(frame["type"].as_str(), Some("receipt" | "gap"));
        if !is_told {
            self.replica.take(frame);
            return None;
        }
        for frame in self.field.interpose(&self.replica.id, frame.clone()) {
            self.replica.take(&frame);
        }
        None
    }

    fn take_answer(&mut self, frame: &Value) -> Option<Value> {
        let at = self.pending.iter().position(|pending| frame["ref"] == pending.reference.as_str());
        if frame["ref"] == TYPING && frame["code"] == "NOT_MEMBER" {
            // They have left.
            return None;
        }
        let Some(at) = at else {
            self.replica.find(Kind::Answer, 0, "answers to what waits for them", frame.to_string());
            return None;
        };
        if frame["type"] == "error" && frame["retryable"] == true {
            self.count(format!("- {}, said again", frame["code"]));
            return Some(self.pending[at].frame.clone());
        }
        let Pending { chat, asked, text, known, frame: said, .. } = self.pending.remove(at);
        let outcome = match frame["type"].as_str() {
            Some("ack") => Outcome::Acked {
                seq: frame["seq"].as_u64().unwrap_or_default(),
                id: frame["message_id"].as_str().unwrap_or_default().to_owned(),
                duplicate: frame["duplicate"] == true,
            },
            _ => Outcome::Refused(frame["code"].as_str().unwrap_or_default().to_owned()),
        };
        self.note(chat, asked, text, known, said, outcome);
        None
    }

    fn note(&mut self, chat: u64, asked: Asked, text: Option<String>, known: u64, frame: Value, outcome: Outcome) {
        if let Outcome::Refused(code) = &outcome {
            self.count(format!("- refused: {code}"));
        }
        let client_id = frame["client_id"].as_str().map(str::to_owned);
        self.answered.push(Answered { id: self.id().clone(), chat, asked, text, client_id, known, outcome, frame });
    }

    /// The first event of a group doesn't name its members, nor does one's own joining: clients ask.
    async fn ask_who_is_there(&mut self) -> anyhow::Result<()> {
        let unknown = |(id, chat): (&u64, &crate::replica::Chat)| {
            let place = (*id, chat.events.keys().next().copied().unwrap_or(0));
            (chat.standing == Standing::In && chat.group.is_none() && chat.position > 0)
                .then_some((place, chat.position))
        };
        let chats: Vec<((u64, u64), u64)> = self.replica.chats.iter().filter_map(unknown).collect();
        for ((chat, begins), position) in chats {
            if self.asked_about.insert((chat, begins)) {
                self.ask_about(chat, position).await?;
                // As clients do with all that they get; here only some of it is confirmed.
                self.say_delivered(chat, position).await?;
            }
        }
        Ok(())
    }

    async fn ask_about(&mut self, chat: u64, position: u64) -> anyhow::Result<()> {
        let path = format!("/v1/chats/{chat}");
        let shown = self.http("GET", &path, None).await?;
        let members = self.http("GET", &format!("{path}/members?limit=200"), None).await?;
        // They may have been removed meanwhile.
        if (shown.status, members.status) == (200, 200) {
            let (shown, members) = (shown.json()?, members.json()?);
            let title = shown["title"].as_str().unwrap_or_default().to_owned();
            let member = |member: &Value| Some((member["user_id"].as_u64()?, Role::named(&member["role"])));
            let roster = members["items"].as_array().into_iter().flatten().filter_map(member).collect();
            self.replica.introduced(chat, position, title, roster);
        }
        Ok(())
    }

    async fn http(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<confab_tests::harness::http::Response> {
        let edge = *self.field.edges.choose(&mut self.rng).context("there is one")?;
        self.field.http(edge, self.replica.id.user, method, path, body).await
    }

    /// It may be reconnected by chance, or stay for the round.
    pub(crate) fn draw_steadiness(&mut self) {
        self.is_steady = self.rng.random_bool(0.33);
    }
}

impl Said {
    fn note(&mut self, chat: u64, marks: Marks, is_certain: bool, how: &str) {
        let raise = |of: &mut BTreeMap<u64, Marks>| {
            let known = of.entry(chat).or_default();
            *known = known.max(marks);
        };
        raise(&mut self.possible);
        if is_certain && self.certain.get(&chat).is_none_or(|known| known.read < marks.read) {
            self.how.insert(chat, how.to_owned());
        }
        raise(if is_certain { &mut self.certain } else { &mut self.on_this_link });
    }

    /// All that was said on the socket has been read there.
    fn settle(&mut self, how: &str) {
        for (chat, marks) in std::mem::take(&mut self.on_this_link) {
            self.note(chat, marks, true, how);
        }
    }
}
