//! Who a client is: tokens, signed with a secret (HS256) or by one of an issuer's keys (`jwks`).

pub(crate) mod jwks;
mod keys;

use confab_ids::UserId;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode_header, errors::ErrorKind};
use serde::Deserialize;

use self::jwks::Jwks;

/// Clocks may differ by this, seconds.
pub(crate) const LEEWAY_SECONDS: u64 = 30;

const DEVICE_MAX: usize = 64;

/// Checks tokens. Clones share what they know.
#[derive(Clone, Default)]
pub struct Verifier {
    secret: Option<(DecodingKey, Validation)>,
    keys: Option<Jwks>,
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub user: UserId,
    pub device: String,
    /// Unix seconds; the token holds until [`LEEWAY_SECONDS`] later.
    pub expires_at: i64,
}

/// Why a token is no good. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("a token is required: `Authorization: Bearer`, `?token=`, or the subprotocol `bearer.`")]
    Missing,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid here")]
    Invalid,
    #[error("the token is signed with a key that is not known here")]
    UnknownKey,
    #[error("the token's sub is not a user id: a decimal number from 1 to 2^53 - 1")]
    Subject,
    #[error("the token's device is not 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")]
    Device,
}

#[derive(Deserialize)]
struct Wire {
    sub: String,
    exp: i64,
    device: Option<String>,
}

impl Verifier {
    /// No key yet: every token is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also those signed with a secret (HS256).
    #[must_use]
    pub fn hs256(self, secret: &[u8]) -> Self {
        let mut validation = validation(Algorithm::HS256);
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self { secret: Some((DecodingKey::from_secret(secret), validation)), ..self }
    }

    /// Also those signed by one of an issuer's keys (RS256, ES256, EdDSA), which are read again as they change.
    ///
    /// # Errors
    /// If there is a file and it has no such key. An address that doesn't answer is asked again.
    pub async fn jwks(self, cfg: jwks::JwksConfig) -> Result<Self, jwks::JwksError> {
        Ok(Self { keys: Some(Jwks::start(cfg).await?), ..self })
    }

    /// Whether any token could be good.
    pub(crate) fn is_ready(&self) -> bool {
        self.secret.is_some() || self.keys.as_ref().is_some_and(Jwks::has_keys)
    }

    /// By the keys that are known. If a token's isn't, they are asked for: it may be good soon.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        let wire = match (header.alg, &self.secret, &self.keys) {
            (Algorithm::HS256, Some((key, validation)), _) => checked(token, key, validation),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(jwks)) => {
                let keys = jwks.keys();
                match keys.find(header.kid.as_deref(), header.alg) {
                    Some((key, validation)) => checked(token, key, validation),
                    None => {
                        jwks.wanted();
                        Err(TokenError::UnknownKey)
                    }
                }
            }
            _ => Err(TokenError::Invalid),
        }?;
        claims(wire)
    }

    /// The same; if the token's key isn't known, they are read once more first, unless they just were.
    pub(crate) async fn verify_fresh(&self, token: &str) -> Result<Claims, TokenError> {
        let Some(keys) = &self.keys else { return self.verify(token) };
        let read = keys.next();
        match self.verify(token) {
            Err(TokenError::UnknownKey) if read.wait().await => self.verify(token),
            verified => verified,
        }
    }
}

/// Of any algorithm; who the token is from and for is to be added.
fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation
}

fn checked(token: &str, key: &DecodingKey, validation: &Validation) -> Result<Wire, TokenError> {
    let decoded = jsonwebtoken::decode::<Wire>(token, key, validation);
    decoded.map(|token| token.claims).map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        _ => TokenError::Invalid,
    })
}

fn claims(wire: Wire) -> Result<Claims, TokenError> {
    let user = wire.sub.parse().ok().and_then(UserId::checked).ok_or(TokenError::Subject)?;
    let device = wire.device.unwrap_or_else(|| "default".to_owned());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if device.is_empty() || device.len() > DEVICE_MAX || !device.chars().all(allowed) {
        return Err(TokenError::Device);
    }
    Ok(Claims { user, device, expires_at: wire.exp })
}
