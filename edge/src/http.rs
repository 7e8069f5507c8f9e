//! The edge's HTTP side: the WebSocket's handshake, the API, health, the first page.

pub(crate) mod api;
pub(crate) mod upgrade;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::json;
use tonic::Status;

use crate::auth::{Claims, TokenError};
use crate::edge::{Shared, told};
use crate::frames::Code;

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

/// What proxies add to a request.
const PROXIED: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/ws", any(upgrade::ws))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/v1/chats", post(api::create_chat).get(api::list_chats))
        .route("/v1/chats/{id}", get(api::get_chat))
        .route("/v1/chats/{id}/messages/{seq}/receipts", get(api::list_receipts))
        .route("/v1/chats/{id}/members", get(api::list_members).post(api::add_members))
        .route("/v1/chats/{id}/messages", get(api::list_messages).post(api::send_message))
        .route("/poll", any(later))
        .route("/poll/{*rest}", any(later))
        .fallback(elsewhere)
        .method_not_allowed_fallback(other_method)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
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

async fn ready(State(app): State<App>) -> Response {
    if (app.ready)() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

/// The protocol's routes that come with later issues, by their first segment below `/v1`.
const LATER: [&str; 6] = ["users", "sessions", "media", "devices", "openapi.json", "chats"];

async fn elsewhere(uri: Uri) -> Problem {
    let below = uri.path().strip_prefix("/v1/").and_then(|path| path.split('/').next());
    if below.is_some_and(|segment| LATER.contains(&segment)) {
        return later().await;
    }
    Problem::new(Code::NotFound, "there is nothing here", None)
}

async fn other_method(method: Method, uri: Uri) -> Response {
    let chat = uri.path().strip_prefix("/v1/chats/").is_some_and(|id| !id.contains('/'));
    if chat && (method == Method::PATCH || method == Method::DELETE) {
        return later().await.into_response();
    }
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
}

impl Problem {
    pub(crate) fn new(code: Code, message: impl Into<String>, field: Option<&str>) -> Self {
        Self { code, message: message.into(), field: field.map(str::to_owned) }
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let told = told(&status);
        Self { code: told.code, message: told.message, field: told.field }
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
        };
        let body = json!({"code": self.code, "message": self.message, "field": self.field});
        let mut response = (status, axum::Json(body)).into_response();
        if self.code.retryable() {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

/// The token of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

pub(crate) fn claims(app: &App, headers: &HeaderMap) -> Result<Claims, TokenError> {
    app.shared.verifier.verify(bearer(headers).ok_or(TokenError::Missing)?)
}
