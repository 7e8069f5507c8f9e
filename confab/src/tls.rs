//! Certificates from PEM files: the server's own, whom `confab chat` trusts, and those of connections to Cassandra and Redis.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{CassandraTls, TlsFiles};

/// The server's side: HTTP/1.1, which WebSocket needs.
pub(crate) fn server(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let (cert, key) = (files.cert.display(), files.key.display());
    let (certs, private) = (read_certs(&files.cert, "tls_cert")?, read_key(&files.key, "tls_key")?);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certs, private)
        .with_context(|| format!("{key} (tls_key) does not fit {cert} (tls_cert)"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The client's side: trusts whom this machine trusts. `SSL_CERT_FILE` names others, such as a certificate that one made oneself.
pub(crate) fn client() -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!(
            "this machine trusts no certificate authority: install ca-certificates, or name a PEM file by SSL_CERT_FILE"
        );
    }
    Ok(Arc::new(trusting(roots)?.with_no_client_auth()))
}

/// To Cassandra's nodes.
pub(crate) fn cassandra(files: &CassandraTls) -> anyhow::Result<Arc<ClientConfig>> {
    let config = trusting(read_authorities(&files.ca, "storage.tls.ca")?)?;
    let Some((cert, key)) = &files.client else { return Ok(Arc::new(config.with_no_client_auth())) };
    let (certs, private) = (read_certs(cert, "storage.tls.cert")?, read_key(key, "storage.tls.key")?);
    let fits = || format!("{} (storage.tls.key) does not fit {}", key.display(), cert.display());
    Ok(Arc::new(config.with_client_auth_cert(certs, private).with_context(fits)?))
}

/// To Redis; `ca`: its authorities, or else this machine's.
pub(crate) fn redis(ca: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let Some(ca) = ca else { return client() };
    Ok(Arc::new(trusting(read_authorities(ca, "redis.ca")?)?.with_no_client_auth()))
}

/// A client's side that trusts these.
fn trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots))
}

/// `setting`: what names the file.
fn read_authorities(path: &Path, setting: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in read_certs(path, setting)? {
        roots.add(authority).with_context(|| format!("{} ({setting})", path.display()))?;
    }
    Ok(roots)
}

/// `setting`: what names the file.
fn read_certs(path: &Path, setting: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certs: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("can't read certificates from {} ({setting})", path.display()))?;
    if certs.is_empty() {
        let path = path.display();
        bail!("{path} ({setting}) has no certificate: it should have a PEM block that says CERTIFICATE");
    }
    Ok(certs)
}

fn read_key(path: &Path, setting: &str) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| {
        let path = path.display();
        format!("can't read a private key from {path} ({setting}): it should have a PEM block that says PRIVATE KEY")
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("cert.pem");
        std::fs::write(&path, "no certificate").expect("written");
        let words = format!("{:#}", server(&TlsFiles { cert: path.clone(), key: path }).expect_err("refused"));
        assert!(words.contains("cert.pem (tls_cert) has no certificate"), "{words}");
    }
}
