//! Tokens, good and bad. Made here, not by `confab token`, so that they follow protocol.md and not the program.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Signs tokens with the secret of a data folder.
#[derive(Clone)]
pub struct Minter {
    secret: Vec<u8>,
}

impl Minter {
    /// Reads `token.key`: its bytes without the trailing newline are the key.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of_data_dir(data: &Path) -> anyhow::Result<Self> {
        let path = data.join("token.key");
        let mut secret = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if secret.last() == Some(&b'\n') {
            secret.pop();
        }
        Ok(Self { secret })
    }

    #[must_use]
    pub fn with_secret(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec() }
    }

    /// A good token for an hour.
    #[must_use]
    pub fn token(&self, user: u64, device: Option<&str>) -> String {
        let mut claims = json!({"sub": user.to_string(), "exp": now() + 3600});
        if let Some(device) = device {
            claims["device"] = json!(device);
        }
        self.sign(&claims)
    }

    /// A token with these claims, whatever they are.
    ///
    /// # Panics
    /// If signing fails, which needs claims that aren't JSON.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_secret(&self.secret);
        match jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key) {
            Ok(token) => token,
            Err(error) => panic!("cannot sign {claims}: {error}"),
        }
    }
}

/// The same claims under `alg: none`, unsigned.
#[must_use]
pub fn unsigned(token: &str) -> String {
    // {"alg":"none","typ":"JWT"}
    const NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let claims = token.split('.').nth(1).unwrap_or_default();
    format!("{NONE}.{claims}.")
}

/// Seconds since 1970.
///
/// # Panics
/// If the clock is before 1970.
#[must_use]
pub fn now() -> u64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs(),
        Err(error) => panic!("the clock is before 1970: {error}"),
    }
}
