//! Both ends of a handshake, over an in-memory pipe.

use std::{io, sync::Arc};

use confab_mesh::{
    PeerCertificates,
    identity::tls::{ClientAuth, Credentials, CredentialsError, server_name},
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    authority::{Authority, Issued, files, in_days, write, yesterday},
    log,
};

/// What the server knows of the client, and what the client gets to hear.
pub(crate) async fn shake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (io::Result<PeerCertificates>, io::Result<()>) {
    shake_with(client, server_name(), server).await
}

async fn shake_with(
    client: Arc<ClientConfig>,
    host: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> (io::Result<PeerCertificates>, io::Result<()>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accepting = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(PeerCertificates::new(chain))
    };
    let connecting = async {
        let mut stream = TlsConnector::from(client).connect(host, near).await?;
        // In TLS 1.3 a server refuses after the client has finished.
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map(drop)
    };
    tokio::join!(accepting, connecting)
}

/// A client that shows `own`, if any; for a server at [`localhost`].
pub(crate) fn showing(authority: &Authority, own: Option<&Issued>) -> Arc<ClientConfig> {
    plain(authority, own, TLS13)
}

/// A client that checks nothing but the server's host, and shows `own`, if any.
fn plain(
    authority: &Authority,
    own: Option<&Issued>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("pem")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    Arc::new(match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("pem")];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("pem");
            builder.with_client_auth_cert(chain, key).expect("they fit")
        }
    })
}

pub(crate) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a host")
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[tokio::test]
async fn both_ends_know_each_other_by_their_roles() {
    let authority = Authority::new("ours");
    let (_edge, edge) = authority.credentials("edge/e1");
    let (_messages, messages) = authority.credentials("message-svc/m1");
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let (seen, heard) = shake(edge.client_config("message-svc"), messages.server_config(client_auth)).await;
        let seen = seen.expect("a handshake");
        heard.expect("a handshake");
        let identity = seen.identity().expect("a name");
        assert_eq!((identity.role(), identity.instance()), ("edge", Some("e1")));
        assert_eq!(seen.chain().len(), 1);
    }
    assert_eq!(edge.identity().to_string(), "edge/e1");
}

#[tokio::test]
async fn a_server_of_another_role_is_not_talked_to() {
    let authority = Authority::new("ours");
    let (_edge, edge) = authority.credentials("edge/e1");
    let (_fanout, fanout) = authority.credentials("fanout-svc/f1");
    let (_, heard) = shake(edge.client_config("message-svc"), fanout.server_config(ClientAuth::Required)).await;
    let words = heard.expect_err("the wrong one").to_string();
    assert!(words.contains(r#"expected: "message-svc", found: "fanout-svc/f1""#), "{words}");
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_talked_to() {
    let (_edge, edge) = Authority::new("ours").credentials("edge/e1");
    let (_stranger, stranger) = Authority::new("theirs").credentials("message-svc/m1");
    let (_, heard) = shake(edge.client_config("message-svc"), stranger.server_config(ClientAuth::Required)).await;
    let words = heard.expect_err("a stranger").to_string();
    assert!(words.contains("UnknownIssuer"), "{words}");
}

#[tokio::test]
async fn a_client_whose_certificate_is_no_good_is_named_in_the_log_and_told_no_reason() {
    let log = log::listen();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (_messages, messages) = ours.credentials("message-svc/m1");
    let spiffe = |name: &str| format!("spiffe://confab/{name}");
    let cases = [
        (theirs.role("edge/wrongly-signed"), "edge/wrongly-signed", "UnknownIssuer"),
        (ours.issue(&[&spiffe("edge/expired")], yesterday()), "edge/expired", "expired"),
        (ours.issue(&[], in_days(1)), "nobody", "there is no URI"),
        (ours.issue(&[&spiffe("edge/a"), &spiffe("edge/b")], in_days(1)), "nobody", "several URIs"),
        (ours.issue(&["spiffe://elsewhere/edge/c"], in_days(1)), "nobody", "spiffe://elsewhere/edge/c"),
    ];
    for (own, claims, reason) in cases {
        for client_auth in [ClientAuth::Optional, ClientAuth::Required] {
            let server = messages.server_config(client_auth);
            let (seen, heard) = shake_with(showing(&ours, Some(&own)), localhost(), server).await;
            seen.expect_err("refused");
            let words = heard.expect_err("refused").to_string();
            assert!(words.contains("AccessDenied"), "{claims}, {reason}: {words}");
            // One per second for each name; what is left out is counted, not lost (see throttle.rs).
            if claims != "nobody" {
                log.soon(&["WARN", "a peer's certificate is refused", claims, reason]).await;
            }
        }
    }
    log.soon(&["WARN", "a peer's certificate is refused", "nobody", "there is no URI"]).await;
}

#[tokio::test]
async fn without_a_certificate_a_client_comes_in_only_where_that_is_optional() {
    let ours = Authority::new("ours");
    let (_messages, messages) = ours.credentials("message-svc/m1");
    let server = messages.server_config(ClientAuth::Required);
    let (seen, heard) = shake_with(showing(&ours, None), localhost(), server).await;
    assert!(seen.is_err() && heard.is_err());

    let server = messages.server_config(ClientAuth::Optional);
    let (seen, heard) = shake_with(showing(&ours, None), localhost(), server).await;
    heard.expect("let in");
    assert!(seen.expect("let in").identity().is_err());
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let ours = Authority::new("ours");
    let (_messages, messages) = ours.credentials("message-svc/m1");
    let own = ours.role("edge/e1");
    let old = plain(&ours, Some(&own), &[&rustls::version::TLS12]);
    let (seen, _) = shake_with(old, localhost(), messages.server_config(ClientAuth::Required)).await;
    let words = seen.expect_err("refused").to_string();
    assert!(words.contains("Tls12NotOffered"), "{words}");
}

#[tokio::test]
async fn files_that_are_no_good_are_named() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ours.role("edge/e1");
    let other_key = Issued { cert: good.cert.clone(), key: ours.role("edge/e2").key };
    let no_key = Issued { cert: good.cert.clone(), key: good.cert.clone() };
    let cases = [
        (&good, theirs.pem(), "tls.crt is no good: UnknownIssuer"),
        (&good, "nothing".to_owned(), "authorities' certificates from"),
        (&other_key, ours.pem(), "tls.key does not fit"),
        (&no_key, ours.pem(), "a private key from"),
        (&ours.issue(&[], in_days(1)), ours.pem(), "tls.crt names no role"),
        (&ours.issue(&["spiffe://confab/edge/e1"], yesterday()), ours.pem(), "CertExpired"),
    ];
    for (own, authorities, words) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), own, &authorities);
        let error = Credentials::load(files(folder.path())).expect_err("no good").to_string();
        assert!(error.contains(words), "{error}");
    }
    let nowhere = tempfile::tempdir().expect("a folder");
    let error = Credentials::load(files(nowhere.path())).expect_err("nothing there");
    assert!(matches!(error, CredentialsError::Unreadable { .. }), "{error}");
}
