//! Which instance of presence-svc to ask about a user, beside the streams.

use confab_ids::UserId;
use confab_mesh::{Homes, Peer, Pool};
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;

use super::presence_client;

pub(crate) type Client = PresenceServiceClient<Peer>;

pub(crate) struct Instances(Homes<Client>);

impl Instances {
    pub(crate) fn new(presence: Pool) -> Self {
        Self(Homes::new(presence, presence_client))
    }

    /// Where a user is followed.
    pub(crate) fn home(&self, user: UserId) -> Option<Client> {
        self.0.first(user.0)
    }

    /// There first, then where else something may be known of them.
    pub(crate) fn homes(&self, user: UserId) -> Vec<Client> {
        self.0.all(user.0)
    }
}
