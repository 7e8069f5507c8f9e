//! Where a chat's owner is, and the one hop there: any instance takes any unary call. A `Converse` stream's commands at another
//! than the owner are refused, and the edge follows the map; as a whole it is passed on if the edge says to whom.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use confab_ids::{ChatId, Seq, Shard, UserId};
use confab_proto::message::v1::{ViewChatsRequest, viewed_chat};
use confab_proto::metadata::RELAY_TO;
use futures_util::future::{join, join_all};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::convert;
use crate::core::ownership::map::ShardMap;
use crate::core::{ChatView, Command, From, Outcome, View};
use crate::error::ChatError;
use crate::others::{Client, Others};
use crate::owner::OwnerHandle;

/// Marks a call that another instance has passed on: it is answered here, or not at all.
const HOP: &str = "confab-hop";

/// How long a call waits, at most, for a shard that is between two owners. Callers have deadlines of their own, of 5 s mostly.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Between two tries, unless the map changes before.
const PAUSE: Duration = Duration::from_millis(100);

/// The owners of all chats.
#[derive(Clone)]
pub(crate) struct Owners(Arc<Inner>);

struct Inner {
    here: OwnerHandle,
    /// Among others: where this instance is called, and the others.
    among: Option<Among>,
}

struct Among {
    addr: String,
    others: Arc<Others>,
}

/// One of so many equal parts. While instances come and go two may overlap, or leave something out until the next time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    at: u64,
    of: u64,
}

impl Part {
    pub(crate) fn has(self, place: i64) -> bool {
        place.cast_unsigned() % self.of == self.at
    }
}

enum Place {
    Here,
    /// By its address.
    There(Arc<str>, Client),
    /// Nobody's at the moment, or of an instance that is not known yet.
    Nowhere,
}

impl Owners {
    /// All chats are of this one.
    pub(crate) fn alone(here: OwnerHandle) -> Self {
        Self(Arc::new(Inner { here, among: None }))
    }

    pub(crate) fn among(here: OwnerHandle, addr: String, others: Arc<Others>) -> Self {
        Self(Arc::new(Inner { here, among: Some(Among { addr, others }) }))
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.0.among.is_none()
    }

    /// To be asked for each call of a request.
    pub(crate) fn tries<T>(&self, request: &Request<T>) -> Tries {
        let passed_on = request.metadata().contains_key(HOP);
        self.tries_of(passed_on || self.0.among.is_none())
    }

    /// Whom a stream is for, if not for this instance.
    pub(crate) fn relay_to<T>(&self, request: &Request<T>) -> Result<Option<Client>, Status> {
        let Some(addr) = request.metadata().get(RELAY_TO) else { return Ok(None) };
        let addr = addr.to_str().map_err(|_| Status::invalid_argument(format!("{RELAY_TO}: not an address")))?;
        match &self.0.among {
            Some(among) if addr == among.addr => Ok(None),
            Some(among) => match among.others.client(addr) {
                Some(client) => Ok(Some(client)),
                None => Err(Status::unavailable(format!("{RELAY_TO}: no instance that is known here"))),
            },
            None => Err(Status::invalid_argument(format!("{RELAY_TO}: there is one instance only"))),
        }
    }

    /// Of no request: what this instance does by itself.
    pub(crate) fn fresh_tries(&self) -> Tries {
        self.tries_of(self.0.among.is_none())
    }

    /// Whether a shard is this instance's, by the map.
    pub(crate) fn is_here(&self, shard: Shard) -> bool {
        matches!(self.fresh_tries().place(shard), Place::Here)
    }

    /// Of all that the instances do together, the part of this one.
    pub(crate) fn part(&self) -> Part {
        let alone = Part { at: 0, of: 1 };
        let Some(among) = &self.0.among else { return alone };
        let map = self.0.here.map().borrow().clone();
        let mut addrs: Vec<&str> = map.addrs.values().map(|addr| &**addr).collect();
        addrs.sort_unstable();
        addrs.dedup();
        let at = addrs.iter().position(|addr| *addr == among.addr);
        // Who isn't on the map has none.
        at.map_or(Part { at: 1, of: 1 }, |at| Part { at: at as u64, of: addrs.len() as u64 })
    }

    fn tries_of(&self, once: bool) -> Tries {
        Tries { owners: self.clone(), map: self.0.here.map(), once, until: Instant::now() + WAIT_MAX }
    }

    /// Chats as one of their members sees them.
    pub(crate) async fn views(&self, chats: &[ChatId], viewer: &Viewer<'_>) -> Vec<Result<ChatView, ChatError>> {
        let mut tries = self.fresh_tries();
        let mut views: Vec<Result<ChatView, ChatError>> = vec![Err(ChatError::NotOwner); chats.len()];
        loop {
            let open: Vec<usize> = (0..chats.len()).filter(|at| may_pass(&views[*at])).collect();
            let asked: Vec<ChatId> = open.iter().map(|at| chats[*at]).collect();
            let found = tries.views(&asked, viewer).await;
            open.into_iter().zip(found).for_each(|(at, view)| views[at] = view);
            if !views.iter().any(may_pass) || !tries.wait().await {
                return views;
            }
        }
    }

    /// The same, of the chats that this instance owns.
    pub(crate) async fn views_here(&self, chats: &[ChatId], viewer: &Viewer<'_>) -> Vec<Result<ChatView, ChatError>> {
        join_all(chats.iter().map(|chat| self.view_here(*chat, viewer))).await
    }

    /// A chat of this instance's, all of it; `None`: it was never made, or is gone.
    pub(crate) async fn whole_view_here(&self, chat: ChatId) -> Result<Option<ChatView>, ChatError> {
        match self.view_here(chat, &Viewer::of(UserId(0), "")).await {
            Ok(view) => Ok(Some(view)),
            Err(ChatError::NotMember) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn view_here(&self, chat: ChatId, viewer: &Viewer<'_>) -> Result<ChatView, ChatError> {
        match self.0.here.call(chat, Command::View(viewer.view(chat))).await {
            Outcome::Viewed(view) => Ok(*view),
            Outcome::ChatRefused(error) => Err(error),
            _ => Err(ChatError::Unavailable),
        }
    }
}

/// Who looks at chats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Viewer<'a> {
    pub user: UserId,
    pub device: &'a str,
    /// Whether it wants the newest events, too; what it says that it has, by chat.
    pub newest: Option<&'a HashMap<u64, u64>>,
}

impl<'a> Viewer<'a> {
    /// Of the chats alone, not of their logs.
    pub(crate) fn of(user: UserId, device: &'a str) -> Self {
        Self { user, device, newest: None }
    }

    fn view(&self, chat: ChatId) -> View {
        let from = |seq: Option<&u64>| seq.map_or(From::Confirmed, |seq| From::Seq(Seq(*seq)));
        let newest = self.newest.map(|positions| from(positions.get(&chat.0)));
        View { user: self.user, device: self.device.to_owned(), newest }
    }
}

fn may_pass(view: &Result<ChatView, ChatError>) -> bool {
    matches!(view, Err(ChatError::NotOwner | ChatError::Unavailable))
}

/// A call on its way to a shard's owner, as often as it takes within [`WAIT_MAX`].
pub(crate) struct Tries {
    owners: Owners,
    map: watch::Receiver<Arc<ShardMap>>,
    once: bool,
    until: Instant,
}

impl Tries {
    fn place(&mut self, shard: Shard) -> Place {
        let Some(among) = &self.owners.0.among else { return Place::Here };
        let map = self.map.borrow_and_update().clone();
        match map.owner(shard).and_then(|owner| map.addrs.get(&owner)) {
            Some(addr) if **addr == *among.addr => Place::Here,
            // Else two instances that disagree could pass it to and fro.
            Some(addr) if !self.once => match among.others.client(addr) {
                Some(client) => Place::There(addr.clone(), client),
                None => Place::Nowhere,
            },
            _ => Place::Nowhere,
        }
    }

    /// Makes a call at a shard's owner: `here`, or `there` with one hop.
    pub(crate) async fn call<T, H, O>(
        mut self,
        shard: Shard,
        here: impl Fn() -> H,
        there: impl Fn(Client) -> O,
    ) -> Result<T, Status>
    where
        H: Future<Output = Result<T, Status>>,
        O: Future<Output = Result<T, Status>>,
    {
        loop {
            let result = match self.place(shard) {
                Place::Here => here().await,
                Place::There(_, owner) => there(owner).await,
                Place::Nowhere => Err(ChatError::NotOwner.into()),
            };
            match result {
                Err(status) if status.code() == Code::Unavailable && self.wait().await => {}
                result => return result,
            }
        }
    }

    /// Until another try makes sense; `false`: none does.
    async fn wait(&mut self) -> bool {
        let next = Instant::now() + PAUSE;
        if self.once || next > self.until {
            return false;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            changed = self.map.changed() => if changed.is_err() {
                sleep_until(next).await;
            }
        }
        true
    }

    async fn views(&mut self, chats: &[ChatId], viewer: &Viewer<'_>) -> Vec<Result<ChatView, ChatError>> {
        let mut here = Vec::new();
        let mut there: BTreeMap<Arc<str>, (Client, Vec<usize>)> = BTreeMap::new();
        for (at, chat) in chats.iter().enumerate() {
            match self.place(Shard::of_chat(*chat)) {
                Place::Here => here.push(at),
                Place::There(addr, client) => {
                    there.entry(addr).or_insert_with(|| (client, Vec::new())).1.push(at);
                }
                Place::Nowhere => {}
            }
        }
        let mut views = vec![Err(ChatError::NotOwner); chats.len()];
        let these = |places: &[usize]| places.iter().map(|at| chats[*at]).collect::<Vec<ChatId>>();
        let chats_here = these(&here);
        let of_here = self.owners.views_here(&chats_here, viewer);
        let of_there = there.into_values().map(|(client, places)| {
            let asked = these(&places);
            async move { (places, views_there(client, &asked, viewer).await) }
        });
        let (of_here, of_there) = join(of_here, join_all(of_there)).await;
        let all = of_there.into_iter().chain([(here, of_here)]);
        for (at, view) in all.flat_map(|(places, found)| places.into_iter().zip(found)) {
            views[at] = view;
        }
        views
    }
}

/// Marks a request as passed on.
pub(crate) fn passed_on<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOP, MetadataValue::from_static("1"));
    request
}

async fn views_there(mut client: Client, chats: &[ChatId], viewer: &Viewer<'_>) -> Vec<Result<ChatView, ChatError>> {
    let chat_ids: Vec<u64> = chats.iter().map(|chat| chat.0).collect();
    let known = |positions: &HashMap<u64, u64>| {
        let of_these = chat_ids.iter().filter_map(|chat| Some((*chat, *positions.get(chat)?)));
        of_these.collect()
    };
    let request = ViewChatsRequest {
        user_id: viewer.user.0,
        device: viewer.device.to_owned(),
        positions: viewer.newest.map(known).unwrap_or_default(),
        newest: viewer.newest.is_some(),
        chat_ids,
    };
    let Ok(response) = client.view_chats(passed_on(request)).await else {
        return vec![Err(ChatError::Unavailable); chats.len()];
    };
    let viewed = response.into_inner().chats.into_iter().map(|chat| match chat.outcome {
        Some(viewed_chat::Outcome::View(view)) => Ok(convert::view(view)),
        Some(viewed_chat::Outcome::Refused(refused)) => Err(ChatError::named(&refused.code)),
        None => Err(ChatError::Unavailable),
    });
    let missing = std::iter::repeat(Err(ChatError::Unavailable));
    viewed.chain(missing).take(chats.len()).collect()
}
