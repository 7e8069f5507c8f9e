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
    GetPresenceRequest, GetPresenceResponse, LocateRequest, LocateResponse, TrackRequest, TrackResponse, WatchRequest,
    WatchResponse,
};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Config;
use crate::core::{self, Now, Roster, Times, Told, Watcher};
use crate::notes::Notes;

const TICK: Duration = Duration::from_millis(250);

/// Users per request at most.
const USERS_MAX: usize = 1_000;

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
}

#[derive(Clone)]
pub(crate) struct Service {
    state: Arc<Mutex<State>>,
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
        let state = State { roster, watchers: HashMap::new(), next_watcher: 0 };
        Self { state: Arc::new(Mutex::new(state)), started: Instant::now(), notes, drain }
    }

    /// Ends graces and edges, as time goes by.
    pub(crate) async fn run_clock(self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let now = self.now();
            let mut state = self.state();
            let told = state.roster.tick(now);
            state.tell(told);
            self.keep_notes(&mut state);
        }
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

    fn attach(&self, name: &str) -> core::Stream {
        let now = self.now();
        let mut state = self.state();
        let stream = state.roster.attach(now, name);
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
            told.extend(state.roster.open(stream, opened.session, UserId(opened.user_id)));
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
        Some(TrackResponse { opened: request.opened.iter().map(|opened| opened.session).collect() })
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
    }
}

impl State {
    fn tell(&mut self, told: Told) {
        let mut frames: HashMap<Watcher, WatchResponse> = HashMap::new();
        for (watcher, presence) in told {
            frames.entry(watcher).or_default().presences.push(presence);
        }
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
                    return;
                }
                let stream = *stream.get_or_insert_with(|| service.attach(&request.edge_id));
                let Some(response) = service.track(stream, &request) else { return };
                if answer.send(Ok(response)).await.is_err() {
                    return;
                }
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
}
