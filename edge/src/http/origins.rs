//! Which web pages may use the API from a browser: those of this server's own origin and of loopback, and those that are listed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::is_loopback;

/// How long a browser may remember what it was told.
const MAX_AGE: Duration = Duration::from_secs(3_600);

/// Any page may: in the place of a list.
const ANY: &str = "*";

const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// What requests carry: beside the token, what uploads by tus do.
const ASKED: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("tus-resumable"),
    HeaderName::from_static("upload-length"),
    HeaderName::from_static("upload-metadata"),
    HeaderName::from_static("upload-offset"),
];

const EXPOSED: [HeaderName; 6] = [
    header::LOCATION,
    header::RETRY_AFTER,
    header::ETAG,
    HeaderName::from_static("upload-offset"),
    HeaderName::from_static("upload-length"),
    HeaderName::from_static("tus-resumable"),
];

/// Whether a page of this origin may. `listed`: `https://app.example.org`, or `*`.
pub(crate) fn may_ask(origin: &HeaderValue, headers: &HeaderMap, listed: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if listed.iter().any(|listed| listed == ANY || listed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    is_loopback(authority.as_str()) || host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str()))
}

/// Answers browsers' questions, and says in the answers who may read them.
pub(super) fn cors(listed: Arc<[String]>) -> CorsLayer {
    let may = move |origin: &HeaderValue, request: &Parts| may_ask(origin, &request.headers, &listed);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(may))
        .allow_methods(METHODS)
        .allow_headers(ASKED)
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_pages_loopbacks_and_those_that_are_listed() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("chat.example.org"));
        let listed = ["https://app.example.org".to_owned()];
        let may = |origin: &'static str| may_ask(&HeaderValue::from_static(origin), &headers, &listed);
        for good in [
            "https://chat.example.org",
            "https://app.example.org",
            "HTTPS://App.example.org",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:8080",
        ] {
            assert!(may(good), "{good}");
        }
        for bad in [
            "https://example.org",
            "http://app.example.org",
            "https://chat.example.org:8443",
            "https://chat.example.org.evil.example",
            "https://localhost.evil.example",
            "null",
            "",
        ] {
            assert!(!may(bad), "{bad}");
        }
        assert!(may_ask(&HeaderValue::from_static("null"), &headers, &["*".to_owned()]));
    }
}
