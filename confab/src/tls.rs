//! Certificates from PEM files: the server's own, and whom `confab chat` trusts.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsFiles;

/// The server's side: HTTP/1.1, which WebSocket needs.
pub(crate) fn server(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let (cert, key) = (files.cert.display(), files.key.display());
    let certs: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("can't read certificates from {cert} (tls_cert)"))?;
    if certs.is_empty() {
        bail!("{cert} (tls_cert) has no certificate: it should have a PEM block that says CERTIFICATE");
    }
    let private = PrivateKeyDer::from_pem_file(&files.key).with_context(|| {
        format!("can't read a private key from {key} (tls_key): it should have a PEM block that says PRIVATE KEY")
    })?;
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
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
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
