//! What all devices of a run share: where to connect, who there is, how much is to be done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use confab_tests::harness::http::{self, Response};
use confab_tests::harness::token::Minter;
use serde_json::Value;
use tokio::sync::watch;

use crate::fault::{Bug, Interposer};
use crate::log::Made;

pub(crate) struct Field {
    pub edges: Vec<SocketAddr>,
    /// The first one is the witness: in every group from its first event to its last, so that somebody sees its whole log.
    pub users: Vec<u64>,
    pub seed: u64,
    minter: Minter,
    /// Operations that are left to be done in this round.
    left: AtomicU64,
    /// Operations begun until now.
    begun: watch::Sender<u64>,
    /// Shared by the devices that make chats; as many as there are chats.
    made: Mutex<BTreeMap<u64, Made>>,
    /// Shared, for a seeded bug strikes one device.
    interposer: Mutex<Interposer>,
    has_bug: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Field {
    pub(crate) fn new(edges: Vec<SocketAddr>, minter: Minter, users: Vec<u64>, seed: u64, bug: Option<Bug>) -> Self {
        Self {
            edges,
            users,
            seed,
            minter,
            left: AtomicU64::new(0),
            begun: watch::Sender::new(0),
            made: Mutex::default(),
            interposer: Mutex::new(Interposer::new(bug)),
            has_bug: bug.is_some(),
        }
    }

    pub(crate) fn witness(&self) -> u64 {
        self.users[0]
    }

    pub(crate) fn token(&self, user: u64, device: &str) -> String {
        self.minter.token(user, Some(device))
    }

    /// There is more to do.
    pub(crate) fn allot(&self, operations: u64) {
        self.left.fetch_add(operations, Ordering::SeqCst);
    }

    /// One of them; whether there was one left.
    pub(crate) fn begin_one(&self) -> bool {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if taken.is_ok() {
            self.begun.send_modify(|begun| *begun += 1);
        } else {
            // Those who wait for others to go on are not to wait for more.
            self.begun.send_modify(|_| ());
        }
        taken.is_ok()
    }

    /// Waits until the others have begun so many more operations, or there are none left.
    pub(crate) async fn until_others_have_done(&self, more: u64) {
        let mut begun = self.begun.subscribe();
        let target = *begun.borrow() + more;
        let is_time = |begun: &u64| *begun >= target || self.left.load(Ordering::SeqCst) == 0;
        // It doesn't end before this.
        let _seen = begun.wait_for(is_time).await;
    }

    pub(crate) fn note_made(&self, chat: u64, made: Made) {
        locked(&self.made).entry(chat).or_insert(made);
    }

    pub(crate) fn made(&self) -> BTreeMap<u64, Made> {
        locked(&self.made).clone()
    }

    /// What a device takes in the place of a frame.
    pub(crate) fn interpose(&self, id: &crate::replica::Id, frame: Value) -> Vec<Value> {
        if self.has_bug { locked(&self.interposer).pass(id, frame) } else { vec![frame] }
    }

    /// Whom the seeded bug has struck.
    pub(crate) fn struck(&self) -> Option<String> {
        locked(&self.interposer).struck().map(ToString::to_string)
    }

    pub(crate) fn bug_is_done(&self) -> bool {
        locked(&self.interposer).is_done()
    }

    /// An HTTP request at one of the edges.
    pub(crate) async fn http(
        &self,
        edge: SocketAddr,
        user: u64,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Response> {
        http::request(edge, method, path, Some(&self.token(user, "http")), body).await
    }
}
