//! The other instances of message-svc, by the addresses that the shard map calls them by.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use confab_mesh::{ClientConfig, Members, Peer, Pool, client};
use confab_proto::message::v1::NoticeShardsRequest;
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use futures_util::StreamExt as _;
use futures_util::stream;

pub(crate) type Client = MessageServiceClient<Peer>;

/// Calls under way while several are told something.
const TOLD_AT_ONCE: usize = 64;

#[derive(Debug)]
pub(crate) struct Others {
    pool: Pool,
    /// Made of these members.
    clients: Mutex<(Members, HashMap<Arc<str>, Client>)>,
}

impl Others {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, clients: Mutex::new((Members::from([]), HashMap::new())) }
    }

    pub(crate) fn client(&self, addr: &str) -> Option<Client> {
        let members = self.pool.members();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&clients.0, &members) {
            let made = members.iter().map(|member| {
                let cfg = ClientConfig::new("message-svc", "message-svc").streaming(&["Converse", "WatchChat"]);
                (member.id.clone(), MessageServiceClient::new(client(cfg, member.peer.clone())))
            });
            *clients = (members.clone(), made.collect());
        }
        clients.1.get(addr).cloned()
    }

    /// Tells these that there is a map of this version. Who doesn't hear of it sees it a little later by itself.
    pub(crate) async fn notice(&self, addrs: BTreeSet<Arc<str>>, version: u64) {
        let told = stream::iter(addrs).for_each_concurrent(TOLD_AT_ONCE, async |addr| {
            let Some(mut other) = self.client(&addr) else { return };
            if let Err(status) = other.notice_shards(NoticeShardsRequest { version }).await {
                tracing::debug!(%addr, version, code = ?status.code(), "an instance was not told of its new chats");
            }
        });
        told.await;
    }
}
