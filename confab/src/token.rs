//! Mints the tokens that clients show. Accounts are not Confab's: an app's own backend signs in people and mints such tokens with the
//! same secret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::secret::Secret;

/// Ids travel as JSON numbers.
pub(crate) const ID_MAX: u64 = (1 << 53) - 1;
/// Longer ones are hardly meant.
const TTL_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
}

/// A token that says `user` on `device`, until `ttl` after `now`.
pub(crate) fn mint(
    secret: &Secret,
    user: u64,
    device: Option<&str>,
    ttl: Duration,
    now: SystemTime,
) -> anyhow::Result<String> {
    let exp = (now + ttl).duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let claims = Claims { sub: user.to_string(), exp, device };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).context("can't sign a token")
}

pub(crate) fn parse_user(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|id| (1..=ID_MAX).contains(id))
        .ok_or_else(|| format!("an id is a whole number from 1 to {ID_MAX}"))
}

pub(crate) fn parse_device(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(fine) {
        Ok(text.to_owned())
    } else {
        Err("a device's name has 1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

pub(crate) fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text)
        .map_err(|_| "a duration is a number and a unit, such as 90s, 15m, 1h, 7d".to_owned())?;
    if (Duration::from_secs(1)..=TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a token lives from 1s to 10 years".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use jsonwebtoken::{DecodingKey, Validation};

    fn claims(token: &str, secret: &str) -> Option<serde_json::Value> {
        let key = DecodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::decode(token, &key, &Validation::new(Algorithm::HS256)).ok().map(|token| token.claims)
    }

    #[test]
    fn it_says_who_and_until_when() {
        let secret = "0123456789abcdef0123456789abcdef";
        let now = SystemTime::now();
        let token = mint(&Secret::of(secret), 7, Some("phone"), Duration::from_secs(60), now).expect("minted");
        let exp = now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 60;
        assert_eq!(claims(&token, secret), Some(serde_json::json!({"sub": "7", "exp": exp, "device": "phone"})));
        assert_eq!(claims(&token, "another secret, as long as it is"), None);
        let token = mint(&Secret::of(secret), ID_MAX, None, Duration::from_secs(60), now).expect("minted");
        assert_eq!(claims(&token, secret), Some(serde_json::json!({"sub": "9007199254740991", "exp": exp})));
    }

    #[test]
    fn arguments_are_checked() {
        assert_eq!(parse_user("9007199254740991"), Ok(ID_MAX));
        for bad in ["0", "9007199254740992", "-1", "1.5", "x", ""] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
        assert!(parse_device("phone-1_a.b").is_ok());
        for bad in ["", "two words", "ä", &"x".repeat(65)] {
            assert!(parse_device(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_ttl("1h30m"), Ok(Duration::from_secs(5_400)));
        for bad in ["", "10", "0s", "100ms", "20y", "soon"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
