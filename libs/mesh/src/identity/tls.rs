//! Mutual TLS between services: 1.3 alone, a certificate on both sides, each of which is checked for who it names.
//!
//! [`Credentials`] are three PEM files, and follow them as they change. They give the TLS library's configurations to
//! whoever listens and connects; ask again for every connection, for what was given does not change any more.
//!
//! Sessions are not resumed, so that nobody goes on with a certificate that has ended or is trusted no more.

mod files;
mod follow;
mod verify;

use std::{path::PathBuf, sync::Arc};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::sync::watch;

use self::{files::Material, verify::RoleVerifier};
use super::{Identity, NameError};
use crate::Drain;

/// Where a process's credentials are, each a PEM file.
#[derive(Clone, Debug)]
pub struct Files {
    /// Its certificate, then the intermediate ones.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The certificates of the authorities whose word counts, for both sides. Several while one takes another's place.
    pub authorities: PathBuf,
}

/// Whether a server lets callers in without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No: the handshake fails.
    Required,
    /// Yes; but one that they show has to be good. They need a service token, then.
    Optional,
}

/// Why files are no credentials. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read, or not as PEM.
    #[error("can't read {what} from {}: {reason}", path.display())]
    Unreadable {
        /// A certificate, a key, …
        what: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// The key is another certificate's.
    #[error("the key {} does not fit the certificate {}: {source}", key.display(), cert.display())]
    Key { cert: PathBuf, key: PathBuf, source: rustls::Error },
    /// The certificate names no role.
    #[error("the certificate {} names no role: {source}", path.display())]
    Name { path: PathBuf, source: NameError },
    /// It has expired, is signed by somebody else, or is no certificate for both ends of TLS.
    #[error("the certificate {} is no good: {source} (authorities: {})", path.display(), authorities.display())]
    Certificate { path: PathBuf, authorities: PathBuf, source: webpki::Error },
    /// The TLS library refuses them.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

/// A process's certificate and key, and whose it believes. Clones share them, and follow the files together.
#[derive(Clone)]
pub struct Credentials {
    files: Arc<Files>,
    current: watch::Sender<Arc<Material>>,
}

impl Credentials {
    /// Reads and checks the files; blocks for as long as that takes.
    ///
    /// # Errors
    /// [`CredentialsError`]: also for a certificate that its own authorities would not let in, now.
    pub fn load(files: Files) -> Result<Self, CredentialsError> {
        let material = Material::load(&files, UnixTime::now())?;
        Ok(Self { files: Arc::new(files), current: watch::Sender::new(Arc::new(material)) })
    }

    /// Looks every 2 s whether the files have changed, until `drain` begins. New ones hold from the next connection on;
    /// new ones that are no good are named in the log, and the old ones go on. Seven days before a certificate ends, and
    /// daily from then on, the log says so.
    pub fn follow(&self, drain: &Drain) {
        let credentials = self.clone();
        let ended = drain.clone();
        drain.spawn(async move {
            tokio::select! {
                () = follow::follow(credentials) => {}
                () = ended.started() => {}
            }
        });
    }

    /// Who we are by our certificate.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.current.borrow().identity.clone()
    }

    /// For a listener's next connection: HTTP/2.
    #[must_use]
    pub fn server_config(&self, client_auth: ClientAuth) -> Arc<ServerConfig> {
        let material = self.current.borrow();
        Arc::clone(match client_auth {
            ClientAuth::Required => &material.server_required,
            ClientAuth::Optional => &material.server_optional,
        })
    }

    /// For the next connection to a server of `role`, whatever its address: HTTP/2. A server whose certificate names
    /// another role is not talked to, but for [`ALL_ROLES`](super::ALL_ROLES). Connect with [`server_name`].
    #[must_use]
    pub fn client_config(&self, role: &str) -> Arc<ClientConfig> {
        let material = self.current.borrow().clone();
        let mut config = material.client.clone();
        let verifier = RoleVerifier { role: role.to_owned(), roots: Arc::clone(&material.roots) };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

/// What the TLS library wants to be told of a server; neither sent nor looked at, for a role is what counts.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into())
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("files", &self.files).finish_non_exhaustive()
    }
}
