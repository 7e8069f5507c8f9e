//! Who calls.

use std::sync::Arc;

/// The role of the process or part that calls, as the transport knows it: `edge`, `message-svc`, …
///
/// It travels in a request's extensions and is put there by transports only: in process by [`local`](crate::local),
/// later over mTLS from the peer's certificate. The [`client`](crate::client) stack clears extensions, so that a caller
/// cannot name itself. A request that came by no such transport has no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    role: Arc<str>,
}

impl Identity {
    /// For transports. A service never makes one to be believed: see the type's documentation.
    pub fn new(role: impl Into<Arc<str>>) -> Self {
        Self { role: role.into() }
    }

    /// `edge`, `message-svc`, …
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Who sent `request`, or `None` if its transport did not say. Policies should refuse `None`.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }
}
