//! Certificates for trying out a cluster: an authority of one's own, and one certificate for each role. For production there
//! are cert-manager, SPIRE and the like: whatever makes the same files.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use confab_mesh::identity::tls::{Credentials, Files};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};

/// The roles that call each other.
pub(crate) const ROLES: [&str; 4] = ["edge", "message-svc", "fanout-svc", "presence-svc"];

const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_LASTS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks differ: a certificate is good from a little earlier on.
const BACKDATED: Duration = Duration::from_secs(300);

/// What to make.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) folder: PathBuf,
    pub(crate) roles: Vec<String>,
    /// Names and addresses that the certificates also hold, for programs that look at those; the mesh does not.
    pub(crate) hosts: Vec<String>,
    pub(crate) days: u32,
}

/// A file, and what it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) what: String,
}

/// Makes an authority, unless the folder has one, and certificates of the roles, which take the place of older ones. An
/// authority is never written over.
///
/// # Errors
/// If the folder can't be written to, half of an authority is there, or its certificates would not be accepted.
pub(crate) fn issue(request: &Request) -> anyhow::Result<Vec<Written>> {
    let folder = &request.folder;
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let (cert_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
    let mut written = Vec::new();
    match (cert_path.exists(), key_path.exists()) {
        (true, true) => {}
        (false, false) => {
            make_authority(&cert_path, &key_path)?;
            written.push(Written { path: cert_path.clone(), what: "the authority: every role trusts it".to_owned() });
            written.push(Written { path: key_path.clone(), what: "its key: keep it off the servers".to_owned() });
        }
        (cert, _) => {
            let (there, missing) = if cert { (cert_path, key_path) } else { (key_path, cert_path) };
            bail!(
                "{} is there, but {} is not.\nBring it back, or start in another folder: --out DIR",
                there.display(),
                missing.display()
            );
        }
    }
    let authority = authority(&cert_path, &key_path)?;
    for role in &request.roles {
        written.extend(issue_role(request, &authority, role, &cert_path)?);
    }
    Ok(written)
}

/// For a person.
pub(crate) fn table(written: &[Written]) -> String {
    let width = written.iter().map(|file| file.path.display().to_string().len()).max().unwrap_or(0);
    written.iter().fold(String::new(), |mut table, Written { path, what }| {
        // Into a string this does not fail.
        let _ = writeln!(table, "{:<width$}  {what}", path.display().to_string());
        table
    })
}

/// What an internal team's service has before its name.
const TEAM: &str = "service:";

pub(crate) fn parse_role(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = text.strip_prefix(TEAM).unwrap_or(text);
    if (1..=63).contains(&name.len()) && name.chars().all(fine) {
        Ok(text.to_owned())
    } else {
        Err("a role's name has 1 to 63 of a-z 0-9 -, and a team's service is service:NAME".to_owned())
    }
}

/// The certificate's file is `edge.crt`, or `service-billing.crt`.
fn file_name(role: &str, kind: &str) -> String {
    format!("{}.{kind}", role.replace(':', "-"))
}

fn make_authority(cert_path: &Path, key_path: &Path) -> anyhow::Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Confab development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - BACKDATED).into();
    params.not_after = (SystemTime::now() + AUTHORITY_LASTS).into();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("can't make a key")?;
    let cert = params.self_signed(&key).context("can't make the authority's certificate")?;
    write_new(key_path, &key.serialize_pem(), 0o600)?;
    write_new(cert_path, &cert.pem(), 0o644)
}

fn authority(cert_path: &Path, key_path: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()));
    let key = KeyPair::from_pem(&read(key_path)?).with_context(|| format!("{} holds no key", key_path.display()))?;
    Issuer::from_ca_cert_pem(&read(cert_path)?, key)
        .with_context(|| format!("{} holds no authority's certificate", cert_path.display()))
}

fn issue_role(
    request: &Request,
    authority: &Issuer<'_, KeyPair>,
    role: &str,
    authorities: &Path,
) -> anyhow::Result<[Written; 2]> {
    let ends = SystemTime::now() + DAY * request.days;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, role);
    params.subject_alt_names = names(role, &request.hosts)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - BACKDATED).into();
    params.not_after = ends.into();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("can't make a key")?;
    let cert = params.signed_by(&key, authority).with_context(|| format!("can't sign the certificate of {role}"))?;

    let files = Files {
        cert: request.folder.join(file_name(role, "crt")),
        key: request.folder.join(file_name(role, "key")),
        authorities: authorities.to_owned(),
    };
    replace(&files.key, &key.serialize_pem(), 0o600)?;
    replace(&files.cert, &cert.pem(), 0o644)?;
    // As the mesh will look at them: an authority that has expired, or whose key is another's, is found here.
    Credentials::load(files.clone())?;
    let until = jiff::Timestamp::try_from(ends)?.strftime("%Y-%m-%d");
    Ok([
        Written { path: files.cert, what: format!("the certificate of {role}, until {until}") },
        Written { path: files.key, what: "its key".to_owned() },
    ])
}

/// The role, by which the mesh knows it, and the hosts.
fn names(role: &str, hosts: &[String]) -> anyhow::Result<Vec<SanType>> {
    // A team's is spiffe://confab/service/<name>/<instance>.
    let path = role.replace(':', "/");
    let mut names = vec![SanType::URI(format!("spiffe://confab/{path}/development").try_into()?)];
    for host in hosts {
        names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                let name = host.as_str().try_into();
                SanType::DnsName(name.with_context(|| format!("{host:?} is neither a host's name nor an address"))?)
            }
        });
    }
    Ok(names)
}

/// Whoever reads the file finds the old content or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    write_new(&draft, text, mode)?;
    fs::rename(&draft, path).with_context(|| format!("can't write {}", path.display()))
}

/// # Errors
/// Also if it is there already.
fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(folder: &Path, roles: &[&str]) -> Request {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Request { folder: folder.to_owned(), roles, hosts: vec![], days: 7 }
    }

    fn credentials(folder: &Path, role: &str) -> Credentials {
        let file = |name: &str| folder.join(format!("{role}.{name}"));
        let files = Files { cert: file("crt"), key: file("key"), authorities: folder.join("ca.crt") };
        Credentials::load(files).expect("good files")
    }

    #[test]
    fn the_mesh_takes_them_and_their_keys_are_for_nobody_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let written = issue(&request(dir.path(), &ROLES)).expect("made");
        assert_eq!(written.len(), 2 + 2 * ROLES.len());
        for role in ROLES {
            assert_eq!(credentials(dir.path(), role).identity().role(), role);
        }
        #[cfg(unix)]
        for file in written.iter().filter(|file| file.path.extension().is_some_and(|kind| kind == "key")) {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&file.path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.path.display());
        }
    }

    #[test]
    fn a_team_s_service_and_a_process_of_several_roles_get_theirs() {
        let dir = tempfile::tempdir().expect("a folder");
        issue(&request(dir.path(), &["service:billing", "confab"])).expect("made");
        assert_eq!(credentials(dir.path(), "service-billing").identity().role(), "service:billing");
        assert_eq!(credentials(dir.path(), "confab").identity().role(), confab_mesh::identity::ALL_ROLES);
        for good in ["edge", "service:billing", "a-1"] {
            assert_eq!(parse_role(good).as_deref(), Ok(good));
        }
        for bad in ["", "service:", "Edge", "edge:1", "service:a:b", "a/b", "../a"] {
            assert!(parse_role(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_stays_and_a_role_gets_a_new_certificate() {
        let dir = tempfile::tempdir().expect("a folder");
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("there");
        issue(&request(dir.path(), &["edge"])).expect("made");
        let (ca, key, edge) = (read("ca.crt"), read("ca.key"), read("edge.crt"));
        let written = issue(&request(dir.path(), &["edge", "fanout-svc"])).expect("made");
        assert_eq!(written.len(), 4);
        assert_eq!((read("ca.crt"), read("ca.key")), (ca, key));
        assert_ne!(read("edge.crt"), edge);
        assert_eq!(credentials(dir.path(), "edge").identity().role(), "edge");
        assert_eq!(credentials(dir.path(), "fanout-svc").identity().role(), "fanout-svc");
    }

    #[test]
    fn half_an_authority_or_anothers_key_is_named() {
        let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        issue(&request(dir.path(), &["edge"])).expect("made");
        issue(&request(other.path(), &["edge"])).expect("made");
        fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).expect("copied");
        let words = format!("{:#}", issue(&request(dir.path(), &["edge"])).expect_err("another's key"));
        assert!(words.contains("edge.crt is no good"), "{words}");
        fs::remove_file(dir.path().join("ca.key")).expect("removed");
        let words = format!("{:#}", issue(&request(dir.path(), &["edge"])).expect_err("no key"));
        assert!(words.contains("ca.crt is there, but") && words.contains("ca.key is not"), "{words}");
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let names = names("edge", &hosts).expect("good");
        assert_eq!(names.len(), 4);
        assert!(matches!(names[2..], [SanType::IpAddress(IpAddr::V4(_)), SanType::IpAddress(IpAddr::V6(_))]));
        assert!(self::names("edge", &["ö".to_owned()]).is_err());
    }
}
