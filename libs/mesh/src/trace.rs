//! W3C trace context over calls, by the process's global OpenTelemetry propagator. Without one, or without a subscriber,
//! this costs a few loads.

pub(crate) mod extract;
pub(crate) mod inject;
