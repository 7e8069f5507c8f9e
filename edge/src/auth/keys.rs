//! A set of public keys (RFC 7517), as far as tokens may be signed with them.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::validation;

/// Keys of a set; further ones are left out.
const KEYS_MAX: usize = 64;

#[derive(Deserialize)]
struct Wire {
    keys: Vec<serde_json::Value>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
}

/// An issuer's keys.
#[derive(Default)]
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// Those of a JSON Web Key Set that are of use here: public ones for signatures by RS256, ES256 or EdDSA. Others are left out.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn parse(json: &[u8], issuer: &str, audience: &str) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(json).map_err(|error| format!("no JSON Web Key Set: {error}"))?;
        let usable = |value: serde_json::Value| {
            let jwk: Jwk = serde_json::from_value(value).ok()?;
            let algorithm = algorithm(&jwk)?;
            let mut validation = validation(algorithm);
            validation.set_issuer(&[issuer]);
            validation.set_audience(&[audience]);
            validation.set_required_spec_claims(&["exp", "sub", "iss", "aud"]);
            Some(Key { key: DecodingKey::from_jwk(&jwk).ok()?, id: jwk.common.key_id, algorithm, validation })
        };
        let keys: Vec<Key> = wire.keys.into_iter().filter_map(usable).take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err("no public key for RS256, ES256 or EdDSA is in it".to_owned());
        }
        Ok(Self(keys))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of a token by its header. Without an id: the only one that there is for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<(&DecodingKey, &Validation)> {
        let mut fitting =
            self.0.iter().filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id));
        let found = fitting.next()?;
        (id.is_some() || fitting.next().is_none()).then_some((&found.key, &found.validation))
    }
}

/// By what a key says of itself, or else by its kind. `None`: not one of ours, above all no secret one.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let by_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let said = match jwk.common.key_algorithm {
        None => by_kind,
        Some(KeyAlgorithm::RS256) => Algorithm::RS256,
        Some(KeyAlgorithm::ES256) => Algorithm::ES256,
        Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
        Some(_) => return None,
    };
    (said == by_kind).then_some(said)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(keys: serde_json::Value) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), "issuer", "audience")
    }

    fn ed25519(id: &str) -> serde_json::Value {
        // RFC 8037, appendix A.2.
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    #[test]
    fn what_is_of_no_use_is_left_out_and_a_secret_above_all() {
        let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"});
        let for_encryption = json!({"kty": "OKP", "crv": "Ed25519", "use": "enc", "kid": "e", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let unheard_of = json!({"kty": "AKP", "kid": "u", "pub": "x"});
        let other_algorithm = json!({"kty": "OKP", "crv": "Ed25519", "alg": "RS256", "kid": "o", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let useless = [secret, for_encryption, unheard_of, other_algorithm];
        assert!(set(json!(useless)).is_err());
        let mut keys = useless.to_vec();
        keys.push(ed25519("good"));
        let keys = set(json!(keys)).expect("one key");
        assert!(keys.find(Some("good"), Algorithm::EdDSA).is_some());
        for id in ["s", "e", "u", "o", "other"] {
            for algorithm in [Algorithm::EdDSA, Algorithm::RS256, Algorithm::HS256] {
                assert!(keys.find(Some(id), algorithm).is_none(), "{id}");
            }
        }
        assert!(keys.find(Some("good"), Algorithm::RS256).is_none());
    }

    #[test]
    fn a_token_without_a_key_id_fits_only_one_key() {
        let one = set(json!([ed25519("a")])).expect("a key");
        assert!(one.find(None, Algorithm::EdDSA).is_some());
        let two = set(json!([ed25519("a"), ed25519("b")])).expect("keys");
        assert!(two.find(None, Algorithm::EdDSA).is_none() && two.find(Some("b"), Algorithm::EdDSA).is_some());
    }

    #[test]
    fn what_is_no_set_is_told() {
        for bad in ["", "[]", "{}", r#"{"keys": 7}"#, r#"{"keys": []}"#] {
            assert!(KeySet::parse(bad.as_bytes(), "i", "a").is_err(), "{bad}");
        }
    }
}
