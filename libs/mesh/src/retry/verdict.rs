//! Whether a try's result is the call's.

use std::time::Duration;

use http::Response;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::StatusExt;

use crate::call::code_in;

/// Of gRFC A6: milliseconds after which to try again; what is no such number means never.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Final,
    Again {
        /// What the server asks for.
        after: Option<Duration>,
    },
}

impl Verdict {
    pub(super) fn of<B>(result: &Result<Response<B>, Status>) -> Self {
        match result {
            // A refusal has no body: its status is in the head. A body that has begun is an answer.
            Ok(response) if code_in(response.headers()) == Some(Code::Unavailable) => {
                Status::from_header_map(response.headers()).map_or(Self::Final, |status| Self::asked(&status))
            }
            Ok(_) => Self::Final,
            // Nobody answered; but of these the caller's time or interest is the reason.
            Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => Self::Final,
            Err(status) => Self::asked(status),
        }
    }

    fn asked(status: &Status) -> Self {
        match pushback(status.metadata()) {
            Some(None) => Self::Final,
            Some(after) => Self::Again { after },
            None => Self::Again { after: status.get_details_retry_info().and_then(|info| info.retry_delay) },
        }
    }
}

/// `Some(None)` is "never".
fn pushback(metadata: &MetadataMap) -> Option<Option<Duration>> {
    let value = metadata.get(PUSHBACK)?;
    let millis = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(millis.map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn refused(code: Code, pushback: Option<&'static str>, retry_info: Option<u64>) -> Status {
        let mut details = ErrorDetails::new();
        if let Some(millis) = retry_info {
            details.set_retry_info(Some(Duration::from_millis(millis)));
        }
        let mut status = Status::with_error_details(code, "no", details);
        if let Some(pushback) = pushback {
            status.metadata_mut().insert(PUSHBACK, pushback.parse().expect("ascii"));
        }
        status
    }

    #[test]
    fn only_unavailable_is_tried_again_and_as_the_server_asks() {
        let after = |millis| Verdict::Again { after: Some(Duration::from_millis(millis)) };
        for (status, verdict) in [
            (refused(Code::Unavailable, None, None), Verdict::Again { after: None }),
            (refused(Code::Unavailable, None, Some(70)), after(70)),
            (refused(Code::Unavailable, Some("30"), Some(70)), after(30)),
            (refused(Code::Unavailable, Some("-1"), Some(70)), Verdict::Final),
            (refused(Code::Unavailable, Some("soon"), None), Verdict::Final),
            (refused(Code::ResourceExhausted, None, Some(70)), Verdict::Final),
            (refused(Code::Internal, None, None), Verdict::Final),
        ] {
            assert_eq!(Verdict::of(&Ok(status.into_http::<()>())), verdict);
        }
    }

    #[test]
    fn without_an_answer_the_code_counts_only_if_the_caller_has_no_more_use_for_one() {
        for (code, verdict) in [
            (Code::Unavailable, Verdict::Again { after: None }),
            (Code::Unknown, Verdict::Again { after: None }),
            (Code::DeadlineExceeded, Verdict::Final),
            (Code::Cancelled, Verdict::Final),
        ] {
            assert_eq!(Verdict::of::<()>(&Err(Status::new(code, "no"))), verdict);
        }
    }
}
