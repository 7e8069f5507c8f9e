//! The streams by which this edge watches: each user at one instance, the one to follow them at. Whether users are visible to who
//! watches them is asked of message-svc: when it matters first, and when it has changed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use confab_ids::UserId;
use confab_mesh::views::Views;
use confab_mesh::{Member, Members, Peer, Pool, each};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{FilterAcquaintedRequest, FilterVisibleRequest};
use confab_proto::presence::v1::{WatchRequest, WatchResponse};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::interest::Shared;
use super::{BATCH_MAX, LINGER, names, presence_client};
use crate::links::{Backoff, now_ms};

/// Views change rarely, and it does not matter when exactly a user is followed elsewhere.
const TICK: Duration = Duration::from_secs(1);

/// Answers that wait to be passed on; beyond it their streams wait.
const EVENTS_MAX: usize = 64;

/// Users per request.
const USERS_MAX: usize = 4_096;

/// Users that message-svc is asked about at once.
const ASKED_MAX: usize = 1_000;

/// How often it is asked, where it doesn't answer, and the pauses between. Then it is as if nothing may be seen.
const LOOKUP_TRIES: u32 = 6;
const LOOKUP_AGAIN: Duration = Duration::from_millis(500);

type Messages = MessageServiceClient<Peer>;

type Name = std::sync::Arc<str>;

enum Event {
    /// Its queue is bounded by what is watched.
    Connected(Name, mpsc::UnboundedSender<WatchRequest>),
    Told(Name, WatchResponse),
    Lost(Name),
}

/// What of some users may be seen by those who watch them here.
#[derive(Default)]
struct LookedUp {
    visible: Vec<(UserId, bool)>,
    /// Whom who watches may not watch any more.
    barred: Vec<(UserId, HashSet<UserId>)>,
}

struct Task {
    views: Views,
    interest: Shared,
    messages: Messages,
    /// Bounded by who is watched: each is looked up once at a time.
    lookups: FuturesUnordered<BoxFuture<'static, LookedUp>>,
    /// Who is looked up, and whether what is found is of no use, for it has changed since.
    looking: HashMap<UserId, bool>,
    streams: HashMap<Name, mpsc::UnboundedSender<WatchRequest>>,
    started: Instant,
}

/// Follows the interest for ever.
pub(super) async fn run(
    presence: Pool,
    messages: Messages,
    interest: Shared,
    wishes: mpsc::UnboundedReceiver<(UserId, bool)>,
) {
    let (events, happened) = mpsc::channel(EVENTS_MAX);
    let views = Views::new(names(&presence.members()));
    let (lookups, looking, streams) = (FuturesUnordered::new(), HashMap::new(), HashMap::new());
    let task = Task { views, interest, messages, lookups, looking, streams, started: Instant::now() };
    let listed = presence.watch();
    tokio::select! {
        () = task.run(wishes, happened, listed) => {}
        () = each(presence, LINGER, |member| keep_open(member, events.clone())) => {}
    }
}

impl Task {
    async fn run(
        mut self,
        mut wishes: mpsc::UnboundedReceiver<(UserId, bool)>,
        mut events: mpsc::Receiver<Event>,
        mut listed: watch::Receiver<Members>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                taken = wishes.recv_many(&mut batch, BATCH_MAX) => {
                    if taken == 0 {
                        return;
                    }
                    // The last wish for a user counts.
                    let last: HashMap<UserId, bool> = batch.drain(..).collect();
                    let wishes = last.into_iter().filter_map(|(user, on)| Some((self.views.follow(user.0)?, user, on)));
                    self.send(requests(wishes));
                }
                Some(event) = events.recv() => self.hear(event),
                Some(looked_up) = self.lookups.next() => self.looked_up(looked_up),
                Ok(()) = listed.changed() => {
                    let names = names(&listed.borrow_and_update());
                    let before = self.views.clone();
                    if self.views.change(now_ms(self.started), names) {
                        self.follow_elsewhere(&before);
                    }
                }
                _ = tick.tick() => {
                    let before = self.views.clone();
                    if self.views.tick(now_ms(self.started)) {
                        self.follow_elsewhere(&before);
                    }
                }
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Connected(name, stream) => {
                let interest = self.interest.lock();
                let here = interest.users().filter(|user| self.views.follow(user.0) == Some(&name));
                let requests = requests(here.map(|user| (&name, user, true)));
                drop(interest);
                self.streams.insert(name, stream);
                self.send(requests);
            }
            Event::Told(name, told) => {
                let mut interest = self.interest.lock();
                // An instance at which a user is followed no longer knows less and less of them.
                let of_its_own = |user: u64| self.views.follow(user) == Some(&name);
                let news = told.presences.iter().filter(|presence| of_its_own(presence.user_id));
                let unknown = news.filter(|presence| interest.told(presence)).map(|presence| presence.user_id);
                let unknown: Vec<u64> = unknown.collect();
                let changed = told.changed.iter().map(|user| UserId(*user));
                let changed = changed.map(|user| (user, interest.changed(user)));
                let changed: Vec<_> = changed.filter(|(_, watching)| !watching.is_empty()).collect();
                drop(interest);
                self.look_up(unknown, changed);
            }
            Event::Lost(name) => drop(self.streams.remove(&name)),
        }
    }

    /// Asks whether some users are visible, and for others who may watch them, too.
    fn look_up(&mut self, mut users: Vec<u64>, changed: Vec<(UserId, Vec<UserId>)>) {
        // Who is looked up already is told then.
        users.retain(|user| match self.looking.entry(UserId(*user)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(false);
                true
            }
        });
        for users in users.chunks(ASKED_MAX) {
            self.lookups.push(Box::pin(look_up_visible(self.messages.clone(), users.to_vec())));
        }
        for (user, watching) in changed {
            if let Some(is_stale) = self.looking.get_mut(&user) {
                *is_stale = true;
                continue;
            }
            self.looking.insert(user, false);
            let messages = self.messages.clone();
            self.lookups.push(Box::pin(async move {
                let barred = barred(messages.clone(), user, watching).await;
                LookedUp { barred: vec![(user, barred)], ..look_up_visible(messages, vec![user.0]).await }
            }));
        }
    }

    fn looked_up(&mut self, LookedUp { mut visible, mut barred }: LookedUp) {
        let found = visible.iter().map(|(user, _)| *user);
        let stale: HashSet<UserId> = found.filter(|user| self.looking.remove(user) == Some(true)).collect();
        visible.retain(|(user, _)| !stale.contains(user));
        barred.retain(|(user, _)| !stale.contains(user));
        let mut interest = self.interest.lock();
        let again = stale.into_iter().map(|user| (user, interest.changed(user)));
        let again: Vec<_> = again.filter(|(_, watching)| !watching.is_empty()).collect();
        // First who hears no more of it.
        let ended = barred.iter().filter(|(user, barred)| interest.bar(*user, barred)).map(|(user, _)| *user);
        let ended: Vec<UserId> = ended.collect();
        visible.into_iter().for_each(|(user, is_visible)| interest.is_visible(user, is_visible));
        let wishes = ended.into_iter().filter_map(|user| Some((self.views.follow(user.0)?, user, false)));
        let requests = requests(wishes);
        drop(interest);
        self.send(requests);
        self.look_up(Vec::new(), again);
    }

    fn follow_elsewhere(&mut self, before: &Views) {
        let interest = self.interest.lock();
        let moved = interest.users().filter(|user| before.follow(user.0) != self.views.follow(user.0));
        let places = moved.flat_map(|user| {
            let off = before.follow(user.0).map(|name| (name, user, false));
            let on = self.views.follow(user.0).map(|name| (name, user, true));
            off.into_iter().chain(on)
        });
        let requests = requests(places);
        drop(interest);
        self.send(requests);
    }

    fn send(&self, requests: Vec<(Name, WatchRequest)>) {
        for (name, request) in requests {
            // Without a stream it is told when there is one.
            let _lost = self.streams.get(&name).map(|stream| stream.send(request));
        }
    }
}

async fn look_up_visible(messages: Messages, users: Vec<u64>) -> LookedUp {
    let ask = || {
        let (mut messages, request) = (messages.clone(), FilterVisibleRequest { user_ids: users.clone() });
        async move { Ok(messages.filter_visible(request).await?.into_inner().user_ids) }
    };
    let shown: HashSet<u64> = tried(ask).await.unwrap_or_default().into_iter().collect();
    let visible = users.into_iter().map(|user| (UserId(user), shown.contains(&user)));
    LookedUp { visible: visible.collect(), ..LookedUp::default() }
}

/// Those who watch a user and may not any more.
async fn barred(messages: Messages, user: UserId, watching: Vec<UserId>) -> HashSet<UserId> {
    let mut barred: HashSet<UserId> = watching.iter().copied().collect();
    barred.remove(&user);
    for some in watching.chunks(ASKED_MAX) {
        let ask = || {
            let user_ids = some.iter().map(|watching| watching.0).collect();
            let (mut messages, request) = (messages.clone(), FilterAcquaintedRequest { user_id: user.0, user_ids });
            async move { Ok(messages.filter_acquainted(request).await?.into_inner().user_ids) }
        };
        for known in tried(ask).await.unwrap_or_default() {
            barred.remove(&UserId(known));
        }
    }
    barred
}

/// `None`: message-svc could not be asked.
async fn tried<T, F: Future<Output = Result<T, tonic::Status>>>(ask: impl Fn() -> F) -> Option<T> {
    for attempt in 1..=LOOKUP_TRIES {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(status) if attempt == LOOKUP_TRIES => {
                tracing::warn!(code = ?status.code(), "what watchers may see can't be looked up: they see nothing");
            }
            Err(_) => tokio::time::sleep(LOOKUP_AGAIN * attempt).await,
        }
    }
    None
}

fn requests<'a>(wishes: impl Iterator<Item = (&'a Name, UserId, bool)>) -> Vec<(Name, WatchRequest)> {
    let mut requests: Vec<(Name, WatchRequest)> = Vec::new();
    for (name, user, on) in wishes {
        let has_room = |request: &WatchRequest| request.watch.len().max(request.unwatch.len()) < USERS_MAX;
        let at = requests.iter().rposition(|(to, request)| to == name && has_room(request)).unwrap_or_else(|| {
            requests.push((name.clone(), WatchRequest::default()));
            requests.len() - 1
        });
        let request = &mut requests[at].1;
        if on { request.watch.push(user.0) } else { request.unwatch.push(user.0) }
    }
    requests
}

async fn keep_open(member: Member, events: mpsc::Sender<Event>) {
    let mut presence = presence_client(&member);
    let mut backoff = Backoff::default();
    loop {
        let (requests, queue) = mpsc::unbounded_channel();
        if let Ok(response) = presence.watch(UnboundedReceiverStream::new(queue)).await {
            backoff = Backoff::default();
            let mut answers = response.into_inner();
            // The receiver is gone only when the task is.
            drop(events.send(Event::Connected(member.id.clone(), requests)).await);
            while let Ok(Some(told)) = answers.message().await {
                drop(events.send(Event::Told(member.id.clone(), told)).await);
            }
            drop(events.send(Event::Lost(member.id.clone())).await);
        }
        backoff.wait().await;
    }
}
