//! The RPCs. The state is under one lock, held for a batch at a time and never across an await: every stream works on it,
//! and each batch is microseconds.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use confab_ids::UserId;
use confab_mesh::Drain;
use confab_proto::presence::v1::presence_service_server::PresenceService;
use confab_proto::presence::v1::{
    EndPollRequest, EndPollResponse, GetPresenceRequest, GetPresenceResponse, KeepPollRequest, KeepPollResponse,
    ListSessionsRequest, ListSessionsResponse, LocateRequest, LocateResponse, NoticeVisibilityRequest,
    NoticeVisibilityResponse, OpenSession, PassPollFramesRequest, PassPollFramesResponse, PollFrames,
    RevokeSessionsRequest, RevokeSessionsResponse, TakePollRequest, TakePollResponse, TakenPoll, TrackRequest,
    TrackResponse, WatchRequest, WatchResponse,
};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Config;
use crate::core::noticed::Noticed;
use crate::core::polls::{Keeping, NotTaken, PollId, Polls};
use crate::core::{self, About, Now, Roster, Times, Told, Watcher};
use crate::metrics::Metrics;
use crate::notes::Notes;

const TICK: Duration = Duration::from_millis(250);

/// Users per request at most.
const USERS_MAX: usize = 1_000;

/// Chats of a long poll at most.
const POLL_CHATS_MAX: usize = 20_000;

/// Users that one watches at most: what an edge may be set to.
const POLL_WATCHED_MAX: usize = 10_000;

/// Frames that a watching edge may leave unread. Beyond it its stream is cut: it watches again and is told the states.
const WATCH_FRAMES_MAX: usize = 1_024;

/// Questions of a stream that are looked up at once; later ones wait.
const LOCATING_MAX: usize = 32;

/// Answers that wait to be read, per stream; beyond it the stream's requests wait.
const ANSWERS_MAX: usize = 64;

struct State {
    roster: Roster,
    watchers: HashMap<Watcher, mpsc::Sender<Result<WatchResponse, Status>>>,
    next_watcher: Watcher,
    noticed: Noticed,
    /// Of the tracking streams.
    trackers: HashMap<core::Stream, mpsc::Sender<Result<TrackResponse, Status>>>,
}

#[derive(Clone)]
pub(crate) struct Service {
    state: Arc<Mutex<State>>,
    polls: Arc<Mutex<Polls>>,
    started: Instant,
    notes: Option<Notes>,
    drain: Drain,
}

impl Service {
    pub(crate) fn new(cfg: &Config, notes: Option<Notes>, drain: Drain) -> Self {
        let times = Times {
            grace_ms: cfg.grace_seconds.saturating_mul(1_000),
            warm_up_ms: cfg.warm_up_seconds.saturating_mul(1_000),
        };
        let mut roster = Roster::new(times);
        if notes.is_some() {
            roster.keep_notes();
        }
        let (watchers, trackers) = (HashMap::new(), HashMap::new());
        let state = State { roster, watchers, next_watcher: 0, noticed: Noticed::default(), trackers };
        Self { state: Arc::new(Mutex::new(state)), polls: Arc::default(), started: Instant::now(), notes, drain }
    }

    /// Ends graces and edges, as time goes by.
    pub(crate) async fn run_clock(self) {
        let metrics = Metrics::new();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let now = self.now();
            let mut state = self.state();
            let told = state.roster.tick(now);
            state.tell(told);
            state.noticed.forget(now);
            self.keep_notes(&mut state);
            let watched = state.roster.watched();
            drop(state);
            metrics.watched(watched);
            self.polls().tick(now.mono_ms);
        }
    }

    fn polls(&self) -> MutexGuard<'_, Polls> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an edge something by the stream that it has, if it reads.
    fn tell_edge(&self, name: Option<&str>, told: TrackResponse) {
        let state = self.state();
        let edge = name.and_then(|name| state.trackers.get(&state.roster.stream_of(name)?));
        let _unheard = edge.map(|edge| edge.try_send(Ok(told)));
    }

    /// Hands over what the roster has noted.
    fn keep_notes(&self, state: &mut State) {
        if let Some(notes) = &self.notes {
            notes.keep(state.roster.take_notes());
        }
    }

    /// Looks up what is noted of some users, if that may tell more than is known; `of` says of whom. It takes 100 ms at most.
    async fn recall(&self, of: impl Fn(&Roster, Now) -> HashSet<UserId>) {
        let Some(notes) = &self.notes else { return };
        let now = self.now();
        let users = of(&self.state().roster, now);
        if users.is_empty() {
            return;
        }
        let Some(recalled) = notes.of(users).await else { return };
        let unheard = self.state().roster.unheard(&recalled);
        let Some(heard) = notes.heard(unheard).await else { return };
        let now = self.now();
        let mut state = self.state();
        let told = state.roster.recalled(now, recalled, &heard);
        state.tell(told);
        self.keep_notes(&mut state);
    }

    async fn recall_presence(&self, users: &[u64]) {
        self.recall(|roster, now| roster.to_tell(now, users.iter().copied().map(UserId))).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug, but no half-done change: each is one call of the core.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
            mono_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn attach(&self, name: &str, answers: &mpsc::Sender<Result<TrackResponse, Status>>) -> core::Stream {
        let now = self.now();
        let mut state = self.state();
        let stream = state.roster.attach(now, name);
        state.trackers.insert(stream, answers.clone());
        self.keep_notes(&mut state);
        stream
    }

    /// `None`: the stream is over, by a newer one of the same edge or a goodbye.
    fn track(&self, stream: core::Stream, request: &TrackRequest) -> Option<TrackResponse> {
        let now = self.now();
        let mut state = self.state();
        if !state.roster.heard(now, stream) {
            return None;
        }
        let mut told = Told::new();
        for opened in &request.opened {
            let (session, user) = (opened.session, UserId(opened.user_id));
            told.extend(state.roster.open(stream, session, user));
            if let Ok(name) = opened.name[..].try_into() {
                let (device, opened_at_ms) = (opened.device.as_str().into(), opened.opened_at_ms);
                state.roster.describe(stream, session, user, About { name, device, opened_at_ms });
            }
        }
        for closed in &request.closed {
            state.roster.close(now, stream, closed.session, UserId(closed.user_id));
        }
        for moved in &request.moved {
            state.roster.moved(stream, moved.session, UserId(moved.user_id));
        }
        if request.snapshot_done {
            state.roster.snapshot_done(now, stream);
        }
        if request.leaving {
            state.roster.leave(now, stream);
        }
        state.tell(told);
        self.keep_notes(&mut state);
        let opened = request.opened.iter().map(|opened| opened.session).collect();
        Some(TrackResponse { opened, ..TrackResponse::default() })
    }

    async fn locate(&self, request: &LocateRequest) -> LocateResponse {
        let users = || request.sets.iter().flat_map(|set| &set.user_ids).copied().map(UserId);
        self.recall(|roster, now| roster.to_locate(now, users())).await;
        self.state().roster.locate(request)
    }

    async fn watch(&self, watcher: Watcher, request: &WatchRequest) {
        self.recall_presence(&request.watch).await;
        let mut state = self.state();
        for user in &request.unwatch {
            state.roster.unwatch(watcher, UserId(*user));
        }
        let told = request.watch.iter().map(|user| (watcher, state.roster.watch(watcher, UserId(*user)))).collect();
        state.tell(told);
        // It may have been looked up before it changed, or the word of it was lost with a stream.
        let now = self.now();
        let changed = request.watch.iter().copied().filter(|user| state.noticed.is_noticed(now, UserId(*user)));
        let changed: Vec<u64> = changed.collect();
        if !changed.is_empty() {
            state.send(HashMap::from([(watcher, WatchResponse { changed, ..WatchResponse::default() })]));
        }
    }

    /// Has the watchers of some users look up again what they may be told.
    fn notice(&self, users: &[u64]) {
        let now = self.now();
        let mut state = self.state();
        let mut frames: HashMap<Watcher, WatchResponse> = HashMap::new();
        for user in users {
            state.noticed.note(now, UserId(*user));
            for watcher in state.roster.watchers_of(UserId(*user)) {
                frames.entry(watcher).or_default().changed.push(*user);
            }
        }
        state.send(frames);
    }
}

impl State {
    fn tell(&mut self, told: Told) {
        let mut frames: HashMap<Watcher, WatchResponse> = HashMap::new();
        for (watcher, presence) in told {
            frames.entry(watcher).or_default().presences.push(presence);
        }
        self.send(frames);
    }

    /// A watcher that doesn't keep up has to come again.
    fn send(&mut self, frames: HashMap<Watcher, WatchResponse>) {
        for (watcher, frame) in frames {
            let Some(stream) = self.watchers.get(&watcher) else { continue };
            if stream.try_send(Ok(frame)).is_err() {
                self.watchers.remove(&watcher);
                self.roster.end_watch(watcher);
            }
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// They end when the service drains: whoever has a stream goes to another instance, and would not end it otherwise.
    fn answers<T>(&self, answers: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Response<Answers<T>> {
        let drain = self.drain.clone();
        Response::new(Box::pin(answers.take_until(Box::pin(async move { drain.started().await }))))
    }
}

#[tonic::async_trait]
impl PresenceService for Service {
    type TrackStream = Answers<TrackResponse>;
    type LocateStream = Answers<LocateResponse>;
    type WatchStream = Answers<WatchResponse>;

    async fn track(&self, request: Request<Streaming<TrackRequest>>) -> Result<Response<Self::TrackStream>, Status> {
        let mut requests = request.into_inner();
        let (answer, queue) = mpsc::channel(ANSWERS_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let mut stream = None;
            while let Ok(Some(request)) = requests.message().await {
                if stream.is_none() && request.edge_id.is_empty() {
                    drop(answer.send(Err(Status::invalid_argument("edge_id: is required in the first message"))).await);
                    break;
                }
                let stream = *stream.get_or_insert_with(|| service.attach(&request.edge_id, &answer));
                let Some(response) = service.track(stream, &request) else { break };
                if answer.send(Ok(response)).await.is_err() {
                    break;
                }
            }
            if let Some(stream) = stream {
                service.state().trackers.remove(&stream);
            }
        });
        Ok(self.answers(ReceiverStream::new(queue)))
    }

    async fn locate(&self, request: Request<Streaming<LocateRequest>>) -> Result<Response<Self::LocateStream>, Status> {
        let service = self.clone();
        let located = request.into_inner().map(move |request| {
            let service = service.clone();
            async move {
                let request = request?;
                if request.sets.iter().any(|set| set.user_ids.len() > USERS_MAX) {
                    return Err(Status::invalid_argument(format!("sets: at most {USERS_MAX} users each")));
                }
                Ok(service.locate(&request).await)
            }
        });
        // Side by side, for one that looks up notes waits; the answers are in order.
        Ok(self.answers(located.buffered(LOCATING_MAX)))
    }

    async fn get_presence(
        &self,
        request: Request<GetPresenceRequest>,
    ) -> Result<Response<GetPresenceResponse>, Status> {
        let users = request.into_inner().user_ids;
        if users.len() > USERS_MAX {
            return Err(Status::invalid_argument(format!("user_ids: at most {USERS_MAX}")));
        }
        self.recall_presence(&users).await;
        let state = self.state();
        let presences = users.into_iter().map(|user| state.roster.presence(UserId(user))).collect();
        Ok(Response::new(GetPresenceResponse { presences }))
    }

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let (answer, queue) = mpsc::channel(WATCH_FRAMES_MAX);
        let service = self.clone();
        let watcher = {
            let mut state = self.state();
            state.next_watcher += 1;
            let watcher = state.next_watcher;
            state.watchers.insert(watcher, answer);
            watcher
        };
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                service.watch(watcher, &request).await;
            }
            let mut state = service.state();
            state.watchers.remove(&watcher);
            state.roster.end_watch(watcher);
        });
        Ok(self.answers(ReceiverStream::new(queue)))
    }

    async fn keep_poll(&self, request: Request<KeepPollRequest>) -> Result<Response<KeepPollResponse>, Status> {
        let request = request.into_inner();
        let id = poll_id(&request.session)?;
        let before = request.before.as_ref().map_or(0, |before| before.chats.len());
        if request.given.len().max(before) > POLL_CHATS_MAX {
            return Err(Status::invalid_argument(format!("given, before: at most {POLL_CHATS_MAX} chats each")));
        }
        if request.watch.as_ref().is_some_and(|watch| watch.user_ids.len() > POLL_WATCHED_MAX) {
            return Err(Status::invalid_argument(format!("watch: at most {POLL_WATCHED_MAX} users")));
        }
        let mut polls = self.polls();
        let keeping = polls.keep(self.now().mono_ms, id, request);
        let passed = if keeping == Keeping::Kept { polls.passed(&id) } else { Vec::new() };
        let (moved, unknown) = (keeping == Keeping::Moved, keeping == Keeping::Unknown);
        Ok(Response::new(KeepPollResponse { moved, unknown, passed }))
    }

    async fn take_poll(&self, request: Request<TakePollRequest>) -> Result<Response<TakePollResponse>, Status> {
        let TakePollRequest { session, edge_id, user_id, look_only, device } = request.into_inner();
        let (id, user) = (poll_id(&session)?, UserId(user_id));
        let taken = if look_only {
            self.polls().find(&id, user, &device).map(|()| TakePollResponse { device, ..TakePollResponse::default() })
        } else {
            let taken = self.polls().take(self.now().mono_ms, id, edge_id, user, &device);
            taken.map(|(taken, before)| {
                // One that doesn't hear it finds out when it keeps it.
                let poll = TakenPoll { session, user_id, generation: taken.generation };
                self.tell_edge(before.as_deref(), TrackResponse { taken: vec![poll], ..TrackResponse::default() });
                taken
            })
        };
        taken.map(Response::new).map_err(|error| match error {
            NotTaken::Unknown => Status::not_found("session: nothing is kept of it"),
            NotTaken::AnotherUsers => Status::permission_denied("session: it is another user's or device's"),
        })
    }

    async fn pass_poll_frames(
        &self,
        request: Request<PassPollFramesRequest>,
    ) -> Result<Response<PassPollFramesResponse>, Status> {
        let PollFrames { session, user_id, frames } = request.into_inner().frames.unwrap_or_default();
        let edge = self.polls().pass(&poll_id(&session)?, UserId(user_id), frames);
        let passed = vec![PollFrames { session, user_id, frames: Vec::new() }];
        self.tell_edge(edge.as_deref(), TrackResponse { passed, ..TrackResponse::default() });
        Ok(Response::new(PassPollFramesResponse {}))
    }

    async fn notice_visibility(
        &self,
        request: Request<NoticeVisibilityRequest>,
    ) -> Result<Response<NoticeVisibilityResponse>, Status> {
        let users = request.into_inner().user_ids;
        if users.len() > USERS_MAX {
            return Err(Status::invalid_argument(format!("user_ids: at most {USERS_MAX}")));
        }
        self.notice(&users);
        Ok(Response::new(NoticeVisibilityResponse {}))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let user = UserId(request.into_inner().user_id);
        let state = self.state();
        let open = |(_, _, about): (core::Stream, u64, &About)| OpenSession {
            name: about.name.to_vec().into(),
            device: about.device.to_string(),
            opened_at_ms: about.opened_at_ms,
        };
        let sessions = state.roster.sessions_of(user).into_iter().map(open).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn revoke_sessions(
        &self,
        request: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        let RevokeSessionsRequest { user_id, device, names } = request.into_inner();
        if names.len() > USERS_MAX {
            return Err(Status::invalid_argument(format!("names: at most {USERS_MAX}")));
        }
        let is_meant = |name: &[u8; 16], of: &str| {
            (device.is_empty() || *of == *device) && (names.is_empty() || names.iter().any(|meant| meant[..] == *name))
        };
        // Those at rest, too, which no edge has.
        self.polls().end_all(UserId(user_id), is_meant);
        let state = self.state();
        if !state.roster.is_warm() {
            return Err(Status::unavailable("this instance has started lately and doesn't know all sessions yet"));
        }
        let mut by_edge: HashMap<core::Stream, Vec<u64>> = HashMap::new();
        for (stream, session, about) in state.roster.sessions_of(UserId(user_id)) {
            if is_meant(&about.name, &about.device) {
                by_edge.entry(stream).or_default().push(session);
            }
        }
        let (mut count, mut all_told) = (0, true);
        for (stream, revoked) in by_edge {
            count += revoked.len();
            let told = TrackResponse { revoked, ..TrackResponse::default() };
            all_told &= state.trackers.get(&stream).is_some_and(|edge| edge.try_send(Ok(told)).is_ok());
        }
        if !all_told {
            return Err(Status::unavailable("an edge could not be told"));
        }
        Ok(Response::new(RevokeSessionsResponse { revoked: u32::try_from(count).unwrap_or(u32::MAX) }))
    }

    async fn end_poll(&self, request: Request<EndPollRequest>) -> Result<Response<EndPollResponse>, Status> {
        let request = request.into_inner();
        let EndPollRequest { session, user_id } = request;
        let edge = self.polls().end(&poll_id(&session)?, UserId(user_id));
        let over = TakenPoll { session, user_id, generation: 0 };
        self.tell_edge(edge.as_deref(), TrackResponse { taken: vec![over], ..TrackResponse::default() });
        Ok(Response::new(EndPollResponse {}))
    }
}

fn poll_id(session: &[u8]) -> Result<PollId, Status> {
    session.try_into().map_err(|_| Status::invalid_argument("session: 16 bytes"))
}
