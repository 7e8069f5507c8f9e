//! `/v1/sessions`: where one is connected, and the end of it.

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use confab_ids::UserId;
use confab_proto::presence::v1::{ListSessionsRequest, OpenSession, RevokeSessionsRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{App, Caller, Problem, pairs};
use crate::frames::Code;
use crate::frames::server::{time, uuid};
use crate::links::presence::instances::Client;

pub(crate) async fn list(State(app): State<App>, Caller(claims): Caller) -> Result<Response, Problem> {
    let request = ListSessionsRequest { user_id: claims.user.0 };
    let mut sessions: Vec<OpenSession> = Vec::new();
    for mut home in homes(&app, claims.user)? {
        sessions.extend(home.list_sessions(request).await?.into_inner().sessions);
    }
    sessions.sort_by(|one, other| (one.opened_at_ms, &one.name).cmp(&(other.opened_at_ms, &other.name)));
    sessions.dedup_by(|one, other| one.name == other.name);
    let item = |session: &OpenSession| {
        json!({
            "session_id": uuid(&session.name),
            "device": session.device,
            "connected_at": time(session.opened_at_ms),
        })
    };
    let items: Vec<Value> = sessions.iter().map(item).collect();
    Ok(axum::Json(json!({"items": items, "next": null})).into_response())
}

/// All of them; with `?device=`, those of one device.
pub(crate) async fn revoke_all(
    State(app): State<App>,
    Caller(claims): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let device = pairs(query.as_deref()).find(|(name, _)| *name == "device").map(|(_, device)| device);
    if device.is_some_and(str::is_empty) {
        return Err(Problem::new(Code::InvalidFrame, "device is empty", Some("device")));
    }
    let device = device.unwrap_or_default().to_owned();
    revoke_those(&app, RevokeSessionsRequest { device, ..of(claims.user) }).await
}

pub(crate) async fn revoke(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let wrong = |_| Problem::new(Code::InvalidFrame, "session_id is a UUID", Some("session_id"));
    let id: Uuid = id.parse().map_err(wrong)?;
    let names = vec![id.as_bytes().to_vec().into()];
    revoke_those(&app, RevokeSessionsRequest { names, ..of(claims.user) }).await
}

/// All of a user's.
pub(super) async fn revoke_of(app: &App, user: UserId) -> Result<Response, Problem> {
    revoke_those(app, of(user)).await
}

/// At all instances that may know some of them.
async fn revoke_those(app: &App, request: RevokeSessionsRequest) -> Result<Response, Problem> {
    let mut revoked = Ok(());
    for mut home in homes(app, UserId(request.user_id))? {
        // The others are told in any case.
        revoked = revoked.and(home.revoke_sessions(request.clone()).await.map(drop));
    }
    revoked?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn of(user: UserId) -> RevokeSessionsRequest {
    RevokeSessionsRequest { user_id: user.0, ..RevokeSessionsRequest::default() }
}

fn homes(app: &App, user: UserId) -> Result<Vec<Client>, Problem> {
    let homes = app.shared.presence.homes(user);
    match homes.is_empty() {
        true => Err(Problem::new(Code::Unavailable, "sessions are not known at the moment", None)),
        false => Ok(homes),
    }
}
