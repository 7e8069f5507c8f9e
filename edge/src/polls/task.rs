//! One long poll's task: what waits for its client, and its client's questions.

use std::sync::Arc;
use std::time::Duration;

use confab_ids::UserId;
use confab_proto::presence::v1::{KeepPollRequest, PollPositions, PollUsers, TakePollResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::batches::{Asked, Batches, Positions};
use super::{Beginning, Page, Refusal, Request};
use crate::auth::Claims;
use crate::core::Out;
use crate::core::session::poll::Begin;
use crate::core::session::{Mode, Session};
use crate::edge::Shared;
use crate::frames::{Close, Frame};
use crate::links::presence::polls::Keeping;
use crate::mailbox::{Item, Mailbox, Subject};

/// How long a poll stays here without a question; then its user is offline, after their grace.
const REST: Duration = Duration::from_secs(20);

/// How often presence-svc hears of a poll whose client waits, or asks and gets nothing.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// How long a poll that has moved waits for its answers.
const ANSWERS_MAX: Duration = Duration::from_secs(5);

/// What passes and is told so soon after this edge has gone on with a poll, its client has been told before: it wakes nobody, or a
/// client that goes from edge to edge would never have to wait.
const TOLD_BEFORE: Duration = Duration::from_secs(2);

/// A poll that has so much to give is not fed any more: what comes waits where it is bounded.
const READY_BYTES_MAX: usize = 256 * 1_024;

/// What no log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aside {
    /// Of a client's own frame: nobody says it again.
    Answer,
    /// A receipt, a presence, typing: of now, and told anew by whichever edge goes on later.
    Passing,
}

/// Why a task ends.
#[derive(Debug)]
enum End {
    /// Its client asks nothing, or this edge ends: whichever is asked next goes on.
    Left,
    Closed(Close),
    /// Another edge has it, and was asked later.
    Superseded,
    /// Another edge has had it meanwhile: its client's question is newer than what is here.
    Stale,
    /// It is over: its client has said so, or it was revoked.
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
    /// How often the session has been taken.
    generation: u64,
    /// Of another edge, until the client says which batch it has.
    kept: Option<TakePollResponse>,
    batches: Batches,
    /// Written, and in no batch yet; and what of it is of no log.
    ready: Vec<Frame>,
    aside: Vec<(Aside, Frame)>,
    ready_bytes: usize,
    /// There is something that its client doesn't know.
    has_news: bool,
    /// Until then what passes is no news.
    news_from: Instant,
    /// The batch that said that the client is in sync; 0: none yet.
    synced_batch: u64,
    /// Whom presence-svc knows that it watches.
    watch_kept: Vec<u64>,
    /// presence-svc may not have what it was told last: it is told all of it.
    tell_all: bool,
    kept_at: Instant,
    waiting: Option<Waiting>,
    asked_at: Instant,
}

impl Poll {
    pub(super) fn new(
        shared: &Arc<Shared>,
        id: Uuid,
        claims: &Claims,
        mut session: Session,
        requests: mpsc::Receiver<Request>,
        from: Beginning,
    ) -> Self {
        let now = Instant::now();
        let (positions, kept) = match from {
            Beginning::New(positions) => (positions, None),
            Beginning::Taken(kept) => (Positions::new(), Some(*kept)),
        };
        let watched = kept.as_ref().map(|kept| kept.watched.clone()).unwrap_or_default();
        session.watches(watched.iter().copied().map(UserId).collect());
        Self {
            id,
            user: claims.user,
            device: claims.device.clone(),
            shared: shared.clone(),
            session,
            mailbox: shared.mailbox(claims, Mode::Poll, id),
            requests,
            generation: kept.as_ref().map_or(1, |kept| kept.generation),
            tell_all: kept.is_none(),
            kept,
            batches: Batches::of(positions),
            ready: Vec::new(),
            aside: Vec::new(),
            ready_bytes: 0,
            has_news: false,
            news_from: now,
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
        // Whoever has asked meanwhile asks again.
        self.requests.close();
        while self.requests.try_recv().is_ok() {}
        self.shared.close(&self.mailbox);
        self.last_answer(end).await;
    }

    async fn serve(&mut self) -> End {
        loop {
            if let Err(end) = self.turn().await {
                return end;
            }
        }
    }

    /// Does what there is to do, and waits for the next thing.
    async fn turn(&mut self) -> Result<(), End> {
        if self.mailbox.closing().is_some() {
            // However much is ready: who is not let in any more gets none of it.
            self.mail().await?;
        }
        self.act().await?;
        self.answer().await?;
        self.keep_watched().await?;
        let due = self.due();
        tokio::select! {
            () = self.mailbox.ready(), if self.ready_bytes < READY_BYTES_MAX => self.mail().await,
            request = self.requests.recv() => match request {
                Some(request) => self.request(request).await,
                None => Err(End::Left),
            },
            () = sleep_until(due) => {
                self.session.tick(self.shared.now());
                if self.waiting.is_none() && self.asked_at.elapsed() >= REST {
                    return Err(End::Left);
                }
                if self.kept_at.elapsed() >= KEEP_EVERY {
                    self.keep(Positions::new()).await?;
                }
                Ok(())
            }
        }
    }

    async fn mail(&mut self) -> Result<(), End> {
        let now = self.shared.now();
        let mut end = None;
        let mut was_passed = false;
        for item in self.mailbox.take() {
            match item {
                Item::Reconnect { .. } => end = end.or(Some(End::Left)),
                Item::Taken { generation: 0 } => end = Some(End::Over),
                // One that it has taken itself since is no news.
                Item::Taken { generation } if generation <= self.generation => {}
                Item::Taken { .. } => end = Some(End::Superseded),
                Item::Passed(frames) => {
                    was_passed = true;
                    frames.into_iter().for_each(|frame| self.ready(frame, Some(Aside::Answer), true));
                }
                item => self.session.item(now, item),
            }
        }
        if was_passed && end.is_none() {
            // Its answer has them.
            self.keep(Positions::new()).await?;
        }
        match end {
            Some(end) => {
                // What has come before it is part of what is left.
                self.act().await?;
                Err(end)
            }
            None => Ok(()),
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
        if self.ready_bytes >= READY_BYTES_MAX
            && let Request::Frames { answer, .. } = request
        {
            // Each would be answered, and nobody fetches the answers.
            let _gone = answer.send(Err(Refusal::Unavailable));
            return Ok(());
        }
        self.asked_at = Instant::now();
        match request {
            Request::Next { cursor, wait, claims, answer } => {
                self.session.renewed(&claims);
                self.asked(cursor, Waiting { answer, until: self.asked_at + wait }).await
            }
            Request::Frames { frames, claims, answer } => {
                self.session.renewed(&claims);
                // Another edge may have it by now: then they are that one's.
                if let Err(end) = self.keep(Positions::new()).await {
                    let _gone = answer.send(Err(Refusal::Stale));
                    return Err(end);
                }
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
                kept
            }
            Request::Leave => Err(End::Stale),
            Request::End => Err(End::Over),
        }
    }

    async fn asked(&mut self, cursor: u64, waiting: Waiting) -> Result<(), End> {
        if let Some(older) = self.waiting.take() {
            let _gone = older.answer.send(Err(Refusal::Superseded));
        }
        let refuse = |waiting: Waiting, refusal| drop(waiting.answer.send(Err(refusal)));
        let events = match self.kept.take() {
            Some(kept) => match Batches::go_on(&kept, cursor) {
                Some((batches, events)) => {
                    self.go_on(&kept, batches, cursor);
                    events
                }
                None => {
                    // What is kept may be older than what the client has.
                    let refusal = if cursor > kept.batch { Refusal::Gone } else { Refusal::WrongCursor };
                    self.kept = Some(kept);
                    refuse(waiting, refusal);
                    return Ok(());
                }
            },
            None => match self.batches.asked(cursor) {
                Asked::Has(events) => events,
                Asked::Again(page) => {
                    // Unless another edge has given a later one instead.
                    if let Err(end) = self.keep(self.batches.given()).await {
                        refuse(waiting, Refusal::Stale);
                        return Err(end);
                    }
                    let _gone = waiting.answer.send(Ok(page));
                    return Ok(());
                }
                Asked::Old => {
                    refuse(waiting, Refusal::WrongCursor);
                    return Ok(());
                }
                Asked::Elsewhere => {
                    refuse(waiting, Refusal::Stale);
                    return Err(End::Stale);
                }
            },
        };
        self.session.confirm(&events);
        self.waiting = Some(waiting);
        if !self.has_news {
            // It waits only here, if no other edge has it by now. From then on one that takes it was asked later.
            self.keep(Positions::new()).await?;
        }
        Ok(())
    }

    /// From where another edge's batches have brought the client.
    fn go_on(&mut self, kept: &TakePollResponse, batches: Batches, cursor: u64) {
        let synced = (1..=cursor).contains(&kept.synced_batch);
        self.synced_batch = if synced { kept.synced_batch } else { 0 };
        let positions = batches.positions().iter().map(|(chat, seq)| (*chat, *seq)).collect();
        self.session.begin(Begin { positions, synced });
        self.batches = batches;
        self.tell_all = true;
        self.news_from = Instant::now() + TOLD_BEFORE;
    }

    /// Does what the session has said. What it has said before an end is part of what is left.
    async fn act(&mut self) -> Result<(), End> {
        let mut end = None;
        for out in self.session.take_out() {
            match out {
                Out::Frame(frame) => self.ready(frame, None, true),
                Out::Answer(frame) => self.ready(frame, Some(Aside::Answer), true),
                Out::Passing(subject, frame) => {
                    // Nobody tells again that somebody types.
                    let is_news = matches!(subject, Subject::Typing(..)) || Instant::now() >= self.news_from;
                    self.ready(frame, Some(Aside::Passing), is_news);
                }
                Out::Command { call, action } => {
                    if let Some(wait) = self.shared.conversation.send(self.mailbox.session, call, action) {
                        wait.await;
                    }
                }
                Out::Ask(question) => self.shared.ask(&self.mailbox, question),
                Out::Close(close) => end = end.or(Some(close)),
                // Its client's questions say that it is there.
                Out::Ping(_) => {}
            }
        }
        end.map_or(Ok(()), |close| Err(End::Closed(close)))
    }

    fn ready(&mut self, frame: Frame, aside: Option<Aside>, is_news: bool) {
        self.ready_bytes += frame.len();
        self.aside.extend(aside.map(|aside| (aside, frame.clone())));
        self.ready.push(frame);
        self.has_news |= is_news;
    }

    /// Gives what is ready to the client that waits, or nothing when it has waited long enough.
    async fn answer(&mut self) -> Result<(), End> {
        // A client that has gone asks again: what is ready waits for that.
        let Some(waiting) = self.waiting.take_if(|waiting| !waiting.answer.is_closed()) else {
            self.waiting = None;
            return Ok(());
        };
        if !self.has_news && waiting.until > Instant::now() {
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
        let (events, places) = self.session.take_written();
        let (ready, aside) = (std::mem::take(&mut self.ready), std::mem::take(&mut self.aside));
        (self.ready_bytes, self.has_news) = (0, false);
        let page = self.batches.give(ready, events, places);
        if self.synced_batch == 0 && self.session.is_in_sync() {
            self.synced_batch = page.cursor;
        }
        // Without presence-svc the client goes on here, or opens another.
        let kept = self.keep(self.batches.given()).await;
        if kept.is_err() {
            // Its client doesn't get it here: the edge that has it now is told of what no log has.
            self.aside.splice(0..0, aside);
        }
        kept.map(|()| page)
    }

    /// Says how far the client is with the newest batch, which has brought `given`; none: that it is still there.
    async fn keep(&mut self, given: Positions) -> Result<(), End> {
        self.kept_at = Instant::now();
        let watched = self.watched();
        let watch = (watched != self.watch_kept).then(|| PollUsers { user_ids: watched.clone() });
        let (batch, after) = self.kept.as_ref().map_or(self.batches.numbers(), |kept| (kept.batch, kept.after));
        let request = KeepPollRequest {
            session: self.id.as_bytes().to_vec().into(),
            user_id: self.user.0,
            device: self.device.clone(),
            generation: self.generation,
            batch,
            after,
            given,
            watch,
            synced_batch: self.kept.as_ref().map_or(self.synced_batch, |kept| kept.synced_batch),
            ..KeepPollRequest::default()
        };
        let keeper = &self.shared.polls.keeper;
        let untold = (Keeping::Unknown, Vec::new());
        let (mut keeping, mut passed) = if self.tell_all { untold } else { keeper.keep(request.clone()).await };
        if keeping == Keeping::Unknown {
            let (before, given) = match &self.kept {
                Some(kept) => (kept.before.clone(), kept.given.clone()),
                None => (self.batches.positions().clone(), self.batches.given()),
            };
            let before = Some(PollPositions { chats: before });
            let watch = Some(PollUsers { user_ids: watched.clone() });
            (keeping, passed) = keeper.keep(KeepPollRequest { before, watch, given, ..request }).await;
        }
        let passed = passed.into_iter().map(|frame| Frame::Text(frame.into()));
        passed.for_each(|frame| self.ready(frame, Some(Aside::Answer), true));
        self.tell_all = keeping != Keeping::Kept;
        match keeping {
            Keeping::Kept => self.watch_kept = watched,
            Keeping::Moved => return Err(End::Stale),
            Keeping::Unknown | Keeping::Unreachable => {}
        }
        Ok(())
    }

    /// Says whom it watches, if that has changed.
    async fn keep_watched(&mut self) -> Result<(), End> {
        // What could not be told is told with the next word.
        let watched = self.session.watched();
        let is_kept = watched.len() == self.watch_kept.len()
            && self.watch_kept.iter().all(|user| watched.contains(&UserId(*user)));
        if !is_kept && !self.tell_all {
            self.keep(Positions::new()).await?;
        }
        Ok(())
    }

    /// Ascending.
    fn watched(&self) -> Vec<u64> {
        let mut watched: Vec<u64> = self.session.watched().iter().map(|user| user.0).collect();
        watched.sort_unstable();
        watched
    }

    /// Leaves what its client has not got, and no log has, to the edge that has the poll now, or will have it; the answers that are
    /// under way, too, when they come.
    async fn pass_aside(&mut self, has_moved: bool) {
        let until = Instant::now() + ANSWERS_MAX;
        if !has_moved {
            // Whoever goes on does so some time later.
            self.aside.retain(|(aside, _)| *aside == Aside::Answer);
        }
        // At once: what passes is soon of before.
        self.pass_on().await;
        loop {
            for out in self.session.take_out() {
                match out {
                    Out::Answer(frame) => self.ready(frame, Some(Aside::Answer), true),
                    Out::Passing(_, frame) if has_moved => self.ready(frame, Some(Aside::Passing), true),
                    Out::Ask(question) => self.shared.ask(&self.mailbox, question),
                    // What it would do beside is the other edge's.
                    _ => {}
                }
            }
            if self.session.has_all_answers() || timeout_at(until, self.mailbox.ready()).await.is_err() {
                break;
            }
            let now = self.shared.now();
            self.mailbox.take().into_iter().for_each(|item| self.session.item(now, item));
        }
        self.pass_on().await;
    }

    async fn pass_on(&mut self) {
        let frames = self.aside.drain(..).filter_map(|(_, frame)| match frame {
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
        let is_over = matches!(end, End::Closed(Close::Revoked | Close::TooManyBadFrames | Close::TooManyConnections));
        let is_over = is_over || matches!(end, End::Over);
        if is_over {
            self.shared.polls.keeper.end(self.id, self.user).await;
        }
        let has_moved = matches!(end, End::Superseded | End::Stale);
        if let Some(waiting) = self.waiting.take() {
            let answer = self.end_of(end).await;
            let _gone = waiting.answer.send(answer);
        }
        // Also where its client asks nothing for now: any edge goes on with it.
        if !is_over {
            self.pass_aside(has_moved).await;
        }
    }

    async fn end_of(&mut self, end: End) -> Result<Page, Refusal> {
        match end {
            End::Superseded => Err(Refusal::Superseded),
            End::Stale => Err(Refusal::Stale),
            End::Over => Err(Refusal::Gone),
            End::Closed(Close::TokenExpired) => Err(Refusal::Expired),
            End::Closed(Close::Revoked) => Err(Refusal::Revoked),
            End::Closed(Close::TooManyConnections | Close::TooManyBadFrames) => Err(Refusal::Gone),
            // It asks again, and whoever is asked goes on.
            End::Left | End::Closed(_) => self.page().await.map_err(|_| Refusal::Stale),
        }
    }
}
