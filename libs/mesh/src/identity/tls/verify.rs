//! What each side checks of the other's certificate.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::Instant;

use crate::{
    identity::{ALL_ROLES, name},
    throttle::Throttle,
};

/// A client's: the chain by webpki, and then the role in the place of a host's name.
#[derive(Debug)]
pub(super) struct RoleVerifier {
    pub(super) role: String,
    pub(super) roots: Arc<RootCertStore>,
}

/// The server is good, but not the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("a server of the role {expected} was expected, but its certificate names {found}")]
struct WrongRole {
    expected: String,
    found: String,
}

impl ServerCertVerifier for RoleVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms().all)?;
        let found = match name::of_certificate(leaf) {
            Ok(identity) if [self.role.as_str(), ALL_ROLES].contains(&identity.role()) => {
                return Ok(ServerCertVerified::assertion());
            }
            Ok(identity) => identity.to_string(),
            Err(error) => format!("nobody ({error})"),
        };
        let wrong = WrongRole { expected: self.role.clone(), found };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// A server's: webpki's, which also has to find a name; whom it refuses is named in the log, and is told no reason.
#[derive(Debug)]
pub(super) struct NamingVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    /// Handshakes come from many threads; held for a look into a bounded map.
    log: Mutex<Throttle>,
}

impl NamingVerifier {
    pub(super) fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self { inner, log: Mutex::default() }
    }

    fn refuse(&self, claims: &str, reason: &dyn std::fmt::Display) -> Error {
        let admitted = self.log.lock().unwrap_or_else(PoisonError::into_inner).admit(claims, Instant::now());
        if let Some(left_out) = admitted {
            tracing::warn!(claims, %reason, left_out, "a peer's certificate is refused");
        }
        CertificateError::ApplicationVerificationFailure.into()
    }
}

impl ClientCertVerifier for NamingVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A caller has one certificate, and shows it whatever we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let name = name::of_certificate(leaf);
        // What an unverified certificate says is a claim, and is called so.
        let claims = name.as_ref().map_or_else(|_| "nobody".to_owned(), ToString::to_string);
        let verified =
            self.inner.verify_client_cert(leaf, intermediates, now).map_err(|error| self.refuse(&claims, &error))?;
        name.map_err(|error| self.refuse(&claims, &error))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
