//! The edge's HTTP side: the WebSocket's handshake, the API, health, the first page.

pub(crate) mod api;
mod origins;
pub(crate) mod poll;
mod sessions;
mod settings;
pub(crate) mod upgrade;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, delete, get, patch, post, put};
use serde_json::json;
use tokio::time::timeout;
use tonic::Status;

use crate::auth::{Claims, TokenError};
use crate::edge::{Shared, Told, told};
use crate::frames::Code;
use crate::limits::client_address;

/// The first page; made anew for each request, for it holds fresh tokens where it is for this machine alone.
pub type Page = Arc<dyn Fn(bool) -> String + Send + Sync>;

/// Says whether the edge can serve.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Clone)]
pub(crate) struct App {
    pub shared: Arc<Shared>,
    pub page: Option<Page>,
    pub ready: Ready,
}

const BODY_MAX: usize = 64 * 1_024;

/// A body may take so many times as long as a head.
const BODY_TIMES: u32 = 3;

/// Who has connected, in a request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub IpAddr);

/// Where a request comes from; `None`: see [`client_address`].
pub(crate) fn address(app: &App, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0);
    client_address(peer, headers, &app.shared.cfg.behind_proxy)
}

/// What proxies add to a request.
const PROXIED: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// The API's description, as what it describes.
const OPENAPI: &str = include_str!("http/openapi.json");

pub(crate) fn router(app: App) -> Router {
    let cors = origins::cors(app.shared.cfg.origins.clone().into());
    // Not for pages of elsewhere: what is here holds tokens, or has its own way to ask where a browser comes from.
    Router::new()
        .route("/", get(page))
        .route("/ws", any(upgrade::ws))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(other_method)
        .with_state(app.clone())
        .fallback_service(api(app).layer(cors))
}

fn api(app: App) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/chats", post(api::create_chat).get(api::list_chats))
        .route("/v1/chats/{id}", get(api::get_chat).patch(api::change_chat).delete(api::delete_chat))
        .route("/v1/chats/{id}/messages/{seq}/receipts", get(api::list_receipts))
        .route("/v1/chats/{id}/members", get(api::list_members).post(api::add_members))
        .route("/v1/chats/{id}/members/{user}", patch(api::set_role).delete(api::remove_member))
        .route("/v1/chats/{id}/read", post(api::read))
        .route("/v1/sessions", get(sessions::list).delete(sessions::revoke_all))
        .route("/v1/sessions/{id}", delete(sessions::revoke))
        .route("/v1/users/{id}/presence", get(api::presence))
        .route("/v1/users/me", get(settings::me).delete(settings::erase_me))
        .route("/v1/users/me/settings", get(settings::get).patch(settings::change))
        .route("/v1/users/me/blocks", get(settings::list_blocks))
        .route("/v1/users/me/blocks/{user}", get(settings::get_block).put(settings::block).delete(settings::unblock))
        .route("/v1/chats/{id}/mute", put(settings::mute).delete(settings::unmute))
        .route("/v1/chats/{id}/messages", get(api::list_messages).post(api::send_message))
        .merge(
            Router::new()
                .route("/poll", post(poll::open).get(poll::next).delete(poll::end))
                .route("/poll/send", post(poll::send))
                .layer(DefaultBodyLimit::max(poll::BODY_MAX)),
        )
        .fallback(elsewhere)
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), limit))
        .with_state(app)
}

/// Before anything is looked at: an address that asks too much.
async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path.starts_with("/v1/") || path.starts_with("/poll") {
        let from = address(&app, request.extensions(), request.headers());
        if let Err(wait) = app.shared.limits.request_from(from) {
            return Problem::limited("this address asks for more than it may", wait).into_response();
        }
    }
    let response = next.run(request).await;
    let is_text = response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json");
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE && is_text {
        return Problem::new(Code::TooLarge, "the body is too large", Some("body")).into_response();
    }
    response
}

async fn page(State(app): State<App>, headers: HeaderMap) -> Response {
    match &app.page {
        // A name that was pointed at this machine from outside gets no tokens, and nobody who comes by a proxy.
        Some(page) => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let here = is_loopback(host) && !PROXIED.iter().any(|name| headers.contains_key(*name));
            ([(header::CACHE_CONTROL, "no-store")], Html(page(here))).into_response()
        }
        None => Problem::new(Code::NotFound, "there is no page here", None).into_response(),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name == "[::1]" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "max-age=300")], OPENAPI)
}

async fn ready(State(app): State<App>) -> Response {
    if (app.ready)() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

/// The protocol's routes that come with later issues, by their first segment below `/v1`.
const LATER: [&str; 2] = ["media", "devices"];

async fn elsewhere(uri: Uri) -> Problem {
    let below = uri.path().strip_prefix("/v1/").and_then(|path| path.split('/').next());
    if below.is_some_and(|segment| LATER.contains(&segment)) {
        return later().await;
    }
    Problem::new(Code::NotFound, "there is nothing here", None)
}

async fn other_method() -> Response {
    let problem = Problem::new(Code::InvalidFrame, "this is not done with that method", None);
    (StatusCode::METHOD_NOT_ALLOWED, problem).into_response()
}

async fn later() -> Problem {
    Problem::new(Code::Unimplemented, "part of the protocol, but not there yet", None)
}

/// An error as JSON: `{"code","message","field"}`.
pub(crate) struct Problem {
    code: Code,
    message: String,
    field: Option<String>,
    /// After how long it may be otherwise.
    retry_after: Option<Duration>,
}

impl Problem {
    pub(crate) fn limited(message: &str, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..Self::new(Code::RateLimited, message, None) }
    }

    pub(crate) fn new(code: Code, message: impl Into<String>, field: Option<&str>) -> Self {
        Self { code, message: message.into(), field: field.map(str::to_owned), retry_after: None }
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        told(&status).into()
    }
}

impl From<Told> for Problem {
    fn from(Told { code, message, field }: Told) -> Self {
        Self { code, message, field, retry_after: None }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        Self::new(Code::Unauthenticated, error.to_string(), None)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.code {
            Code::InvalidFrame | Code::UnknownType => StatusCode::BAD_REQUEST,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::NotMember | Code::NotFound => StatusCode::NOT_FOUND,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::Conflict => StatusCode::CONFLICT,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::SessionGone => StatusCode::GONE,
        };
        let body = json!({"code": self.code, "message": self.message, "field": self.field});
        let mut response = (status, axum::Json(body)).into_response();
        if self.code.retryable() {
            // In whole seconds, so at least one.
            let seconds = self.retry_after.map_or(1, |wait| wait.as_secs() + 1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The token of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

/// A query's parameters, as they are written.
pub(crate) fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='))
}

/// Who asks, if they don't ask too much: known from the head, before anything of a body is read.
pub(crate) struct Caller(pub Claims);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let claims = app.shared.verifier.verify_fresh(bearer(&parts.headers).ok_or(TokenError::Missing)?).await?;
        let limited = |wait| Problem::limited("this user asks for more than they may", wait);
        app.shared.limits.request_of(claims.user).map_err(limited)?;
        Ok(Self(claims))
    }
}

/// A whole body, if it comes in time.
pub(crate) struct Whole(pub Bytes);

impl FromRequest<App> for Whole {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        let time = app.shared.cfg.header_timeout * BODY_TIMES;
        match timeout(time, Bytes::from_request(request, app)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) => Err(rejection.into_response()),
            Err(_) => {
                let problem = Problem::new(Code::Deadline, "the body has not come in time", Some("body"));
                Err((StatusCode::REQUEST_TIMEOUT, problem).into_response())
            }
        }
    }
}
