//! The streams by which this edge watches: each user at one instance, the one to follow them at.

use std::collections::HashMap;
use std::time::Duration;

use confab_ids::UserId;
use confab_mesh::views::Views;
use confab_mesh::{Member, Members, Pool, each};
use confab_proto::presence::v1::{WatchRequest, WatchResponse};
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

type Name = std::sync::Arc<str>;

enum Event {
    /// Its queue is bounded by what is watched.
    Connected(Name, mpsc::UnboundedSender<WatchRequest>),
    Told(Name, WatchResponse),
    Lost(Name),
}

struct Task {
    views: Views,
    interest: Shared,
    streams: HashMap<Name, mpsc::UnboundedSender<WatchRequest>>,
    started: Instant,
}

/// Follows the interest for ever.
pub(super) async fn run(presence: Pool, interest: Shared, wishes: mpsc::UnboundedReceiver<(UserId, bool)>) {
    let (events, happened) = mpsc::channel(EVENTS_MAX);
    let views = Views::new(names(&presence.members()));
    let task = Task { views, interest, streams: HashMap::new(), started: Instant::now() };
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
                news.for_each(|presence| interest.told(presence));
            }
            Event::Lost(name) => drop(self.streams.remove(&name)),
        }
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
