//! `GET /ws`: from HTTP to a WebSocket connection with a user.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use confab_proto::limits::TEXT_BYTES_MAX;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use uuid::Uuid;

use super::origins::may_ask;
use super::{App, Problem, address, bearer};
use crate::Config;
use crate::auth::{Claims, TokenError};
use crate::connection::{Connection, websocket_config};
use crate::core::session::{Bounds, Mode, Session, error_frame};
use crate::edge::Shared;
use crate::frames::server::Limits;
use crate::frames::{Close, Code};
use crate::stream::ClientStream;

const JSON: &str = "confab.v1.json";
const PROTO: &str = "confab.v1.proto";
const CHATS_MAX: usize = 10_000;

#[derive(Deserialize)]
pub(crate) struct Params {
    token: Option<String>,
}

/// What a handshake asks for.
struct Asked {
    /// The first one offered that is known.
    subprotocol: Option<&'static str>,
    bearer: Option<String>,
}

impl Asked {
    fn mode(&self) -> Mode {
        match self.subprotocol {
            None => Mode::Seed,
            Some(PROTO) => Mode::Proto,
            Some(_) => Mode::Json,
        }
    }
}

pub(crate) async fn ws(State(app): State<App>, Query(params): Query<Params>, request: Request) -> Response {
    match upgrade(app, params, request.into_parts().0).await {
        Ok(response) => response,
        Err(refusal) => *refusal,
    }
}

async fn upgrade(app: App, params: Params, mut request: Parts) -> Result<Response, Box<Response>> {
    let refuse = |problem: Problem| Box::new(problem.into_response());
    let on_upgrade = request.extensions.remove::<OnUpgrade>();
    let headers = &request.headers;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| has(headers, header::UPGRADE, "websocket"));
    let (Some(key), Some(on_upgrade)) = (key, on_upgrade) else {
        let problem = Problem::new(Code::InvalidFrame, "this is a WebSocket: connect with one", None);
        let mut response = refuse(problem);
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return Err(response);
    };
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refuse(Problem::new(Code::InvalidFrame, "Sec-WebSocket-Version is 13", None)));
    }
    let asked = subprotocols(headers);
    let mode = asked.mode();
    if asked.bearer.is_some() && asked.subprotocol.is_none() {
        let why = "the subprotocol `bearer.` comes with `confab.v1.json` or `confab.v1.proto`";
        return Err(refuse(Problem::new(Code::InvalidFrame, why, None)));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !may_ask(origin, headers, &app.shared.cfg.origins)
    {
        return Err(refuse(Problem::new(Code::Forbidden, "pages of this origin may not connect", Some("Origin"))));
    }
    let from = address(&app, &request.extensions, headers);
    may_connect(&app, from).map_err(refuse)?;
    let browser = asked.bearer.is_some() || headers.contains_key(header::ORIGIN);
    let token = bearer(headers).map(str::to_owned).or(asked.bearer).or(params.token);
    let claims = match token {
        Some(token) => app.shared.verifier.verify_fresh(&token).await,
        None => Err(TokenError::Missing),
    };
    if let Err(error) = &claims
        && !browser
    {
        return Err(refuse((*error).into()));
    }
    if let Ok(claims) = &claims {
        may_connect_as(&app, claims).map_err(refuse)?;
    }
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| refuse(Problem::new(Code::InvalidFrame, "Sec-WebSocket-Key", None)))?;
    let sent = response.headers_mut();
    sent.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    sent.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    sent.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = asked.subprotocol {
        sent.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    tokio::spawn(begin(app.shared, on_upgrade, mode, claims));
    Ok(response)
}

/// Whether there is room for one more session, and its address doesn't come too often.
pub(super) fn may_connect(app: &App, from: Option<IpAddr>) -> Result<(), Problem> {
    if app.shared.registry.read().len() >= app.shared.cfg.connections_max {
        return Err(Problem::new(Code::Unavailable, "there are as many connections here as there may be", None));
    }
    let limited = |wait| Problem::limited("this address connects too often", wait);
    app.shared.limits.connect_from(from).map_err(limited)
}

/// Nor its user.
pub(super) fn may_connect_as(app: &App, claims: &Claims) -> Result<(), Problem> {
    let limited = |wait| Problem::limited("this user connects too often", wait);
    app.shared.limits.connect_of(claims.user).map_err(limited)
}

fn has(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.eq_ignore_ascii_case(token))
}

fn subprotocols(headers: &HeaderMap) -> Asked {
    let mut asked = Asked { subprotocol: None, bearer: None };
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    for name in offered.flat_map(|list| list.split(',')).map(str::trim) {
        match name.strip_prefix("bearer.") {
            Some(token) => asked.bearer = Some(token.to_owned()),
            None => {
                let known = [JSON, PROTO].into_iter().find(|known| *known == name);
                asked.subprotocol = asked.subprotocol.or(known);
            }
        }
    }
    asked
}

/// The handshake is over: the connection goes on in a task of its own, so that nothing of HTTP stays in memory.
async fn begin(shared: Arc<Shared>, on_upgrade: OnUpgrade, mode: Mode, claims: Result<Claims, TokenError>) {
    let Ok(upgraded) = on_upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<ClientStream>>() else { return };
    let (stream, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let config = Some(websocket_config(shared.cfg.frame_bytes_hard_max));
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, config).await;
    match claims {
        Ok(claims) => drop(tokio::spawn(Box::new(connection(shared, socket, mode, &claims)).run())),
        Err(error) => refuse(socket, mode, error).await,
    }
}

fn connection(shared: Arc<Shared>, socket: WebSocketStream<ClientStream>, mode: Mode, claims: &Claims) -> Connection {
    let name = Uuid::new_v4();
    let mailbox = shared.mailbox(claims, mode, name);
    let session = Session::new(shared.now(), mode, claims, name, bounds(&shared.cfg));
    Connection { socket, session, mailbox, shared }
}

/// A session's.
pub(crate) fn bounds(cfg: &Config) -> Bounds {
    Bounds {
        in_flight_max: cfg.in_flight_max,
        watch_max: cfg.watch_max,
        ping_ms: u64::try_from(cfg.ping_interval.as_millis()).unwrap_or(u64::MAX),
        silence_ms: u64::try_from(cfg.silence_max.as_millis()).unwrap_or(u64::MAX),
        limits: Limits {
            content_bytes: TEXT_BYTES_MAX,
            frame_bytes: cfg.frame_bytes_max,
            watch_max: cfg.watch_max,
            chats_max: CHATS_MAX,
        },
    }
}

/// A browser can't see a 401: it is told by a frame and a close code.
async fn refuse(mut socket: WebSocketStream<ClientStream>, mode: Mode, error: TokenError) {
    let why = error.to_string();
    let told = error_frame(Code::Unauthenticated, &why, None, None, None, None).write(mode.wire());
    // With a key that isn't known yet another token may be good soon.
    let retryable = matches!(error, TokenError::Expired | TokenError::UnknownKey);
    let close = if retryable { Close::TokenExpired } else { Close::Revoked };
    let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
    let goodbye = async {
        socket.send(told.into()).await?;
        socket.close(Some(frame)).await?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    // However it goes, the connection is over.
    let _ended = tokio::time::timeout(std::time::Duration::from_secs(2), goodbye).await;
}
