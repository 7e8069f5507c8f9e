//! One long poll's task: what waits for its client, and its client's questions.

use std::sync::Arc;
use std::time::Duration;

use confab_ids::UserId;
use confab_proto::presence::v1::{KeepPollRequest, PollPositions, PollUsers, TakePollResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::batches::{Asked, Batches, Positions};
use super::{Page, Refusal, Request};
use crate::auth::Claims;
use crate::core::Out;
use crate::core::session::poll::Begin;
use crate::core::session::{Mode, Session};
use crate::edge::Shared;
use crate::frames::{Close, Frame};
use crate::links::presence::polls::Keeping;
use crate::mailbox::{Item, Mailbox};

/// How long a poll stays here without a question; then its user is offline, after their grace.
const REST: Duration = Duration::from_secs(20);

/// How often presence-svc hears of a poll whose client waits, or asks and gets nothing.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// How long a poll that has moved waits for its answers.
const ANSWERS_MAX: Duration = Duration::from_secs(5);

/// A poll that has so much to give is not fed any more: what comes waits where it is bounded.
const READY_BYTES_MAX: usize = 256 * 1_024;

/// Why a task ends.
#[derive(Debug)]
enum End {
    /// Its client is elsewhere or asks nothing, or this edge ends: whichever is asked next goes on.
    Left,
    Closed(Close),
    /// Another edge has it, and was asked later.
    Superseded,
    /// Another edge has it, or has had it meanwhile.
    Moved,
    /// Its client has ended it.
    Over,
}

/// A client that waits for a page.
struct Waiting {
    answer: oneshot::Sender<Result<Page, Refusal>>,
    until: Instant,
}

pub(super) struct Poll {
    id: Uuid,
    user: UserId,
    device: String,
    shared: Arc<Shared>,
    session: Session,
    mailbox: Arc<Mailbox>,
    requests: mpsc::Receiver<Request>,
    /// Of another edge, until the client says which batch it has.
    kept: Option<TakePollResponse>,
    batches: Batches,
    /// Written, and in no batch yet; and which of it are of no log.
    ready: Vec<Frame>,
    aside: Vec<usize>,
    ready_bytes: usize,
    /// The batch that said that the client is in sync; 0: none yet.
    synced_batch: u64,
    /// Whom presence-svc knows that it watches.
    watch_kept: Vec<u64>,
    kept_at: Instant,
    waiting: Option<Waiting>,
    asked_at: Instant,
}

impl Poll {
    /// `from`: what another edge has given; or where the client of a new one is.
    pub(super) fn new(
        shared: &Arc<Shared>,
        id: Uuid,
        claims: &Claims,
        mut session: Session,
        requests: mpsc::Receiver<Request>,
        from: Result<Positions, TakePollResponse>,
    ) -> Self {
        let now = Instant::now();
        let watched = from.as_ref().err().map(|kept| kept.watched.clone()).unwrap_or_default();
        session.watches(watched.iter().copied().map(UserId).collect());
        let (positions, kept) = match from {
            Ok(positions) => (positions, None),
            Err(kept) => (Positions::new(), Some(kept)),
        };
        Self {
            id,
            user: claims.user,
            device: claims.device.clone(),
            shared: shared.clone(),
            session,
            mailbox: shared.mailbox(claims, Mode::Poll, id),
            requests,
            kept,
            batches: Batches::of(positions),
            ready: Vec::new(),
            aside: Vec::new(),
            ready_bytes: 0,
            synced_batch: 0,
            watch_kept: watched,
            kept_at: now,
            waiting: None,
            asked_at: now,
        }
    }

    /// `ended`: nothing more is to be asked of it.
    pub(super) async fn run(mut self: Box<Self>, ended: impl FnOnce()) {
        self.shared.open(&self.mailbox);
        let end = self.serve().await;
        ended();
        self.shared.close(&self.mailbox);
        self.last_answer(end).await;
    }

    async fn serve(&mut self) -> End {
        loop {
            if let Err(end) = self.act().await {
                return end;
            }
            if let Err(end) = self.answer().await {
                return end;
            }
            if let Err(end) = self.keep_watched().await {
                return end;
            }
            let due = self.due();
            tokio::select! {
                () = self.mailbox.ready(), if self.ready_bytes < READY_BYTES_MAX => {
                    let now = self.shared.now();
                    for item in self.mailbox.take() {
                        match item {
                            Item::Reconnect { .. } => return End::Left,
                            Item::Moved => return End::Superseded,
                            Item::Passed(frames) => frames.into_iter().for_each(|frame| self.ready(frame, true)),
                            item => self.session.item(now, item),
                        }
                    }
                }
                request = self.requests.recv() => match request {
                    Some(request) => if let Err(end) = self.request(request).await {
                        return end;
                    },
                    None => return End::Left,
                },
                () = sleep_until(due) => {
                    self.session.tick(self.shared.now());
                    if self.waiting.is_none() && self.asked_at.elapsed() >= REST {
                        return End::Left;
                    }
                    if self.kept_at.elapsed() >= KEEP_EVERY && self.keep(Positions::new()).await == Keeping::Moved {
                        return End::Moved;
                    }
                }
            }
        }
    }

    fn due(&self) -> Instant {
        let session = self.shared.started + Duration::from_millis(self.session.next_tick_ms(self.shared.now()));
        let idle = match &self.waiting {
            Some(waiting) => waiting.until,
            None => self.asked_at + REST,
        };
        idle.min(self.kept_at + KEEP_EVERY).min(session.into())
    }

    async fn request(&mut self, request: Request) -> Result<(), End> {
        self.asked_at = Instant::now();
        match request {
            Request::Next { cursor, wait, claims, answer } => {
                self.session.renewed(&claims);
                self.asked(cursor, Waiting { answer, until: self.asked_at + wait });
            }
            Request::Frames { frames, claims, answer } => {
                self.session.renewed(&claims);
                let now = self.shared.now();
                for frame in frames {
                    if self.session.reads(now) {
                        self.session.frame(now, frame, |token| self.shared.verifier.verify(token));
                    } else {
                        self.session.busy(&frame);
                    }
                }
                // Whoever is asked next is to know whom it watches.
                let kept = self.keep_watched().await;
                // Who no longer waits for it knows nothing of it.
                let _gone = answer.send(Ok(()));
                kept?;
            }
            Request::Leave => return Err(End::Moved),
            Request::End => return Err(End::Over),
        }
        Ok(())
    }

    fn asked(&mut self, cursor: u64, waiting: Waiting) {
        if let Some(older) = self.waiting.take() {
            let _gone = older.answer.send(Err(Refusal::Superseded));
        }
        let given = match self.kept.take() {
            Some(kept) => {
                let Some((batches, given)) = Batches::go_on(&kept, cursor) else {
                    self.kept = Some(kept);
                    return drop(waiting.answer.send(Err(Refusal::WrongCursor)));
                };
                self.go_on(&kept, batches, cursor);
                given
            }
            None => match self.batches.asked(cursor) {
                Asked::Has(given) => given,
                Asked::Again(page) => return drop(waiting.answer.send(Ok(page))),
                Asked::Unknown => return drop(waiting.answer.send(Err(Refusal::WrongCursor))),
            },
        };
        self.session.confirm(&given);
        self.waiting = Some(waiting);
    }

    /// From where another edge's batches have brought the client.
    fn go_on(&mut self, kept: &TakePollResponse, batches: Batches, cursor: u64) {
        let synced = (1..=cursor).contains(&kept.synced_batch);
        self.synced_batch = if synced { kept.synced_batch } else { 0 };
        let positions = batches.positions().iter().map(|(chat, seq)| (*chat, *seq)).collect();
        self.session.begin(Begin { positions, synced });
        self.batches = batches;
    }

    /// Does what the session has said.
    async fn act(&mut self) -> Result<(), End> {
        for out in self.session.take_out() {
            match out {
                Out::Frame(frame) => self.ready(frame, false),
                Out::Aside(frame) => self.ready(frame, true),
                Out::Command { call, action } => {
                    if let Some(wait) = self.shared.conversation.send(self.mailbox.session, call, action) {
                        wait.await;
                    }
                }
                Out::Ask(question) => self.shared.ask(&self.mailbox, question),
                Out::Close(close) => return Err(End::Closed(close)),
                // Its client's questions say that it is there.
                Out::Ping(_) => {}
            }
        }
        Ok(())
    }

    fn ready(&mut self, frame: Frame, is_aside: bool) {
        self.aside.extend(is_aside.then_some(self.ready.len()));
        self.ready_bytes += frame.len();
        self.ready.push(frame);
    }

    /// Gives what is ready to the client that waits, or nothing when it has waited long enough.
    async fn answer(&mut self) -> Result<(), End> {
        // A client that has gone asks again: what is ready waits for that.
        let Some(waiting) = self.waiting.take_if(|waiting| !waiting.answer.is_closed()) else {
            self.waiting = None;
            return Ok(());
        };
        if self.ready.is_empty() && waiting.until > Instant::now() {
            self.waiting = Some(waiting);
            return Ok(());
        }
        match self.page().await {
            Ok(page) => {
                let _gone = waiting.answer.send(Ok(page));
                self.asked_at = Instant::now();
                Ok(())
            }
            Err(end) => {
                self.waiting = Some(waiting);
                Err(end)
            }
        }
    }

    /// What is ready as a batch that any edge can go on from; or nothing.
    async fn page(&mut self) -> Result<Page, End> {
        if self.ready.is_empty() {
            return Ok(self.batches.nothing());
        }
        self.ready_bytes = 0;
        self.aside.clear();
        let frames = std::mem::take(&mut self.ready);
        let given: Positions = self.session.take_written().into_iter().map(|(chat, seq)| (chat.0, seq.0)).collect();
        let page = self.batches.give(frames, given.clone());
        if self.synced_batch == 0 && self.session.is_in_sync() {
            self.synced_batch = page.cursor;
        }
        match self.keep(given).await {
            Keeping::Moved => Err(End::Moved),
            // Without presence-svc the client goes on here, or opens another.
            Keeping::Kept | Keeping::Unknown | Keeping::Unreachable => Ok(page),
        }
    }

    /// Says how far the client is with the newest batch, which has brought `given`; none: that it is still there.
    async fn keep(&mut self, given: Positions) -> Keeping {
        self.kept_at = Instant::now();
        let watched = self.watched();
        let watch = (watched != self.watch_kept).then(|| PollUsers { user_ids: watched.clone() });
        let (batch, after) = self.kept.as_ref().map_or(self.batches.numbers(), |kept| (kept.batch, kept.after));
        let synced_batch = self.kept.as_ref().map_or(self.synced_batch, |kept| kept.synced_batch);
        let request = KeepPollRequest {
            session: self.id.as_bytes().to_vec().into(),
            user_id: self.user.0,
            device: self.device.clone(),
            batch,
            after,
            given,
            watch,
            synced_batch,
            ..KeepPollRequest::default()
        };
        let keeper = &self.shared.polls.keeper;
        let mut keeping = keeper.keep(request.clone()).await;
        if keeping == Keeping::Unknown {
            let (before, given) = match &self.kept {
                Some(kept) => (kept.before.clone(), kept.given.clone()),
                None => (self.batches.positions().clone(), self.batches.given()),
            };
            let before = Some(PollPositions { chats: before });
            let watch = Some(PollUsers { user_ids: watched.clone() });
            keeping = keeper.keep(KeepPollRequest { before, watch, given, ..request }).await;
        }
        // One that could not be told of it is told with the next word.
        if keeping != Keeping::Moved {
            self.watch_kept = watched;
        }
        keeping
    }

    /// Says whom it watches, if that has changed.
    async fn keep_watched(&mut self) -> Result<(), End> {
        if self.watched() != self.watch_kept && self.keep(Positions::new()).await == Keeping::Moved {
            return Err(End::Moved);
        }
        Ok(())
    }

    /// Ascending.
    fn watched(&self) -> Vec<u64> {
        let mut watched: Vec<u64> = self.session.watched().iter().map(|user| user.0).collect();
        watched.sort_unstable();
        watched
    }

    /// Leaves what its client has not got, and no log has, to the edge that has the poll now; the answers that are under way, too.
    async fn pass_aside(&mut self) {
        let until = Instant::now() + ANSWERS_MAX;
        while !self.session.has_all_answers() && timeout_at(until, self.mailbox.ready()).await.is_ok() {
            let now = self.shared.now();
            self.mailbox.take().into_iter().for_each(|item| self.session.item(now, item));
            // What it would do beside is the other edge's.
            for out in self.session.take_out() {
                if let Out::Aside(frame) = out {
                    self.ready(frame, true);
                }
            }
        }
        let frames = self.aside.iter().filter_map(|at| match self.ready.get(*at)? {
            Frame::Text(text) => Some(text.as_str().to_owned()),
            Frame::Binary(_) => None,
        });
        let frames: Vec<String> = frames.collect();
        if !frames.is_empty() {
            self.shared.polls.keeper.pass(self.id, self.user, frames).await;
        }
    }

    /// Tells a client that still waits what the end means for it.
    async fn last_answer(&mut self, end: End) {
        if matches!(end, End::Closed(Close::Revoked | Close::TooManyBadFrames | Close::TooManyConnections)) {
            self.shared.polls.keeper.end(self.id, self.user).await;
        }
        let moved = matches!(end, End::Superseded | End::Moved);
        if let Some(waiting) = self.waiting.take() {
            let answer = self.end_of(end).await;
            let _gone = waiting.answer.send(answer);
        }
        if moved {
            self.pass_aside().await;
        }
    }

    async fn end_of(&mut self, end: End) -> Result<Page, Refusal> {
        match end {
            End::Superseded => Err(Refusal::Superseded),
            End::Moved => Err(Refusal::Moved),
            End::Over => Err(Refusal::Gone),
            End::Closed(Close::TokenExpired) => Err(Refusal::Expired),
            End::Closed(Close::Revoked) => Err(Refusal::Revoked),
            End::Closed(Close::TooManyConnections | Close::TooManyBadFrames) => Err(Refusal::Gone),
            // It asks again, and whoever is asked goes on.
            End::Left | End::Closed(_) => self.page().await.map_err(|_| Refusal::Moved),
        }
    }
}
