//! TLS for tests: certificates made on the spot.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// One self-signed certificate for `test-svc`, trusted by those whom it gives configurations.
pub(crate) struct Certificates {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);
type Current = Arc<std::sync::Mutex<Option<Arc<Pair>>>>;

impl Certificates {
    pub(crate) fn make() -> Self {
        let mut params = rcgen::CertificateParams::new(["test-svc".to_owned()]).expect("a host");
        let uri = "spiffe://confab/test-svc/1".try_into().expect("ascii");
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn pair(&self) -> Pair {
        (self.certificate.clone(), PrivatePkcs8KeyDer::from(self.key.clone()).into())
    }

    /// Asks for clients' certificates, and takes any.
    pub(crate) fn server(&self) -> confab_mesh::ServerTls {
        let (certificate, key) = self.pair();
        let mut config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(Arc::new(takes_any::TakesAny))
            .with_single_cert(vec![certificate], key)
            .expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        Arc::new(move || Arc::clone(&config))
    }

    /// Trusts this certificate alone, and shows the `current` one.
    pub(crate) fn client(&self, current: Option<Current>) -> confab_mesh::ClientTls {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let roots = Arc::new(roots);
        Arc::new(move || {
            let builder = rustls::ClientConfig::builder().with_root_certificates(Arc::clone(&roots));
            let own = current.as_ref().and_then(|current| current.lock().expect("not poisoned").clone());
            let mut config = match own {
                None => builder.with_no_client_auth(),
                Some(own) => builder.with_client_auth_cert(vec![own.0.clone()], own.1.clone_key()).expect("a pair"),
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        })
    }
}

mod takes_any {
    use rustls::{
        DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
        client::danger::HandshakeSignatureValid,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, UnixTime},
        server::danger::{ClientCertVerified, ClientCertVerifier},
    };

    #[derive(Debug)]
    pub(super) struct TakesAny;

    impl ClientCertVerifier for TakesAny {
        fn client_auth_mandatory(&self) -> bool {
            false
        }

        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn verify_client_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _now: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            Ok(ClientCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}
