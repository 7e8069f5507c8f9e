//! Names in certificates: one URI `spiffe://confab/<role>/<instance>`, as in the SPIFFE standard
//! (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>), whose trust domain is `confab`. An internal
//! team's service has `spiffe://confab/service/<name>/<instance>`, and is the `service:<name>` that its token would say.
//!
//! They are read by webpki, which has checked the chain as well: so what was verified is what is read.

use rustls_pki_types::CertificateDer;

use super::Identity;

const PREFIX: &str = "spiffe://confab/";
/// A role is a DNS label: no role is ever `service:…`, which a team's service is.
const ROLE_MAX: usize = 63;
const INSTANCE_MAX: usize = 128;

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no certificate, or none that can be read.
    #[error("no certificate")]
    Missing,
    /// Its URI names are not exactly one `spiffe://confab/<role>/<instance>`.
    #[error("its names are not one URI spiffe://confab/<role>/<instance>: {0}")]
    Malformed(String),
}

/// Whom `leaf` names.
///
/// # Errors
/// [`NameError`]
pub(crate) fn of_certificate(leaf: &CertificateDer<'_>) -> Result<Identity, NameError> {
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|_| NameError::Missing)?;
    let mut names = leaf.valid_uri_names();
    let (first, second) = (names.next(), names.next());
    match (first, second) {
        (Some(uri), None) => of_uri(uri).ok_or_else(|| NameError::Malformed(shown(uri))),
        (None, _) => Err(NameError::Malformed("there is no URI".to_owned())),
        (Some(_), Some(_)) => Err(NameError::Malformed("there are several URIs".to_owned())),
    }
}

/// Whether `role` may be one.
pub(crate) fn is_role(role: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=ROLE_MAX).contains(&role.len()) && role.bytes().all(allowed)
}

fn of_uri(uri: &str) -> Option<Identity> {
    let named = uri.strip_prefix(PREFIX)?;
    let (kind, named) =
        named.strip_prefix("service/").filter(|rest| rest.contains('/')).map_or(("", named), |rest| ("service:", rest));
    let (role, instance) = named.split_once('/')?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let fits = (1..=INSTANCE_MAX).contains(&instance.len()) && instance.bytes().all(allowed);
    (is_role(role) && fits).then(|| Identity::new(format!("{kind}{role}")).with_instance(instance))
}

/// For a log, of a stranger's word.
fn shown(uri: &str) -> String {
    uri.chars().take(200).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_names() {
        let longest = format!("spiffe://confab/{}/{}", "r".repeat(63), "i".repeat(128));
        for (uri, name) in [
            ("spiffe://confab/edge/edge-7.eu_1", Some("edge/edge-7.eu_1")),
            (longest.as_str(), Some(&longest[PREFIX.len()..])),
            ("spiffe://confab/service/billing/1", Some("service:billing/1")),
            ("spiffe://confab/service/billing", Some("service/billing")),
            ("spiffe://confab/service/a/b/c", None),
            ("spiffe://confab/service//a", None),
            ("spiffe://confab/edge", None),
            ("spiffe://confab/edge/", None),
            ("spiffe://confab//a", None),
            ("spiffe://confab/edge/a/b", None),
            ("spiffe://other/edge/a", None),
            ("SPIFFE://confab/edge/a", None),
            ("https://confab/edge/a", None),
            ("spiffe://confab/Edge/a", None),
            ("spiffe://confab/service:billing/a", None),
            ("spiffe://confab/edge/a?b", None),
            ("spiffe://confab/edge/%61", None),
            (&format!("{longest}i"), None),
            ("", None),
        ] {
            let identity = of_uri(uri).map(|identity| identity.to_string());
            assert_eq!(identity.as_deref(), name, "{uri:?}");
        }
    }
}
