//! Tokens for the clients, signed with the secret that the server made in its data folder.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// Signs HS256 tokens that hold for a day.
#[derive(Clone)]
pub struct Signer {
    key: EncodingKey,
    expires: u64,
}

impl Signer {
    const LIFETIME_S: u64 = 86_400;

    /// Reads `token.key` of a data folder: the file's bytes without a trailing newline are the key.
    pub fn read(data: &Path) -> Result<Self> {
        let path = data.join("token.key");
        let bytes = std::fs::read(&path).with_context(|| format!("no token secret at {}", path.display()))?;
        let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        Ok(Self { key: EncodingKey::from_secret(secret), expires: now.as_secs() + Self::LIFETIME_S })
    }

    /// A token of `user`'s default device.
    pub fn token(&self, user: u64) -> Result<String> {
        let claims = json!({"sub": user.to_string(), "exp": self.expires});
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key).context("can't sign a token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    #[test]
    fn the_trailing_newline_is_no_part_of_the_key() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::write(data.path().join("token.key"), "0123456789abcdef\n").expect("written");
        let token = Signer::read(data.path()).and_then(|signer| signer.token(1007)).expect("a token");
        let key = DecodingKey::from_secret(b"0123456789abcdef");
        let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &Validation::new(Algorithm::HS256));
        assert_eq!(claims.expect("valid").claims["sub"], "1007");
    }
}
