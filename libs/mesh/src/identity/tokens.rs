//! Service tokens: how an internal team's service shows who it is without a certificate of ours.
//!
//! A token is a JWT (HS256, or EdDSA by Ed25519) in `authorization: Bearer …`: `sub` is the service's name, `aud`
//! `confab-internal`, `exp` at most an hour ahead. It is only as safe as the TLS connection that it comes over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous::insecure_decode_claims, errors::ErrorKind};
use serde::Deserialize;

use super::{Identity, name::is_role};

/// What a token's `aud` has to be.
pub const AUDIENCE: &str = "confab-internal";
/// How far ahead `exp` may be.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3_600);
/// Clocks may differ by this.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// A shorter HS256 secret can be guessed from a token (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;
const TOKEN_BYTES_MAX: usize = 4_096;
/// Each is tried; some more than one while a new one takes an old one's place.
const KEYS_MAX: usize = 8;

/// The keys that service tokens may be signed with.
#[derive(Clone, Default)]
pub struct ServiceTokens {
    keys: Vec<(DecodingKey, Validation)>,
}

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    /// An HS256 secret needs at least 32 bytes.
    #[error("a secret for service tokens needs at least {SECRET_BYTES_MIN} bytes, not {0}")]
    Short(usize),
    /// It is no public key of Ed25519.
    #[error("no PEM of an Ed25519 public key")]
    Pem,
    /// There are eight already.
    #[error("at most {KEYS_MAX} keys for service tokens are taken")]
    TooMany,
}

/// Why a token is refused; for the log, not for whom it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("its token is not signed with a key of ours")]
    Signature,
    #[error("its token has expired")]
    Expired,
    #[error("its token is not meant for confab-internal")]
    Audience,
    #[error("its token lasts for more than an hour")]
    Lasting,
    #[error("its token lacks a good sub, aud or exp, or is none")]
    Malformed,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

impl ServiceTokens {
    /// No key yet: every token is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also those signed with `secret` (HS256).
    ///
    /// # Errors
    /// If it is shorter than 32 bytes, or there are too many.
    pub fn hs256(self, secret: &[u8]) -> Result<Self, TokenKeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(TokenKeyError::Short(secret.len()));
        }
        self.with(DecodingKey::from_secret(secret), Algorithm::HS256)
    }

    /// Also those signed with the private key of `public_pem` (EdDSA, Ed25519).
    ///
    /// # Errors
    /// If it is no such key, or there are too many.
    pub fn eddsa(self, public_pem: &[u8]) -> Result<Self, TokenKeyError> {
        let key = DecodingKey::from_ed_pem(public_pem).map_err(|_| TokenKeyError::Pem)?;
        self.with(key, Algorithm::EdDSA)
    }

    fn with(mut self, key: DecodingKey, algorithm: Algorithm) -> Result<Self, TokenKeyError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(TokenKeyError::TooMany);
        }
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        self.keys.push((key, validation));
        Ok(self)
    }

    /// `service:<sub>`.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Identity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let mut refused = TokenError::Signature;
        for (key, validation) in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, validation) {
                Ok(decoded) => return checked(&decoded.claims, now),
                // Whoever's key it is signed with says more than the others.
                Err(error) => match reason(error.kind()) {
                    TokenError::Signature => {}
                    reason => refused = reason,
                },
            }
        }
        Err(refused)
    }
}

/// Whom a refused token claims to be of: unverified, for the log.
pub(crate) fn claimed(token: &str) -> Option<Identity> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    service(&insecure_decode_claims::<Claims>(token).ok()?.sub)
}

fn checked(claims: &Claims, now: SystemTime) -> Result<Identity, TokenError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if claims.exp > (now + LIFETIME_MAX + LEEWAY).as_secs() {
        return Err(TokenError::Lasting);
    }
    service(&claims.sub).ok_or(TokenError::Malformed)
}

fn service(sub: &str) -> Option<Identity> {
    is_role(sub).then(|| Identity::new(format!("service:{sub}")))
}

fn reason(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::InvalidAudience => TokenError::Audience,
        _ => TokenError::Malformed,
    }
}

/// Says how many keys there are, and nothing of them.
impl std::fmt::Debug for ServiceTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceTokens").field("keys", &self.keys.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ED25519};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";
    const OTHER: &[u8] = b"another one of thirty-two bytes!";

    fn in_seconds(seconds: i64) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        i64::try_from(now).expect("before the end of time") + seconds
    }

    fn signed(claims: &Value, secret: &[u8]) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).expect("a token")
    }

    fn claims(seconds: i64) -> Value {
        json!({ "sub": "billing", "aud": AUDIENCE, "exp": in_seconds(seconds) })
    }

    fn without(name: &str) -> Value {
        let mut claims = claims(600);
        claims.as_object_mut().expect("an object").remove(name);
        claims
    }

    #[test]
    fn a_good_token_names_a_service() {
        let tokens = ServiceTokens::new().hs256(OTHER).expect("a key").hs256(SECRET).expect("a key");
        for seconds in [-20, 1, 3_600, 3_620] {
            let identity = tokens.verify(&signed(&claims(seconds), SECRET), SystemTime::now());
            assert_eq!(identity.map(|identity| identity.to_string()).as_deref(), Ok("service:billing"), "{seconds} s");
        }
    }

    #[test]
    fn any_other_is_refused_for_what_is_wrong_with_it() {
        let tokens = ServiceTokens::new().hs256(SECRET).expect("a key");
        let with = |name: &str, value: Value| {
            let mut claims = claims(600);
            claims[name] = value;
            claims
        };
        for (claims, secret, reason) in [
            (claims(600), OTHER, TokenError::Signature),
            (claims(-40), SECRET, TokenError::Expired),
            (claims(3_700), SECRET, TokenError::Lasting),
            (with("aud", json!("elsewhere")), SECRET, TokenError::Audience),
            (with("sub", json!("Billing")), SECRET, TokenError::Malformed),
            (with("sub", json!("a:b")), SECRET, TokenError::Malformed),
            (with("exp", json!("soon")), SECRET, TokenError::Malformed),
            (without("exp"), SECRET, TokenError::Malformed),
            (without("aud"), SECRET, TokenError::Malformed),
            (without("sub"), SECRET, TokenError::Malformed),
        ] {
            assert_eq!(tokens.verify(&signed(&claims, secret), SystemTime::now()), Err(reason), "{claims}");
        }
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJiaWxsaW5nIn0.";
        for token in ["", "a.b.c", unsigned, &"x".repeat(5_000)] {
            tokens.verify(token, SystemTime::now()).expect_err("no token of ours");
        }
    }

    #[test]
    fn eddsa_is_taken_and_a_public_key_is_no_secret() {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let public = pair.public_key_pem();
        let tokens = ServiceTokens::new().eddsa(public.as_bytes()).expect("a key");
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("a key");
        let good = encode(&Header::new(Algorithm::EdDSA), &claims(600), &key).expect("a token");
        assert_eq!(tokens.verify(&good, SystemTime::now()).expect("good").role(), "service:billing");
        // Whoever knows the public key could make this one.
        let forged = signed(&claims(600), public.as_bytes());
        assert_eq!(tokens.verify(&forged, SystemTime::now()), Err(TokenError::Signature));
        assert_eq!(claimed(&forged).expect("a claim").role(), "service:billing");
    }

    #[test]
    fn weak_keys_and_too_many_are_not_taken() {
        let refused = |result: Result<ServiceTokens, TokenKeyError>| result.expect_err("refused");
        assert_eq!(refused(ServiceTokens::new().hs256(&SECRET[1..])), TokenKeyError::Short(31));
        assert_eq!(refused(ServiceTokens::new().eddsa(SECRET)), TokenKeyError::Pem);
        let full = (0..KEYS_MAX).try_fold(ServiceTokens::new(), |tokens, _| tokens.hs256(SECRET));
        assert_eq!(refused(full.expect("eight").hs256(SECRET)), TokenKeyError::TooMany);
    }
}
