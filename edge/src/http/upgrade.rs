//! `GET /ws`: from HTTP to a WebSocket connection with a user.

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
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use uuid::Uuid;

use super::{App, Problem, address, bearer};
use crate::auth::{Claims, TokenError};
use crate::connection::{Connection, websocket_config};
use crate::core::session::{Bounds, Mode, Session, error_text};
use crate::edge::Shared;
use crate::frames::server::Limits;
use crate::frames::{Close, Code};
use crate::mailbox::Mailbox;
use crate::stream::ClientStream;

const FULL: &str = "confab.v1.json";
const CHATS_MAX: usize = 10_000;

#[derive(Deserialize)]
pub(crate) struct Params {
    token: Option<String>,
}

/// What a handshake asks for.
struct Asked {
    full: bool,
    binary: bool,
    bearer: Option<String>,
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
    if asked.bearer.is_some() && !asked.full {
        let why = "the subprotocol `bearer.` comes with `confab.v1.json`";
        return Err(refuse(Problem::new(Code::InvalidFrame, why, None)));
    }
    if asked.binary && !asked.full {
        return Err(refuse(Problem::new(Code::Unimplemented, "confab.v1.proto is not there yet", None)));
    }
    if app.shared.registry.read().len() >= app.shared.cfg.connections_max {
        return Err(refuse(Problem::new(
            Code::Unavailable,
            "there are as many connections here as there may be",
            None,
        )));
    }
    let limits = &app.shared.limits;
    let from = address(&app, &request.extensions, headers);
    let limited = |who: &str, wait| refuse(Problem::limited(&format!("this {who} connects too often"), wait));
    limits.connect_from(from).map_err(|wait| limited("address", wait))?;
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
        limits.connect_of(claims.user).map_err(|wait| limited("user", wait))?;
    }
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| refuse(Problem::new(Code::InvalidFrame, "Sec-WebSocket-Key", None)))?;
    let sent = response.headers_mut();
    sent.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    sent.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    sent.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if asked.full {
        sent.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(FULL));
    }
    let mode = if asked.full { Mode::Full } else { Mode::Seed };
    tokio::spawn(begin(app.shared, on_upgrade, mode, claims));
    Ok(response)
}

fn has(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.eq_ignore_ascii_case(token))
}

fn subprotocols(headers: &HeaderMap) -> Asked {
    let mut asked = Asked { full: false, binary: false, bearer: None };
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    for name in offered.flat_map(|list| list.split(',')).map(str::trim) {
        match name.strip_prefix("bearer.") {
            Some(token) => asked.bearer = Some(token.to_owned()),
            None => {
                asked.full |= name == FULL;
                asked.binary |= name == "confab.v1.proto";
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
        Err(error) => refuse(socket, error).await,
    }
}

fn connection(shared: Arc<Shared>, socket: WebSocketStream<ClientStream>, mode: Mode, claims: &Claims) -> Connection {
    let cfg = &shared.cfg;
    let bounds = Bounds {
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
    };
    let (events, bytes) = (cfg.outbound_events_max, cfg.outbound_bytes_max);
    let mailbox = Arc::new(Mailbox::new(shared.next_session(), claims.user, &claims.device, events, bytes));
    let session = Session::new(shared.now(), mode, claims, Uuid::new_v4(), bounds);
    Connection { socket, session, mailbox, shared }
}

/// A browser can't see a 401: it is told by a frame and a close code.
async fn refuse(mut socket: WebSocketStream<ClientStream>, error: TokenError) {
    let text = error_text(Code::Unauthenticated, &error.to_string(), None, None, None, None);
    // With a key that isn't known yet another token may be good soon.
    let retryable = matches!(error, TokenError::Expired | TokenError::UnknownKey);
    let close = if retryable { Close::TokenExpired } else { Close::Revoked };
    let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
    let told = async {
        socket.send(Message::Text(text)).await?;
        socket.close(Some(frame)).await?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    // However it goes, the connection is over.
    let _ended = tokio::time::timeout(std::time::Duration::from_secs(2), told).await;
}
