//! Who a client is: HS256 tokens.

use confab_ids::UserId;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;

/// Clocks may differ by this, seconds.
pub(crate) const LEEWAY_SECONDS: u64 = 30;

const DEVICE_MAX: usize = 64;

/// Checks tokens.
#[derive(Clone)]
pub(crate) struct Verifier {
    key: DecodingKey,
    validation: Validation,
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
    pub(crate) fn new(secret: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self { key: DecodingKey::from_secret(secret), validation }
    }

    pub(crate) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let wire = jsonwebtoken::decode::<Wire>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => TokenError::Expired,
                _ => TokenError::Invalid,
            })?
            .claims;
        let user = wire.sub.parse().ok().and_then(UserId::checked).ok_or(TokenError::Subject)?;
        let device = wire.device.unwrap_or_else(|| "default".to_owned());
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if device.is_empty() || device.len() > DEVICE_MAX || !device.chars().all(allowed) {
            return Err(TokenError::Device);
        }
        Ok(Claims { user, device, expires_at: wire.exp })
    }
}
