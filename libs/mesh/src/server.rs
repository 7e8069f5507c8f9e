//! The server's stack.

use std::{convert::Infallible, time::Duration};

use tonic::{Status, body::Body};
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::{
    Drain, Peer, Policy, admission::AdmissionLayer, call::ResponseBody, deadline::server::DeadlineLayer,
    drain::gate::DrainGate, guard::GuardLayer, identity::tokens::ServiceTokens, in_flight::InFlight, limit::LimitGate,
    metrics::MetricsLayer, trace::extract::ExtractLayer,
};

/// What a server's stack needs to know. Start from [`ServerConfig::new`].
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Our role: `message-svc`, `presence-svc`, … Labels metrics, and is named in refusals.
    pub service: &'static str,
    /// Calls that may be under way at once, streams counted until their response body ends. Default: 10,000.
    /// At the bound a call is refused at once with `Unavailable` and a `RetryInfo`; nothing queues.
    pub in_flight_max: usize,
    /// Below [`in_flight_max`](Self::in_flight_max) unary calls have a limit of their own, which falls when they become slow
    /// and rises when they are not; at it they are refused in the same way. It never falls below this. Default: 16.
    pub limit_min: usize,
    /// The deadline of a call that names none. Default: 10 s. Not for [`streaming`](Self::streaming) methods.
    pub deadline_default: Duration,
    /// A longer `grpc-timeout` is cut to this. Default: 60 s. Not for [`streaming`](Self::streaming) methods.
    pub deadline_max: Duration,
    /// RPC method names (`"Converse"`) whose calls are meant to last: neither the default deadline nor the maximum holds
    /// for them, only a `grpc-timeout` that they bring. Default: none.
    pub streaming: &'static [&'static str],
    /// Who may call what. Whoever is refused by it gets `Unauthenticated` or `PermissionDenied`, and no reason; the log has
    /// it. Default: none, and everybody may call everything.
    pub policy: Option<Policy>,
    /// How callers without a certificate may show who they are. Default: they cannot, and a token is not looked at.
    pub tokens: Option<ServiceTokens>,
    /// Once this drain has begun, new calls are refused with `Unavailable`; it waits for the running ones.
    /// Default: none.
    pub drain: Option<Drain>,
}

impl ServerConfig {
    /// The documented defaults.
    #[must_use]
    pub const fn new(service: &'static str) -> Self {
        Self {
            service,
            in_flight_max: 10_000,
            limit_min: 16,
            deadline_default: Duration::from_secs(10),
            deadline_max: Duration::from_secs(60),
            streaming: &[],
            policy: None,
            tokens: None,
            drain: None,
        }
    }

    /// Sets [`streaming`](Self#structfield.streaming).
    #[must_use]
    pub const fn streaming(mut self, methods: &'static [&'static str]) -> Self {
        self.streaming = methods;
        self
    }

    /// Sets [`policy`](Self#structfield.policy).
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sets [`tokens`](Self#structfield.tokens).
    #[must_use]
    pub fn tokens(mut self, tokens: ServiceTokens) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Sets [`drain`](Self#structfield.drain).
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = Some(drain);
        self
    }
}

/// The stack around a generated tonic server, top to bottom. It never returns `Err`: what goes wrong is an answer.
pub fn server<S>(cfg: ServerConfig, inner: S) -> Peer
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let stack = ServiceBuilder::new()
        // A layer's refusal is an answer. Above all that look at calls, which want it as the error that it is.
        .map_result(answer)
        // Above metrics, so that what they record has its span; both see refusals, too.
        .layer(ExtractLayer)
        .layer(MetricsLayer::server(cfg.service))
        // Above the bound: a draining server says so, however full it is.
        .layer(AdmissionLayer(DrainGate::new(cfg.service, cfg.drain.clone())))
        // Above the bounds: who may not call takes up no place.
        .layer(GuardLayer::new(&cfg))
        .layer(AdmissionLayer(InFlight::new(cfg.service, cfg.in_flight_max)))
        .layer(AdmissionLayer(LimitGate::new(&cfg)))
        // Last, for nothing above waits: a call that is late has ended, and gives its permit back.
        .layer(DeadlineLayer::new(&cfg))
        .service(inner.map_err(|never| match never {}));
    Peer::new(stack)
}

/// The only place that boxes the body, whatever the number of layers that wrapped it.
fn answer<B: ResponseBody>(result: Result<http::Response<B>, Status>) -> Result<http::Response<Body>, Status> {
    Ok(match result {
        Ok(response) => response.map(Body::new),
        Err(status) => status.into_http(),
    })
}
