//! `/poll`: the frames of a session without a socket.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use confab_ids::{ChatId, NUMBER_LIMIT};
use confab_proto::message::v1::{Accepted, MarkRequest, Send, SendMessageRequest, SendTypingRequest, Typing};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use uuid::Uuid;

use super::api::body;
use super::upgrade::{bounds, may_connect, may_connect_as};
use super::{App, Caller, Problem, Whole, address, pairs};
use crate::auth::Claims;
use crate::core::session::{error_frame, error_to, too_many};
use crate::edge::refusal;
use crate::frames::client::{self, BadFrame, ClientFrame, Place, Read};
use crate::frames::server::ServerFrame;
use crate::frames::{Code, Frame, Wire};
use crate::polls::{self, Page, Refusal};

/// Of the frames of one request, bytes.
pub(crate) const BODY_MAX: usize = 1_024 * 1_024;

/// Frames of one request.
const FRAMES_MAX: usize = 64;

/// How long the frames of one request may take in all.
const SEND_MAX: Duration = Duration::from_secs(20);

/// How long a poll waits, if it doesn't say; and at most.
const WAIT_DEFAULT: u64 = 25;
const WAIT_MAX: u64 = 55;

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Gone => {
                Self::new(Code::SessionGone, "there is no such session: open another with the last positions", None)
            }
            Refusal::AnotherUsers => {
                Self::new(Code::Forbidden, "the session is another user's or device's", Some("session"))
            }
            Refusal::Superseded | Refusal::Stale => Self::new(Code::Conflict, "a newer poll has come", None),
            Refusal::WrongCursor => {
                Self::new(Code::InvalidFrame, "cursor is not that of one of the last two answers", Some("cursor"))
            }
            Refusal::Expired => Self::new(Code::Unauthenticated, "the token has expired", None),
            Refusal::Revoked => Self::new(Code::Forbidden, "the session was revoked", None),
            Refusal::Unavailable | Refusal::Ended => {
                Self::new(Code::Unavailable, "not possible at the moment: ask again", None)
            }
        }
    }
}

#[derive(Deserialize, Default)]
struct Opening {
    #[serde(default)]
    sync: BTreeMap<u64, u64>,
}

/// What a query says.
struct Asked {
    session: Uuid,
    cursor: Option<u64>,
    wait: u64,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Problem> {
        let wrong = |field, why| Problem::new(Code::InvalidFrame, why, Some(field));
        let (mut session, mut cursor, mut wait) = (None, None, WAIT_DEFAULT);
        for (name, value) in pairs(query) {
            match name {
                "session" => {
                    session = Some(value.parse().map_err(|_| wrong("session", "session is what the opening said"))?)
                }
                "cursor" => {
                    cursor = Some(value.parse().map_err(|_| wrong("cursor", "cursor is what the last answer said"))?)
                }
                "wait" => {
                    let seconds = value.parse().ok().filter(|seconds| *seconds <= WAIT_MAX);
                    wait = seconds.ok_or_else(|| wrong("wait", "wait is a number of seconds from 0 to 55"))?;
                }
                _ => {}
            }
        }
        let session = session.ok_or_else(|| wrong("session", "session is required"))?;
        Ok(Self { session, cursor, wait })
    }
}

pub(crate) async fn open(
    State(app): State<App>,
    extensions: Extensions,
    Caller(claims): Caller,
    headers: HeaderMap,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    may_connect(&app, address(&app, &extensions, &headers))?;
    may_connect_as(&app, &claims)?;
    let opening: Opening = if bytes.is_empty() { Opening::default() } else { body(&bytes)? };
    if opening.sync.iter().any(|(chat, seq)| ChatId::checked(*chat).is_none() || *seq >= NUMBER_LIMIT) {
        let why = "sync maps chat ids to seqs, both numbers below 2^53";
        return Err(Problem::new(Code::InvalidFrame, why, Some("sync")));
    }
    let (id, page) = polls::open(&app.shared, bounds(&app.shared.cfg), &claims, opening.sync).await?;
    Ok(page_json(&app, &format!(r#""session":"{id}","#), &page))
}

pub(crate) async fn next(
    State(app): State<App>,
    Caller(claims): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let asked = Asked::read(query.as_deref())?;
    let required = || Problem::new(Code::InvalidFrame, "cursor is required", Some("cursor"));
    let cursor = asked.cursor.ok_or_else(required)?;
    let wait = Duration::from_secs(asked.wait);
    let page = polls::next(&app.shared, bounds(&app.shared.cfg), &claims, asked.session, cursor, wait).await?;
    Ok(page_json(&app, "", &page))
}

/// `first`: what comes before it.
fn page_json(app: &App, first: &str, page: &Page) -> Response {
    let Page { cursor, frames } = page;
    let bytes = frames.iter().map(|frame| frame.len() + 1).sum::<usize>();
    let mut body = String::with_capacity(96 + bytes);
    body.push_str(&format!(r#"{{{first}"cursor":"{cursor}","frames":"#));
    push_list(&mut body, frames);
    body.push('}');
    json(app, body)
}

fn push_list(body: &mut String, frames: &[Frame]) {
    body.push('[');
    for (at, frame) in frames.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        // A poll's frames are text.
        if let Frame::Text(text) = frame {
            body.push_str(text);
        }
    }
    body.push(']');
}

fn json(app: &App, body: String) -> Response {
    let mut response = (StatusCode::OK, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !(app.ready)() {
        // The next question goes to another edge.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

pub(crate) async fn end(
    State(app): State<App>,
    Caller(claims): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    polls::end(&app.shared, &claims, Asked::read(query.as_deref())?.session).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Frames, one after another. What takes no session is done here, at any edge.
pub(crate) async fn send(
    State(app): State<App>,
    Caller(claims): Caller,
    RawQuery(query): RawQuery,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let session = Asked::read(query.as_deref())?.session;
    let frames: Vec<&RawValue> = body(&bytes)?;
    if frames.len() > FRAMES_MAX {
        return Err(Problem::new(Code::TooLarge, format!("at most {FRAMES_MAX} frames"), Some("body")));
    }
    polls::look(&app.shared, &claims, session).await?;
    let (mut answers, mut of_session) = (Vec::new(), Vec::new());
    let until = Instant::now() + SEND_MAX;
    for frame in frames {
        // What was done before is said in any case.
        match timeout_at(until, one(&app, &claims, frame.get())).await {
            Ok(Done::Answer(answer)) => answers.push(answer),
            Ok(Done::Nothing) => {}
            Ok(Done::Session(read)) => of_session.push(*read),
            Err(_) => answers.push(unanswered(
                &client::read(frame.get()),
                Code::Deadline,
                "not in time: it may or may not be done",
            )),
        }
    }
    if !of_session.is_empty()
        && let Err(refusal) = polls::give(&app.shared, bounds(&app.shared.cfg), &claims, session, &of_session).await
    {
        let problem = Problem::from(refusal);
        answers.extend(of_session.iter().map(|read| unanswered(read, problem.code, &problem.message)));
    }
    let mut list = String::new();
    push_list(&mut list, &answers);
    Ok(json(&app, list))
}

fn unanswered(read: &Read, code: Code, why: &str) -> Frame {
    error_to(read, code, why, None, code.retryable().then_some(1_000)).write(Wire::Json)
}

enum Done {
    Answer(Frame),
    Nothing,
    /// It is the session's.
    Session(Box<Read>),
}

fn answer(frame: &ServerFrame<'_>) -> Done {
    Done::Answer(frame.write(Wire::Json))
}

async fn one(app: &App, claims: &Claims, frame: &str) -> Done {
    let max = app.shared.cfg.frame_bytes_max;
    if frame.len() > max {
        let bad = BadFrame::too_large(frame.len(), max);
        return answer(&error_frame(bad.code, &bad.message, bad.field, None, None, None));
    }
    let read = client::read(frame);
    if let Err(bad) = &read.frame {
        return answer(&error_to(&read, bad.code, &bad.message, bad.field, None));
    }
    if matches!(read.frame, Ok(ClientFrame::Send(_)))
        && let Err(wait) = app.shared.limits.message(claims.user, frame.len())
    {
        return answer(&too_many(&read, wait));
    }
    let Read { reference, client_id, trace, frame: read } = read;
    let reference = reference.as_deref();
    let refused = |status: &Status, client_id| Done::Answer(refusal(status, client_id, reference, Wire::Json));
    let passed = |result: Result<(), Status>| match result {
        Ok(()) => Done::Nothing,
        Err(status) => refused(&status, None),
    };
    match read {
        Ok(ClientFrame::Send(send)) => {
            let client_id = (!send.client_id.is_empty()).then(|| send.client_id.clone());
            match send_one(app, claims, *send).await {
                Ok(accepted) => answer(&ServerFrame::ack(&accepted, client_id.as_deref(), trace.as_deref(), reference)),
                Err(status) => refused(&status, client_id.as_deref()),
            }
        }
        Ok(ClientFrame::Delivered { chat, at }) => passed(mark(app, claims, chat, at, false).await),
        Ok(ClientFrame::Read { chat, at }) => passed(mark(app, claims, chat, at, true).await),
        Ok(ClientFrame::Typing { chat }) => {
            let typing = Some(Typing { chat_id: chat.0, user_id: claims.user.0 });
            passed(app.shared.messages.clone().send_typing(SendTypingRequest { typing }).await.map(drop))
        }
        Ok(ClientFrame::Ping) => answer(&ServerFrame::Pong { reference }),
        Ok(ClientFrame::Presence) => Done::Nothing,
        frame => {
            let reference = reference.map(str::to_owned);
            Done::Session(Box::new(Read { reference, client_id, trace, frame }))
        }
    }
}

pub(super) async fn send_one(app: &App, claims: &Claims, send: Send) -> Result<Accepted, Status> {
    let send = Send {
        user_id: claims.user.0,
        device: claims.device.clone(),
        // Whoever gets it twice knows it again.
        message_id: Uuid::now_v7().as_bytes().to_vec().into(),
        ..send
    };
    let request = SendMessageRequest { send: Some(send) };
    let response = app.shared.messages.clone().send_message(request).await?;
    Ok(response.into_inner().accepted.unwrap_or_default())
}

/// Raises a device's watermark.
pub(super) async fn mark(app: &App, claims: &Claims, chat: ChatId, at: Place, read: bool) -> Result<(), Status> {
    let mark = Some(at.mark(chat, claims.user, &claims.device, read));
    app.shared.messages.clone().mark(MarkRequest { mark }).await.map(drop)
}
