//! The roles that a process can have.

use std::fmt;

use confab_proto::fanout::v1::fanout_service_server;
use confab_proto::message::v1::message_service_server;
use confab_proto::presence::v1::presence_service_server;

use super::storage::StorageConfig;

/// One of the services. Ordered as they are started: each calls only those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Presence,
    Fanout,
    Message,
    Edge,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Edge, Self::Message, Self::Fanout, Self::Presence];

    /// As in certificates, policies, metrics and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Presence => "presence-svc",
            Self::Fanout => "fanout-svc",
            Self::Message => "message-svc",
            Self::Edge => "edge",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }

    /// The gRPC service that it has; none: nobody calls it by gRPC.
    pub(crate) const fn service(self) -> Option<&'static str> {
        match self {
            Self::Presence => Some(presence_service_server::SERVICE_NAME),
            Self::Fanout => Some(fanout_service_server::SERVICE_NAME),
            Self::Message => Some(message_service_server::SERVICE_NAME),
            Self::Edge => None,
        }
    }

    /// Whom it calls. message-svc calls its own kind where chats are shared.
    pub(crate) const fn calls(self, storage: &StorageConfig) -> &'static [Self] {
        match self {
            Self::Presence => &[],
            Self::Fanout => &[Self::Presence],
            Self::Message => match storage {
                StorageConfig::Embedded => &[Self::Fanout, Self::Presence],
                StorageConfig::Cassandra(_) => &[Self::Fanout, Self::Presence, Self::Message],
            },
            Self::Edge => &[Self::Message, Self::Fanout, Self::Presence],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
