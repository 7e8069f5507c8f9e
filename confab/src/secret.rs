//! What tokens are checked with: the HS256 key, and an issuer's keys.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;

use confab_edge::{JwksConfig, JwksSource};

use crate::config::{JwksPlace, TokenConfig};
use crate::data_folder::{self, DataFolder};
use crate::tls;

/// Less can be guessed from a token by trying.
const BYTES_MIN: usize = 16;
/// What is made here.
const BYTES: usize = 32;

/// The key's bytes: a file's, without the newline at its end. Never printed.
#[derive(Clone)]
pub(crate) struct Secret(Vec<u8>);

/// A [`Secret`], and what is odd about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) secret: Secret,
    /// What is not as it should be, but can be lived with.
    pub(crate) warning: Option<String>,
}

impl Secret {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

/// Reads `file`, or the data folder's key, which is made if there is none.
pub(crate) fn load_or_create(folder: &DataFolder, file: Option<&Path>) -> anyhow::Result<Loaded> {
    if file.is_none() {
        let path = folder.path().join(data_folder::SECRET);
        if !path.exists() {
            data_folder::write_new(&path, format!("{}\n", fresh()).as_bytes())?;
        }
    }
    load(folder, file)
}

/// Reads `file`, or the data folder's key.
pub(crate) fn load(folder: &DataFolder, file: Option<&Path>) -> anyhow::Result<Loaded> {
    read(&file.map_or_else(|| folder.path().join(data_folder::SECRET), Path::to_owned))
}

/// What clients' tokens are signed with; `None`: by an issuer alone.
pub(crate) fn of_clients(cfg: &TokenConfig, folder: Option<&DataFolder>) -> anyhow::Result<Option<Loaded>> {
    match (&cfg.secret_file, &cfg.jwks, folder) {
        (Some(file), ..) => read(file).map(Some),
        (None, Some(_), _) => Ok(None),
        (None, None, Some(folder)) => load_or_create(folder, None).map(Some),
        (None, None, None) => bail!("token.secret_file is needed by an edge without a data folder"),
    }
}

/// Who clients are, by the secret where there is one, and by an issuer's keys.
pub(crate) async fn verifier(secret: Option<&Secret>, cfg: &TokenConfig) -> anyhow::Result<confab_edge::Verifier> {
    let verifier = confab_edge::Verifier::new();
    let verifier = secret.into_iter().fold(verifier, |verifier, secret| verifier.hs256(secret.as_bytes()));
    let Some(jwks) = &cfg.jwks else { return Ok(verifier) };
    let source = match &jwks.place {
        JwksPlace::File(path) => JwksSource::File(path.clone()),
        JwksPlace::Url(url) => {
            let tls = (url.scheme_str() == Some("https")).then(tls::client).transpose()?;
            JwksSource::Url(url.clone(), tls)
        }
    };
    let (issuer, audience) = (jwks.issuer.clone(), jwks.audience.clone());
    verifier.jwks(JwksConfig { source, issuer, audience }).await.context("the keys to check tokens with")
}

/// Reads `path`.
fn read(path: &Path) -> anyhow::Result<Loaded> {
    let bytes = fs::read(path).with_context(|| format!("can't read the token secret {}", path.display()))?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.len() < BYTES_MIN {
        bail!(
            "the token secret {} is too short: {} bytes, at least {BYTES_MIN} are needed, and {BYTES} are good.\n\
             Put in random ones (`openssl rand -hex {BYTES}`); tokens made with the old one end",
            path.display(),
            bytes.len()
        );
    }
    let warning = open_to_others(path)?;
    Ok(Loaded { secret: Secret(bytes.to_vec()), warning })
}

fn fresh() -> String {
    let mut bytes = [0; BYTES];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A warning, not an error: a secret that Kubernetes mounts is often readable by its group, in a container of its own.
#[cfg(unix)]
fn open_to_others(path: &Path) -> io::Result<Option<String>> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then(|| {
        let path = path.display();
        format!("the token secret {path} is open to other users of this machine (mode {mode:03o}), who can speak for anyone with it: `chmod 600 {path}`")
    }))
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> io::Result<Option<String>> {
    Ok(None)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = DataFolder::open_or_create(dir.path()).expect("made");
        (dir, folder)
    }

    #[test]
    fn made_once_and_kept() {
        let (dir, folder) = folder();
        let first = load_or_create(&folder, None).expect("made");
        let second = load_or_create(&folder, None).expect("read");
        assert_eq!(first.secret.as_bytes(), second.secret.as_bytes());
        assert_eq!(first.secret.as_bytes().len(), 43);
        assert_eq!(first.warning, None);
        assert!(dir.path().join("token.key").exists());
        assert_eq!(format!("{:?}", first.secret), "Secret(…)");
    }

    #[test]
    fn only_the_newline_at_the_end_goes() {
        let (dir, folder) = folder();
        for (text, key) in [
            ("0123456789abcdef", "0123456789abcdef"),
            ("0123456789abcde \r\n", "0123456789abcde "),
            ("0123456789abcdef\n\n", "0123456789abcdef\n"),
        ] {
            let path = dir.path().join("mine");
            fs::write(&path, text).expect("written");
            assert_eq!(load(&folder, Some(&path)).expect("read").secret.as_bytes(), key.as_bytes());
        }
    }

    #[test]
    fn a_short_one_is_refused() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("token.key"), "hunter2\n").expect("written");
        let words = format!("{:#}", load_or_create(&folder, None).expect_err("refused"));
        assert!(words.contains("is too short: 7 bytes, at least 16 are needed"), "{words}");
    }

    #[test]
    #[cfg(unix)]
    fn one_that_others_can_read_is_warned_of() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, folder) = folder();
        let path = dir.path().join("mine");
        fs::write(&path, "0123456789abcdef").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened");
        let warning = load(&folder, Some(&path)).expect("read").warning.expect("warned");
        assert!(warning.contains("mode 644") && warning.contains("chmod 600"), "{warning}");
    }
}
