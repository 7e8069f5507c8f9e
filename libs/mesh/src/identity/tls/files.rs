//! What the files say, checked, and made into the TLS library's configurations.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, Error, KeyUsage};

use super::{
    CredentialsError, Files,
    verify::{NamingVerifier, RoleVerifier},
};
use crate::identity::{Identity, name};

/// Good files, read once.
pub(super) struct Material {
    pub(super) identity: Identity,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) server_required: Arc<ServerConfig>,
    pub(super) server_optional: Arc<ServerConfig>,
    /// Believes no server yet: whoever takes a copy says which role it expects.
    pub(super) client: ClientConfig,
    chain: Vec<CertificateDer<'static>>,
}

impl Material {
    /// # Errors
    /// [`CredentialsError`]
    pub(super) fn load(files: &Files, now: UnixTime) -> Result<Self, CredentialsError> {
        let chain = certificates("a certificate", &files.cert)?;
        let roots = Arc::new(roots(&files.authorities)?);
        check(&chain, &roots, now).map_err(|source| CredentialsError::Certificate {
            path: files.cert.clone(),
            authorities: files.authorities.clone(),
            source,
        })?;
        let identity = name::of_certificate(&chain[0])
            .map_err(|source| CredentialsError::Name { path: files.cert.clone(), source })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let own = Arc::new(certified_key(files, chain.clone(), &provider)?);

        let tls = |error: &dyn std::fmt::Display| CredentialsError::Tls(error.to_string());
        let verifier = || WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let required = verifier().build().map_err(|error| tls(&error))?;
        let optional = verifier().allow_unauthenticated().build().map_err(|error| tls(&error))?;
        Ok(Self {
            identity,
            server_required: server(&provider, &own, required).map_err(|error| tls(&error))?,
            server_optional: server(&provider, &own, optional).map_err(|error| tls(&error))?,
            client: client(&provider, &own, &roots).map_err(|error| tls(&error))?,
            roots,
            chain,
        })
    }

    /// When the certificate, or one that it was signed with, ends, if that is within `time` from `now`.
    pub(super) fn ends_within(&self, time: Duration, now: UnixTime) -> Option<UnixTime> {
        let then = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + time);
        match check(&self.chain, &self.roots, then) {
            Err(Error::CertExpired { not_after, .. }) => Some(not_after),
            _ => None,
        }
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    own: &Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(NamingVerifier::new(clients)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(
    provider: &Arc<CryptoProvider>,
    own: &Arc<CertifiedKey>,
    roots: &Arc<RootCertStore>,
) -> Result<ClientConfig, rustls::Error> {
    // No certificate names an empty role.
    let nobody = RoleVerifier { role: String::new(), roots: Arc::clone(roots) };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// As both ends of the mesh check it.
fn check(chain: &[CertificateDer<'_>], roots: &RootCertStore, at: UnixTime) -> Result<(), Error> {
    let [leaf, intermediates @ ..] = chain else {
        return Err(Error::UnknownIssuer);
    };
    let leaf = EndEntityCert::try_from(leaf)?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(algorithms, &roots.roots, intermediates, at, usage, None, None)?;
    }
    Ok(())
}

fn certified_key(
    files: &Files,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CredentialsError> {
    let key = PrivateKeyDer::from_pem_slice(&read("a private key", &files.key)?)
        .map_err(|error| unreadable("a private key", &files.key, &error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| CredentialsError::Key {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    })
}

fn roots(path: &Path) -> Result<RootCertStore, CredentialsError> {
    let what = "authorities' certificates";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, path)? {
        roots.add(certificate).map_err(|error| unreadable(what, path, &error))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(what, path)?).collect();
    let found = found.map_err(|error| unreadable(what, path, &error))?;
    if found.is_empty() {
        return Err(unreadable(what, path, &"it has no PEM block that says CERTIFICATE"));
    }
    Ok(found)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, CredentialsError> {
    fs::read(path).map_err(|error| unreadable(what, path, &error))
}

fn unreadable(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> CredentialsError {
    CredentialsError::Unreadable { what, path: path.to_owned(), reason: reason.to_string() }
}
