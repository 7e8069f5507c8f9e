//! `/v1/users/me`: what one has set for oneself, whom one has blocked, and the end of it all; and a chat's mute.

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use confab_proto::message::v1 as pb;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::api::{PageParams, body, chat_id, user_id};
use super::{App, Caller, Problem, Whole, sessions};
use crate::frames::Code;
use crate::frames::server::time;

const EVERYONE: &str = "everyone";
const NOBODY: &str = "nobody";

#[derive(Deserialize)]
struct NewSettings {
    last_seen: Option<String>,
    preview: Option<bool>,
    /// `null`: none from now on.
    #[serde(default, deserialize_with = "given")]
    quiet_hours: Option<Option<NewQuietHours>>,
}

#[derive(Deserialize)]
struct NewQuietHours {
    from: String,
    to: String,
    time_zone: String,
}

#[derive(Deserialize)]
struct NewMute {
    until: Option<String>,
}

/// Tells `null` from what isn't there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

fn wrong(field: &str, why: &str) -> Problem {
    Problem::new(Code::InvalidFrame, format!("{field} is {why}"), Some(field))
}

pub(crate) async fn get(State(app): State<App>, Caller(claims): Caller) -> Result<Response, Problem> {
    let request = pb::GetSettingsRequest { user_id: claims.user.0 };
    let settings = app.shared.messages.clone().get_settings(request).await?.into_inner().settings;
    Ok(axum::Json(settings_json(&settings.unwrap_or_default())).into_response())
}

pub(crate) async fn change(
    State(app): State<App>,
    Caller(claims): Caller,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    use pb::update_settings_request::Quiet;
    let new: NewSettings = body(&bytes)?;
    let last_seen = match new.last_seen.as_deref() {
        None => None,
        Some(EVERYONE) => Some(true),
        Some(NOBODY) => Some(false),
        Some(_) => return Err(wrong("last_seen", "\"everyone\" or \"nobody\"")),
    };
    let quiet = match new.quiet_hours {
        None => None,
        Some(None) => Some(Quiet::NoQuietHours(true)),
        Some(Some(hours)) => Some(Quiet::QuietHours(pb::QuietHours {
            from_minute: minute("quiet_hours.from", &hours.from)?,
            to_minute: minute("quiet_hours.to", &hours.to)?,
            time_zone: hours.time_zone,
        })),
    };
    let request = pb::UpdateSettingsRequest { user_id: claims.user.0, last_seen, preview: new.preview, quiet };
    let settings = app.shared.messages.clone().update_settings(request).await?.into_inner().settings;
    Ok(axum::Json(settings_json(&settings.unwrap_or_default())).into_response())
}

/// `HH:MM`, as minutes since midnight.
fn minute(field: &str, text: &str) -> Result<u32, Problem> {
    let number = |text: &str, below: u32| {
        let two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| two_digits && *number < below)
    };
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((number(hour, 24)?, number(minute, 60)?)));
    parts.map(|(hour, minute)| 60 * hour + minute).ok_or_else(|| wrong(field, "a time of the day like 22:00"))
}

fn settings_json(settings: &pb::Settings) -> Value {
    let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
    let quiet_hours = settings.quiet_hours.as_ref().map(
        |quiet| json!({"from": clock(quiet.from_minute), "to": clock(quiet.to_minute), "time_zone": quiet.time_zone}),
    );
    json!({
        "last_seen": if settings.last_seen { EVERYONE } else { NOBODY },
        "preview": settings.preview,
        "quiet_hours": quiet_hours,
    })
}

pub(crate) async fn list_blocks(
    State(app): State<App>,
    Caller(claims): Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = PageParams::read(query.as_deref())?;
    let (after, limit) = (params.next.unwrap_or(0), params.limit.unwrap_or(0));
    let request = pb::ListBlocksRequest { user_id: claims.user.0, after, limit };
    let page = app.shared.messages.clone().list_blocks(request).await?.into_inner();
    let next = page.user_ids.last().filter(|_| page.more).map(ToString::to_string);
    let items: Vec<Value> = page.user_ids.iter().map(|user| json!({"user_id": user})).collect();
    Ok(axum::Json(json!({"items": items, "next": next})).into_response())
}

/// Whether somebody is blocked: 204, or 404.
pub(crate) async fn get_block(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let peer = user_id(&id)?;
    let request = pb::ListBlocksRequest { user_id: claims.user.0, after: peer.saturating_sub(1), limit: 1 };
    let page = app.shared.messages.clone().list_blocks(request).await?.into_inner();
    match page.user_ids.first() {
        Some(blocked) if *blocked == peer => Ok(StatusCode::NO_CONTENT.into_response()),
        _ => Err(Problem::new(Code::NotFound, "this user is not blocked", Some("user_id"))),
    }
}

pub(crate) async fn block(app: State<App>, caller: Caller, id: Path<String>) -> Result<Response, Problem> {
    set_block(app, caller, id, true).await
}

pub(crate) async fn unblock(app: State<App>, caller: Caller, id: Path<String>) -> Result<Response, Problem> {
    set_block(app, caller, id, false).await
}

async fn set_block(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    blocked: bool,
) -> Result<Response, Problem> {
    let request = pb::SetBlockRequest { user_id: claims.user.0, peer: user_id(&id)?, blocked };
    app.shared.messages.clone().set_block(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Until a time, or for good.
pub(crate) async fn mute(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
    Whole(bytes): Whole,
) -> Result<Response, Problem> {
    let new = if bytes.is_empty() { NewMute { until: None } } else { body(&bytes)? };
    let at = |text: &str| text.parse::<jiff::Timestamp>().map_err(|_| wrong("until", "a time in RFC 3339"));
    let until_ms = new.until.as_deref().map(at).transpose()?.map_or(0, |at| at.as_millisecond().max(1));
    set_mute(&app, chat_id(&id)?, claims.user.0, Some(until_ms)).await
}

pub(crate) async fn unmute(
    State(app): State<App>,
    Caller(claims): Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    set_mute(&app, chat_id(&id)?, claims.user.0, None).await
}

async fn set_mute(app: &App, chat_id: u64, user_id: u64, until_ms: Option<i64>) -> Result<Response, Problem> {
    let (muted, until_ms) = (until_ms.is_some(), until_ms.unwrap_or(0));
    app.shared.messages.clone().set_mute(pb::SetMuteRequest { chat_id, user_id, muted, until_ms }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn me(State(app): State<App>, Caller(claims): Caller) -> Result<Response, Problem> {
    let request = pb::EraseUserRequest { user_id: claims.user.0, look_only: true };
    let erasure = app.shared.messages.clone().erase_user(request).await?.into_inner();
    Ok(axum::Json(me_json(claims.user.0, erasure)).into_response())
}

/// Begins to erase what is the user's, and ends their sessions.
pub(crate) async fn erase_me(State(app): State<App>, Caller(claims): Caller) -> Result<Response, Problem> {
    let request = pb::EraseUserRequest { user_id: claims.user.0, look_only: false };
    let erasure = app.shared.messages.clone().erase_user(request).await?.into_inner();
    sessions::revoke_of(&app, claims.user).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(me_json(claims.user.0, erasure))).into_response())
}

fn me_json(user: u64, erasure: pb::EraseUserResponse) -> Value {
    let done_at = (erasure.done_at_ms > 0).then(|| time(erasure.done_at_ms));
    let erasure = (erasure.asked_at_ms > 0).then(|| json!({"asked_at": time(erasure.asked_at_ms), "done_at": done_at}));
    json!({"user_id": user, "erasure": erasure})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_day_has_two_digits_each() {
        assert!(matches!(minute("from", "22:05"), Ok(1_325)));
        for text in ["24:00", "7:00", "07:60", "07-00", "", "07:00:00", "+7:00"] {
            assert!(minute("from", text).is_err(), "{text}");
        }
    }

    #[test]
    fn null_is_told_from_what_is_not_there() {
        let read = |text: &str| serde_json::from_str::<NewSettings>(text).expect("settings").quiet_hours;
        assert!(read("{}").is_none());
        assert!(matches!(read(r#"{"quiet_hours":null}"#), Some(None)));
        assert!(matches!(read(r#"{"quiet_hours":{"from":"1","to":"2","time_zone":"z"}}"#), Some(Some(_))));
    }
}
