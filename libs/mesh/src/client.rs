//! The client's stack.

use std::time::Duration;

use tonic::body::Body;
use tower::ServiceBuilder;

use crate::{
    Peer, breaker::BreakerLayer, deadline::client::DeadlineLayer, metrics::MetricsLayer, retry::RetryLayer,
    trace::inject::InjectLayer,
};

/// What a client's stack needs to know. Start from [`ClientConfig::new`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who we are: `edge`, `message-svc`, … Labels metrics; it is not how the server knows us (see [`Identity`](crate::Identity)).
    pub role: &'static str,
    /// Whom we call: `message-svc`, … Labels metrics, and is named in errors.
    pub target: &'static str,
    /// The deadline of a call that sets none itself (with `tonic::Request::set_timeout`). Default: 5 s.
    /// Whatever it is, a call made while a server handles another ends no later than that one's deadline.
    pub timeout: Duration,
    /// RPC method names (`"Converse"`) whose calls are meant to last: they get neither [`timeout`](Self::timeout) nor
    /// the deadline of the call that happened to open them, only what they set themselves. Default: none.
    pub streaming: &'static [&'static str],
    /// RPC method names (`"GetChat"`) whose unary calls may be made twice: when no server has answered, or one has with
    /// `Unavailable`, they are tried again, at most twice, within their deadline and the client's budget for retries: 10 %
    /// of such calls and 10 per second. A method whose requests are streamed does not belong here. Default: none.
    pub idempotent: &'static [&'static str],
    /// After this many failures in a row (of calls under way at once, one) the target is not called: calls are refused at once with `Unavailable`, but one
    /// that tries, after 0.5 s, then twice as long each time. 0 is never. Default: 5.
    pub breaker_failures: u32,
    /// The longest such pause. Default: 2 s, so that an instance that has come back is found well within the 5 s that a
    /// failure may be felt; a try in 2 s is no load for one that has not.
    pub breaker_pause_max: Duration,
}

impl ClientConfig {
    /// The documented defaults.
    #[must_use]
    pub const fn new(role: &'static str, target: &'static str) -> Self {
        Self {
            role,
            target,
            timeout: Duration::from_secs(5),
            streaming: &[],
            idempotent: &[],
            breaker_failures: 5,
            breaker_pause_max: Duration::from_secs(2),
        }
    }

    /// Sets [`timeout`](Self#structfield.timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`streaming`](Self#structfield.streaming).
    #[must_use]
    pub const fn streaming(mut self, methods: &'static [&'static str]) -> Self {
        self.streaming = methods;
        self
    }

    /// Sets [`idempotent`](Self#structfield.idempotent).
    #[must_use]
    pub const fn idempotent(mut self, methods: &'static [&'static str]) -> Self {
        self.idempotent = methods;
        self
    }
}

/// The stack around any peer, top to bottom.
#[must_use]
pub fn client(cfg: ClientConfig, peer: Peer) -> Peer {
    let stack = ServiceBuilder::new()
        // The only place that boxes the body, whatever the number of layers that wrapped it.
        .map_response(|response: http::Response<_>| response.map(Body::new))
        // Above the deadline, so that what is late is counted as such.
        .layer(MetricsLayer::client(cfg.role, cfg.target))
        // Above the deadline and the tries: lateness is a failure, and all tries of a call are one.
        .layer(BreakerLayer::new(&cfg))
        .layer(DeadlineLayer::new(&cfg))
        // Within the deadline: all tries together have the call's time, and each is told what is left of it.
        .layer(RetryLayer::new(&cfg))
        .layer(InjectLayer)
        // Last: of a request's extensions, nothing that a caller or a layer put there reaches a server in this process.
        .map_request(|mut request: http::Request<Body>| {
            request.extensions_mut().clear();
            request
        })
        .service(peer);
    Peer::new(stack)
}
