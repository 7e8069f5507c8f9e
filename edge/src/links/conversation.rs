//! The streams to message-svc, one to each instance: the task around [`crate::core::routes`].
//!
//! ```text
//! outlet.rs   what goes out on one stream, in batches     streams.rs   keeps the streams open, and the shard map known
//! ```

mod outlet;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use confab_mesh::{Drain, Pool, each};
use confab_proto::message::v1::command::Action;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::outlet::{Outlet, Room};
use self::streams::{Change, Heard, Link};
use crate::core::routes::{Effects, Router, Stream};
use crate::mailbox::Item;
use crate::registry::Registry;

/// Commands that wait for the router; a connection with one more waits, and is not read meanwhile.
const COMMANDS_MAX: usize = 8_192;

/// Commands that are taken at once.
const ROUND_MAX: usize = 512;

/// Frames of replies that wait for the router; beyond it their streams wait.
const HEARD_MAX: usize = 64;

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(25);

/// An instance that is no longer listed may own chats, or have answers, for so long.
const LINGER: Duration = Duration::from_secs(30);

/// A session's command.
struct Said {
    session: u64,
    call: u64,
    action: Action,
}

#[derive(Clone)]
pub(crate) struct Conversation {
    commands: mpsc::Sender<Said>,
    changes: mpsc::UnboundedSender<Change>,
}

impl Conversation {
    /// Hands a command over; where there is no room, what to wait for.
    pub(crate) fn send(&self, session: u64, call: u64, action: Action) -> Option<BoxFuture<'_, ()>> {
        match self.commands.try_send(Said { session, call, action }) {
            Err(TrySendError::Full(said)) => Some(Box::pin(async move {
                // Without the link the process is ending, and so is the connection.
                drop(self.commands.send(said).await);
            })),
            Ok(()) | Err(TrySendError::Closed(_)) => None,
        }
    }

    /// A session has ended.
    pub(crate) fn closed(&self, session: u64) {
        // Without the link the process is ending.
        drop(self.changes.send(Change::Closed(session)));
    }
}

/// Starts the links.
pub(crate) fn start(owners: Pool, registry: Registry, drain: &Drain) -> Conversation {
    let (conversation, run) = link(owners, registry);
    let ended = drain.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = run => {}
            () = ended.started() => {}
        }
    });
    conversation
}

fn link(owners: Pool, registry: Registry) -> (Conversation, impl Future<Output = ()>) {
    let (commands, said) = mpsc::channel(COMMANDS_MAX);
    // Bounded by the connections, and by the instances, whose streams are not opened again at once.
    let (changes, changed) = mpsc::unbounded_channel();
    let (replies, heard) = mpsc::channel(HEARD_MAX);
    let (follow, followed) = watch::channel(None);
    let link = Link::new(owners.clone(), changes.clone(), replies);
    let run = async move {
        let task = Task {
            router: Router::default(),
            registry,
            outlets: HashMap::new(),
            rooms: FuturesUnordered::new(),
            follow,
            started: Instant::now(),
        };
        tokio::select! {
            () = task.run(said, changed, heard) => {}
            () = each(owners, LINGER, |member| link.clone().keep_open(member)) => {}
            () = link.clone().follow_shards(followed) => {}
        }
    };
    (Conversation { commands, changes }, run)
}

struct Task {
    router: Router,
    registry: Registry,
    outlets: HashMap<Stream, Outlet>,
    /// Outlets that wait for their streams, one entry for each.
    rooms: FuturesUnordered<BoxFuture<'static, Room>>,
    /// Whose shard map to follow; only the newest counts.
    follow: watch::Sender<Option<Arc<str>>>,
    started: Instant,
}

impl Task {
    async fn run(
        mut self,
        mut said: mpsc::Receiver<Said>,
        mut changes: mpsc::UnboundedReceiver<Change>,
        mut heard: mpsc::Receiver<Heard>,
    ) {
        let mut round = Vec::with_capacity(ROUND_MAX);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut fx = Effects::default();
            tokio::select! {
                taken = said.recv_many(&mut round, ROUND_MAX), if self.router.has_room() => {
                    if taken == 0 {
                        return;
                    }
                    let now_ms = self.now_ms();
                    for Said { session, call, action } in round.drain(..) {
                        self.router.command(now_ms, session, call, action, &mut fx);
                    }
                }
                Some(first) = heard.recv() => {
                    self.hear(first, &mut fx);
                    while let Ok(next) = heard.try_recv() {
                        self.hear(next, &mut fx);
                    }
                }
                Some(change) = changes.recv() => self.change(change, &mut fx),
                Some(room) = self.rooms.next() => self.has_room(room),
                _ = tick.tick() => self.router.tick(self.now_ms(), &mut fx),
            }
            self.act(fx);
        }
    }

    fn now_ms(&self) -> u64 {
        super::now_ms(self.started)
    }

    fn hear(&mut self, heard: Heard, fx: &mut Effects) {
        let now_ms = self.now_ms();
        match heard {
            Heard::Replies(stream, response) => {
                for reply in response.replies {
                    self.router.replied(now_ms, stream, reply, fx);
                }
            }
            Heard::Map(map) => self.router.mapped(now_ms, map, fx),
        }
    }

    fn change(&mut self, change: Change, fx: &mut Effects) {
        let now_ms = self.now_ms();
        match change {
            Change::Connected { name, stream, outlet } => {
                self.outlets.insert(stream, outlet);
                self.router.connected(now_ms, &name, stream, fx);
            }
            Change::Lost(stream) => {
                self.outlets.remove(&stream);
                self.router.lost(now_ms, stream, fx);
            }
            Change::Closed(session) => self.router.closed(now_ms, session),
        }
    }

    fn has_room(&mut self, Room { stream, permit }: Room) {
        if let Some(outlet) = self.outlets.get_mut(&stream) {
            outlet.has_room(permit);
            self.rooms.extend(outlet.flush(stream));
        }
    }

    /// Does what the core has said.
    fn act(&mut self, fx: Effects) {
        for (stream, commands) in fx.commands {
            let Some(outlet) = self.outlets.get_mut(&stream) else { continue };
            if outlet.push(commands).is_none() {
                tracing::warn!(stream, "a stream whose instance takes nothing is cut");
                // Its end is told by the stream.
                self.outlets.remove(&stream);
                continue;
            }
            self.rooms.extend(outlet.flush(stream));
        }
        if fx.follow.is_some() {
            self.follow.send_replace(fx.follow);
        }
        if fx.replies.is_empty() {
            return;
        }
        let connections = self.registry.read();
        for reply in fx.replies {
            if let Some(mailbox) = connections.get(reply.session) {
                mailbox.push(Item::Reply(Box::new(reply)));
            }
        }
    }
}
