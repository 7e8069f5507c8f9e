//! The server's layer that finds out who calls, and lets in whom the policy lets in.
//!
//! Whom it refuses is told that, and no more; the log says who, what and why, at most once per second and peer.

use std::{
    fmt::Display,
    future::{Ready, ready},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::SystemTime,
};

use futures_util::future::Either;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tower::{Layer, Service, ServiceBuilder};

use crate::{
    Identity, Peer, PeerAddress, PeerCertificates, Policy, ServerConfig,
    identity::tokens::{self, ServiceTokens},
    throttle::Throttle,
};

/// Of a path in the log: it may be a stranger's word.
const PATH_CHARS_MAX: usize = 200;

/// One guard in front of all services of a listener: `service` names it in the log, and `policy` and `tokens` are as in
/// [`ServerConfig`]. The stacks behind it take whom it has found to call for who calls; they need neither.
#[must_use]
pub fn guarded(service: &'static str, policy: Option<Policy>, tokens: Option<ServiceTokens>, peer: Peer) -> Peer {
    let cfg = ServerConfig { policy, tokens, ..ServerConfig::new(service) };
    let stack = ServiceBuilder::new()
        // A refusal is an answer.
        .map_result(|result: Result<Response<Body>, Status>| Ok::<_, Status>(result.unwrap_or_else(Status::into_http)))
        .layer(GuardLayer::new(&cfg))
        .service(peer);
    Peer::new(stack)
}

#[derive(Clone)]
pub(crate) struct GuardLayer(Arc<Rules>);

struct Rules {
    service: &'static str,
    policy: Option<Policy>,
    tokens: Option<ServiceTokens>,
    /// Only refusals come by here; held for a look into a bounded map.
    log: Mutex<Throttle>,
}

impl GuardLayer {
    pub(crate) fn new(cfg: &ServerConfig) -> Self {
        let (policy, tokens) = (cfg.policy.clone(), cfg.tokens.clone());
        Self(Arc::new(Rules { service: cfg.service, policy, tokens, log: Mutex::default() }))
    }
}

/// A caller who is not let in.
struct Refusal {
    /// By what it can't choose, so that it can't fill the log: by that its lines are limited.
    key: String,
    peer: String,
    reason: String,
    status: Status,
}

impl Rules {
    /// # Errors
    /// The refusal, as the caller gets it.
    fn check<R>(&self, request: &mut Request<R>) -> Result<(), Status> {
        let checked =
            self.identify(request).and_then(|identity| self.allow(request, identity.as_ref()).map(|()| identity));
        match checked {
            Ok(Some(identity)) => {
                request.extensions_mut().insert(identity);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(refusal) => {
                self.log(&refusal, request.uri().path());
                Err(refusal.status)
            }
        }
    }

    fn identify<R>(&self, request: &mut Request<R>) -> Result<Option<Identity>, Refusal> {
        if let Some(identity) = request.extensions().get::<Identity>() {
            return Ok(Some(identity.clone()));
        }
        let certificates = request.extensions().get::<PeerCertificates>();
        if let Some(certificates) = certificates.filter(|certificates| !certificates.chain().is_empty()) {
            let named = certificates.identity().cloned();
            return named.map(Some).map_err(|error| unknown(request, None, &error));
        }
        let Some(tokens) = &self.tokens else {
            return Ok(None);
        };
        let Some(token) = bearer(request.headers()) else {
            return Ok(None);
        };
        let identity = tokens
            .verify(token, SystemTime::now())
            .map_err(|error| unknown(request, tokens::claimed(token), &error))?;
        // Nobody below has a use for it, and so nobody can log it.
        request.headers_mut().remove(AUTHORIZATION);
        Ok(Some(identity))
    }

    fn allow<R>(&self, request: &Request<R>, identity: Option<&Identity>) -> Result<(), Refusal> {
        let Some(policy) = &self.policy else {
            return Ok(());
        };
        if policy.allows(identity.map(Identity::role), request.uri().path()) {
            return Ok(());
        }
        Err(match identity {
            Some(identity) => Refusal {
                key: identity.to_string(),
                peer: identity.to_string(),
                reason: "the policy does not allow it".to_owned(),
                status: Status::permission_denied("not allowed"),
            },
            None => unknown(request, None, &"it shows neither a certificate nor a service token"),
        })
    }

    fn log(&self, refusal: &Refusal, path: &str) {
        let admitted = self.log.lock().unwrap_or_else(PoisonError::into_inner).admit(&refusal.key, Instant::now());
        if let Some(left_out) = admitted {
            let method: String = path.chars().take(PATH_CHARS_MAX).collect();
            let Refusal { peer, reason, .. } = refusal;
            tracing::warn!(service = self.service, %peer, ?method, %reason, left_out, "a caller is refused");
        }
    }
}

/// `claims` is what it says to be, unverified.
fn unknown<R>(request: &Request<R>, claims: Option<Identity>, reason: &dyn Display) -> Refusal {
    let from = request.extensions().get::<PeerAddress>().map(|PeerAddress(address)| address.ip().to_string());
    let key = from.unwrap_or_else(|| "nobody".to_owned());
    let peer = claims.map_or_else(|| key.clone(), |claims| format!("{key}, which claims to be {claims}"));
    Refusal { key, peer, reason: reason.to_string(), status: Status::unauthenticated("who calls is not known") }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard { rules: Arc::clone(&self.0), inner }
    }
}

#[derive(Clone)]
pub(crate) struct Guard<S> {
    rules: Arc<Rules>,
    inner: S,
}

impl<S, R> Service<Request<R>> for Guard<S>
where
    S: Service<Request<R>, Error = Status>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = Either<S::Future, Ready<Result<S::Response, Status>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<R>) -> Self::Future {
        match self.rules.check(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Err(refusal))),
        }
    }
}
