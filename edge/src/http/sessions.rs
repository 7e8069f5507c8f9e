//! `/v1/sessions`: where one is connected, and the end of it.

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use confab_ids::UserId;
use confab_proto::presence::v1::{ListSessionsRequest, OpenSession, RevokeSessionsRequest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{App, Problem, claims};
use crate::frames::Code;
use crate::frames::server::{time, uuid};
use crate::links::presence::instances::Client;

pub(crate) async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let claims = claims(&app, &headers).await?;
    let request = ListSessionsRequest { user_id: claims.user.0 };
    let sessions = home(&app, claims.user)?.list_sessions(request).await?.into_inner().sessions;
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
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let claims = claims(&app, &headers).await?;
    let pairs = query.as_deref().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let device = pairs.filter(|(name, _)| *name == "device").map(|(_, device)| device.to_owned()).next();
    let request = RevokeSessionsRequest { device: device.unwrap_or_default(), ..of(claims.user) };
    home(&app, claims.user)?.revoke_sessions(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn revoke(
    State(app): State<App>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let claims = claims(&app, &headers).await?;
    let wrong = |_| Problem::new(Code::InvalidFrame, "session_id is a UUID", Some("session_id"));
    let id: Uuid = id.parse().map_err(wrong)?;
    let request = RevokeSessionsRequest { names: vec![id.as_bytes().to_vec().into()], ..of(claims.user) };
    home(&app, claims.user)?.revoke_sessions(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn of(user: UserId) -> RevokeSessionsRequest {
    RevokeSessionsRequest { user_id: user.0, ..RevokeSessionsRequest::default() }
}

fn home(app: &App, user: UserId) -> Result<Client, Problem> {
    let unavailable = || Problem::new(Code::Unavailable, "sessions are not known at the moment", None);
    app.shared.presence.homes(user).into_iter().next().ok_or_else(unavailable)
}
