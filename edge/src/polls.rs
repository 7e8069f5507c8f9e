//! Long polls: sessions whose clients ask for what there is, in place of having a socket. Each is a task, like a connection, at the
//! edge that its client asked last. It ends there after a while without a question, or when the client asks elsewhere; whichever
//! edge is asked next goes on with it, from what presence-svc keeps.
//!
//! ```text
//! batches.rs   which frames the client has, pure     task.rs   one poll's task
//! ```

mod batches;
mod task;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use confab_ids::UserId;
use confab_proto::presence::v1::TakePollResponse;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use self::batches::Positions;
use self::task::Poll;
use crate::auth::Claims;
use crate::core::session::poll::Begin;
use crate::core::session::{Bounds, Mode, Session};
use crate::edge::Shared;
use crate::frames::Frame;
use crate::frames::client::Read;
use crate::links::presence::instances::Instances;
use crate::links::presence::polls::{Keeper, NotTaken};

/// Questions of one client that wait for its task; further ones are refused as `UNAVAILABLE`.
const REQUESTS_MAX: usize = 16;

/// What a client gets.
#[derive(Debug)]
pub(crate) struct Page {
    pub cursor: u64,
    pub frames: Vec<Frame>,
}

/// Why a question gets no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such session any more.
    Gone,
    AnotherUsers,
    /// A newer question has come, here or at another edge.
    Superseded,
    /// It names neither of the last two batches.
    WrongCursor,
    /// Another edge has gone on with it meanwhile: what is kept is newer than what is here.
    Stale,
    /// Its task has ended before it came to the question.
    Ended,
    /// The token has expired while it waited.
    Expired,
    Revoked,
    Unavailable,
}

impl From<NotTaken> for Refusal {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Gone => Self::Gone,
            NotTaken::AnotherUsers => Self::AnotherUsers,
            NotTaken::Unreachable => Self::Unavailable,
        }
    }
}

enum Request {
    Next {
        cursor: u64,
        wait: Duration,
        claims: Claims,
        answer: oneshot::Sender<Result<Page, Refusal>>,
    },
    /// Frames for the session itself: their answers come with the next page.
    Frames {
        frames: Vec<Read>,
        claims: Claims,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The session was elsewhere meanwhile: what is here is of no use.
    Leave,
    /// Its client has ended it.
    End,
}

/// Where a task begins.
enum Beginning {
    /// A new session, whose client has everything up to these.
    New(Positions),
    /// One of another edge's.
    Taken(Box<TakePollResponse>),
}

struct Entry {
    user: UserId,
    device: Box<str>,
    requests: mpsc::Sender<Request>,
}

impl Entry {
    fn of(&self, claims: &Claims) -> Result<mpsc::Sender<Request>, Refusal> {
        let is_theirs = self.user == claims.user && *self.device == *claims.device;
        if is_theirs { Ok(self.requests.clone()) } else { Err(Refusal::AnotherUsers) }
    }
}

/// The polls of this edge.
pub(crate) struct Polls {
    here: Mutex<HashMap<Uuid, Entry>>,
    keeper: Keeper,
}

impl Polls {
    pub(crate) fn new(presence: Arc<Instances>, edge_id: String) -> Self {
        Self { here: Mutex::default(), keeper: Keeper::new(presence, edge_id) }
    }

    fn here(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: Uuid, claims: &Claims) -> Result<Option<mpsc::Sender<Request>>, Refusal> {
        let entry = self.here();
        entry.get(&id).filter(|entry| !entry.requests.is_closed()).map(|entry| entry.of(claims)).transpose()
    }

    fn remove(&self, id: Uuid, requests: &mpsc::WeakSender<Request>) {
        let mut here = self.here();
        // Another may have begun meanwhile.
        let is_it = |entry: &Entry| {
            entry.requests.is_closed()
                || requests.upgrade().is_some_and(|requests| requests.same_channel(&entry.requests))
        };
        if here.get(&id).is_some_and(is_it) {
            here.remove(&id);
        }
    }
}

/// Opens one, and gives its first page: `hello`.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    bounds: Bounds,
    claims: &Claims,
    positions: BTreeMap<u64, u64>,
) -> Result<(Uuid, Page), Refusal> {
    let id = Uuid::new_v4();
    let mut session = Session::new(shared.now(), Mode::Poll, claims, id, bounds);
    let known = positions.iter().map(|(chat, seq)| (*chat, *seq)).collect();
    session.begin(Begin { positions, ..Begin::default() });
    let requests = start(shared, id, claims, session, Beginning::New(known))?;
    ask_next(&requests, claims, 0, Duration::ZERO).await.map(|page| (id, page))
}

/// What there is for a client that has all up to `cursor`, or nothing after `wait`.
pub(crate) async fn next(
    shared: &Arc<Shared>,
    bounds: Bounds,
    claims: &Claims,
    id: Uuid,
    cursor: u64,
    wait: Duration,
) -> Result<Page, Refusal> {
    let requests = have(shared, bounds, claims, id).await?;
    let asked = ask_next(&requests, claims, cursor, wait).await;
    let Err(Refusal::Stale | Refusal::Ended) = asked else { return asked };
    // Its client has asked elsewhere meanwhile, and comes back: what is kept is newer than what was here.
    leave(shared, id, &requests);
    let requests = have(shared, bounds, claims, id).await?;
    ask_next(&requests, claims, cursor, wait).await
}

/// Gives frames to the session itself.
pub(crate) async fn give(
    shared: &Arc<Shared>,
    bounds: Bounds,
    claims: &Claims,
    id: Uuid,
    frames: &[Read],
) -> Result<(), Refusal> {
    let request = |answer| Request::Frames { frames: frames.to_vec(), claims: claims.clone(), answer };
    let requests = have(shared, bounds, claims, id).await?;
    let given = ask(&requests, request).await;
    let Err(Refusal::Stale | Refusal::Ended) = given else { return given };
    leave(shared, id, &requests);
    let requests = have(shared, bounds, claims, id).await?;
    ask(&requests, request).await
}

/// Ends a task whose session has been elsewhere meanwhile.
fn leave(shared: &Shared, id: Uuid, requests: &mpsc::Sender<Request>) {
    shared.polls.remove(id, &requests.downgrade());
    let _ended = requests.try_send(Request::Leave);
}

/// Whether there is such a session of this user and device.
pub(crate) async fn look(shared: &Shared, claims: &Claims, id: Uuid) -> Result<(), Refusal> {
    match shared.polls.find(id, claims)? {
        Some(_) => Ok(()),
        None => Ok(shared.polls.keeper.look(id, claims).await?),
    }
}

/// Ends one, wherever it is.
pub(crate) async fn end(shared: &Shared, claims: &Claims, id: Uuid) -> Result<(), Refusal> {
    let here = shared.polls.find(id, claims)?;
    shared.polls.keeper.look(id, claims).await?;
    if let Some(requests) = here {
        // Who asks next is not to find it here still, which would keep it.
        shared.polls.remove(id, &requests.downgrade());
        let _ended = requests.try_send(Request::End);
    }
    // The edge that has it hears of that.
    shared.polls.keeper.end(id, claims.user).await;
    Ok(())
}

/// The session's task, from another edge if need be.
async fn have(
    shared: &Arc<Shared>,
    bounds: Bounds,
    claims: &Claims,
    id: Uuid,
) -> Result<mpsc::Sender<Request>, Refusal> {
    if let Some(requests) = shared.polls.find(id, claims)? {
        return Ok(requests);
    }
    let kept = shared.polls.keeper.take(id, claims).await?;
    let session = Session::new(shared.now(), Mode::Poll, claims, id, bounds).without_hello();
    start(shared, id, claims, session, Beginning::Taken(Box::new(kept)))
}

/// Starts a task, unless there is one by now.
fn start(
    shared: &Arc<Shared>,
    id: Uuid,
    claims: &Claims,
    session: Session,
    from: Beginning,
) -> Result<mpsc::Sender<Request>, Refusal> {
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let entry = Entry { user: claims.user, device: claims.device.as_str().into(), requests: requests.clone() };
    {
        let mut here = shared.polls.here();
        if let Some(there) = here.get(&id).filter(|entry| !entry.requests.is_closed()) {
            return there.of(claims);
        }
        here.insert(id, entry);
    }
    let poll = Box::new(Poll::new(shared, id, claims, session, asked, from));
    let (shared, own) = (shared.clone(), requests.downgrade());
    tokio::spawn(async move {
        poll.run(|| shared.polls.remove(id, &own)).await;
    });
    Ok(requests)
}

async fn ask_next(
    requests: &mpsc::Sender<Request>,
    claims: &Claims,
    cursor: u64,
    wait: Duration,
) -> Result<Page, Refusal> {
    ask(requests, |answer| Request::Next { cursor, wait, claims: claims.clone(), answer }).await
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
) -> Result<T, Refusal> {
    let (answer, answered) = oneshot::channel();
    requests.try_send(request(answer)).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Refusal::Unavailable,
        mpsc::error::TrySendError::Closed(_) => Refusal::Ended,
    })?;
    // A task that ends meanwhile leaves the question to be asked again.
    answered.await.unwrap_or(Err(Refusal::Ended))
}
