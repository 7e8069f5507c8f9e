//! What a broken call looks like to its caller: always whom it was to, and where.

use std::{error::Error, sync::Arc};

use h2::Reason;
use tonic::{Code, Status};

/// One instance of one service, as errors name it.
#[derive(Clone)]
pub(super) struct Whom {
    pub(super) target: &'static str,
    pub(super) address: Arc<str>,
}

impl Whom {
    pub(super) fn no_connection(&self) -> Status {
        Status::unavailable(format!("{}: no connection to {}", self.target, self.address))
    }

    pub(super) fn too_many(&self, max: u32) -> Status {
        let (target, address) = (self.target, &self.address);
        Status::unavailable(format!("{target}: {max} calls are under way to {address} (in_flight_max)"))
    }

    /// A call that was under way.
    pub(super) fn broken(&self, error: &hyper::Error) -> Status {
        let mut chain = std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
        let reset = chain.find_map(|error| error.downcast_ref::<h2::Error>()).filter(|error| error.is_reset());
        let code = reset.and_then(h2::Error::reason).map_or(Code::Unavailable, code_of_reset);
        let detail = reset.map_or_else(|| error.to_string(), ToString::to_string);
        Status::new(code, format!("{}: the call to {} broke: {detail}", self.target, self.address))
    }
}

/// By gRPC's own table: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors>.
fn code_of_reset(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}
