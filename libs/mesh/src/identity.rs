//! Who calls.

pub(crate) mod name;
pub mod tls;
pub mod tokens;

use std::{fmt, net::SocketAddr, sync::Arc};

use rustls_pki_types::CertificateDer;

pub use name::NameError;

/// Who calls, as the transport knows it: a role (`edge`, `message-svc`, …) or an internal team's service (`service:…`).
///
/// It travels in a request's extensions and is put there by transports only: in process by [`local`](crate::local), over a
/// network by the server's stack, from the [`PeerCertificates`] that the listener leaves there or from a service token.
/// The [`client`](crate::client) stack clears extensions, so that a caller cannot name itself. A request that came by no
/// such way has no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    role: Arc<str>,
    instance: Option<Arc<str>>,
}

/// The role in the certificate of a process that has several: it is taken for a server of each of them.
pub const ALL_ROLES: &str = "confab";

impl Identity {
    /// For transports. A service never makes one to be believed: see the type's documentation.
    pub fn new(role: impl Into<Arc<str>>) -> Self {
        Self { role: role.into(), instance: None }
    }

    /// Which of a role's instances: of its certificate's `spiffe://confab/<role>/<instance>`.
    #[must_use]
    pub fn with_instance(mut self, instance: impl Into<Arc<str>>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// `edge`, `message-svc`, …; `service:<name>` for who came with a service token.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Which instance, if the transport says so.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// Who sent `request`, or `None` if its transport did not say. Policies refuse `None`.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }
}

/// `edge/edge-7f9c`, or the role alone.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{}/{instance}", self.role),
            None => f.write_str(&self.role),
        }
    }
}

/// The certificates that a TLS peer has proved to be its own, its leaf first: what a listener leaves in the extensions of
/// each request of a connection, for the server's stack.
///
/// Made once per connection, after a handshake that has verified the chain ([`tls`] does): nothing is verified here.
#[derive(Clone, Debug)]
pub struct PeerCertificates(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    chain: Vec<CertificateDer<'static>>,
    identity: Result<Identity, NameError>,
}

impl PeerCertificates {
    /// `chain` as the handshake gave it. Empty if the peer showed none.
    pub fn new(chain: impl Into<Vec<CertificateDer<'static>>>) -> Self {
        let chain = chain.into();
        let identity = chain.first().ok_or(NameError::Missing).and_then(name::of_certificate);
        Self(Arc::new(Peer { chain, identity }))
    }

    /// The leaf, then what it was signed with.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// Whom the leaf names.
    ///
    /// # Errors
    /// If it names nobody, or not in our way.
    pub fn identity(&self) -> Result<&Identity, &NameError> {
        self.0.identity.as_ref()
    }
}

/// Where a request came from: a listener may leave it in the extensions of each request. It is named in the log when a
/// peer without an identity is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);
