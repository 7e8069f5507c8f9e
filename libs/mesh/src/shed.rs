//! What a server that has too much to do answers with.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// When to come again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// `Unavailable` with a `RetryInfo`: that is how a client tells "too much" from "nobody there".
pub(crate) fn refusal(message: String) -> Status {
    Status::with_error_details(Code::Unavailable, message, ErrorDetails::with_retry_info(Some(RETRY_AFTER)))
}

/// Whether `headers`, an answer's head, are such a refusal's.
pub(crate) fn is_refusal(headers: &HeaderMap) -> bool {
    Status::from_header_map(headers)
        .is_some_and(|status| status.code() == Code::Unavailable && status.get_details_retry_info().is_some())
}
