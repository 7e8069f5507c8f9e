//! An authority, and the certificates that it makes.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use confab_mesh::identity::tls::{Credentials, Files};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        Self { issuer: issuer.expect("a certificate") }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// With these URI names, good from a day ago until `ends`.
    pub(crate) fn issue(&self, uris: &[&str], ends: SystemTime) -> Issued {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a host");
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ascii"));
        params.subject_alt_names.extend(uris.iter().map(uri));
        params.not_before = (SystemTime::now() - 2 * DAY).into();
        params.not_after = ends.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        let cert = params.signed_by(&key, issuer).expect("signed");
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// `spiffe://confab/<name>`, good for a month.
    pub(crate) fn role(&self, name: &str) -> Issued {
        self.issue(&[&format!("spiffe://confab/{name}")], SystemTime::now() + 30 * DAY)
    }

    /// A folder with the credentials of `name`, which believes this authority.
    pub(crate) fn credentials(&self, name: &str) -> (TempDir, Credentials) {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &self.role(name), &self.pem());
        let credentials = Credentials::load(files(folder.path())).expect("good files");
        (folder, credentials)
    }
}

pub(crate) fn files(folder: &Path) -> Files {
    Files { cert: folder.join("tls.crt"), key: folder.join("tls.key"), authorities: folder.join("ca.crt") }
}

pub(crate) fn write(folder: &Path, own: &Issued, authorities: &str) {
    let files = files(folder);
    for (path, text) in [(files.cert, &own.cert), (files.key, &own.key), (files.authorities, &authorities.to_owned())] {
        fs::write(path, text).expect("written");
    }
}

pub(crate) fn yesterday() -> SystemTime {
    SystemTime::now() - DAY
}

pub(crate) fn in_days(days: u32) -> SystemTime {
    SystemTime::now() + DAY * days
}
