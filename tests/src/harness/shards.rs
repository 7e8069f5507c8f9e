//! Who owns the chats of a mesh, as any message-svc tells it to edges.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use confab_ids::{ChatId, Shard};
use confab_proto::message::v1::message_service_client::MessageServiceClient;
use confab_proto::message::v1::{WatchShardsRequest, WatchShardsResponse};
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::Mesh;

/// How long the shard map may take.
const BOUND: Duration = Duration::from_secs(10);

/// How long instances may take until each has its part: who has come after the first gets none for 4 s.
const SHARED: Duration = Duration::from_secs(30);

/// Before it is asked again, where it can't be reached, or has ended the stream.
const AGAIN: Duration = Duration::from_millis(100);

/// How many shards each owner has, by where it is called.
#[must_use]
pub fn owned(map: &WatchShardsResponse) -> BTreeMap<&str, usize> {
    let mut owned = BTreeMap::new();
    for owner in map.shards.iter().filter_map(|place| owner_at(map, *place)) {
        *owned.entry(owner).or_default() += 1;
    }
    owned
}

/// Where a chat's owner is called.
#[must_use]
pub fn owner(map: &WatchShardsResponse, chat: u64) -> Option<&str> {
    owner_at(map, *map.shards.get(usize::from(Shard::of_chat(ChatId(chat)).0))?)
}

/// By its place among the owners, from 1 on; 0: none.
fn owner_at(map: &WatchShardsResponse, place: u32) -> Option<&str> {
    map.owners.get(usize::try_from(place).ok()?.checked_sub(1)?).map(String::as_str)
}

impl Mesh {
    /// Calls the message-svc at `address` as an edge does.
    ///
    /// # Errors
    /// If it can't be reached.
    pub async fn messages(&self, address: &str) -> anyhow::Result<MessageServiceClient<Channel>> {
        self.messages_as("edge", address).await
    }

    /// The same by another certificate: its file's name without `.crt`.
    ///
    /// # Errors
    /// If it can't be reached, or there is no such certificate.
    pub async fn messages_as(&self, name: &str, address: &str) -> anyhow::Result<MessageServiceClient<Channel>> {
        let file = |name: &str| std::fs::read(self.certs_folder().join(name));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(file("ca.crt")?))
            .identity(Identity::from_pem(file(&format!("{name}.crt"))?, file(&format!("{name}.key"))?));
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        Ok(MessageServiceClient::new(endpoint.connect().await?))
    }

    /// The shard map as message-svc-0 knows it.
    ///
    /// # Errors
    /// If it doesn't answer in time, or knows none.
    pub async fn shard_map(&self) -> anyhow::Result<WatchShardsResponse> {
        let asked = async { self.shard_maps().await?.message().await?.context("the stream ended before a map came") };
        let map = timeout(BOUND, asked).await.context("no answer in time")??;
        ensure!(!map.owners.is_empty(), "the map names no owner");
        Ok(map)
    }

    /// The map as message-svc-0 knows it, and each later one.
    async fn shard_maps(&self) -> anyhow::Result<Streaming<WatchShardsResponse>> {
        let mut messages = self.messages(&self.grpc("message-svc", 0).to_string()).await?;
        Ok(messages.watch_shards(WatchShardsRequest {}).await?.into_inner())
    }

    /// Waits until `count` instances of message-svc have each about their part of the shards: from then on nothing moves.
    ///
    /// # Errors
    /// If they haven't in time.
    pub async fn until_shared(&self, count: usize) -> anyhow::Result<()> {
        let is_shared = |map: &WatchShardsResponse| {
            let part = map.shards.len() / count * 3 / 4;
            owned(map).values().filter(|owned| **owned >= part).count() >= count
        };
        let shared = async {
            loop {
                // On one stream: a new one for each look would load what is measured.
                if let Ok(mut maps) = self.shard_maps().await {
                    while let Ok(Some(map)) = maps.message().await {
                        if is_shared(&map) {
                            return;
                        }
                    }
                }
                sleep(AGAIN).await;
            }
        };
        timeout(SHARED, shared).await.with_context(|| format!("not all of {count} have a part of the chats"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chats_owner_is_its_shards() {
        let shards = (0..4_096).map(|shard| u32::from(shard == Shard::of_chat(ChatId(7)).0) * 2).collect();
        let map = WatchShardsResponse { version: 1, owners: vec!["a:1".into(), "b:1".into()], shards };
        assert_eq!((owner(&map, 7), owner(&map, 8)), (Some("b:1"), None));
    }
}
