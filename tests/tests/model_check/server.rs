//! What the server says by HTTP.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::event::{Event, Role};
use crate::field::Field;
use crate::log::Member;
use crate::replica::Marks;

/// A chat in a user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub title: String,
    pub members: u64,
    pub head: u64,
    pub unread: u64,
    /// Of a group.
    pub role: Option<Role>,
}

/// Asks as `user`, at the edge whose turn it is.
async fn ask(field: &Field, user: u64, path: &str) -> anyhow::Result<Value> {
    let at = usize::try_from(user)? % field.edges.len();
    let answer = field.http(field.edges[at], user, "GET", path, None).await?;
    ensure!(answer.status == 200, "user {user}: GET {path}: {} {}", answer.status, answer.text());
    answer.json()
}

/// All pages of a list.
async fn items(field: &Field, user: u64, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut next = String::new();
    loop {
        let page = ask(field, user, &format!("{path}limit=200{next}")).await?;
        items.extend(page["items"].as_array().with_context(|| format!("no items: {page}"))?.iter().cloned());
        match page["next"].as_str() {
            Some(cursor) => next = format!("&next={cursor}"),
            None => return Ok(items),
        }
    }
}

/// A chat's whole log, as far as `user` sees it.
pub(crate) async fn log(field: &Field, user: u64, chat: u64) -> anyhow::Result<Vec<Event>> {
    let items = items(field, user, &format!("/v1/chats/{chat}/messages?after=0&")).await?;
    items.iter().map(Event::read).collect()
}

/// The newest 200 events.
pub(crate) async fn newest(field: &Field, user: u64, chat: u64) -> anyhow::Result<Vec<Event>> {
    let page = ask(field, user, &format!("/v1/chats/{chat}/messages?limit=200")).await?;
    page["items"].as_array().with_context(|| format!("no items: {page}"))?.iter().map(Event::read).collect()
}

/// A user's chats, and their watermarks there.
pub(crate) async fn chats(field: &Field, user: u64) -> anyhow::Result<BTreeMap<u64, (Listed, Marks)>> {
    let listed = |chat: &Value| {
        let number = |name: &str| chat[name].as_u64().with_context(|| format!("no {name}: {chat}"));
        let listed = Listed {
            title: chat["title"].as_str().unwrap_or_default().to_owned(),
            members: number("members")?,
            head: number("head")?,
            unread: number("unread")?,
            role: (chat["kind"] == "group").then(|| Role::named(&chat["role"])),
        };
        let marks = Marks { delivered: number("delivered")?, read: number("read")? };
        Ok((number("chat_id")?, (listed, marks)))
    };
    items(field, user, "/v1/chats?").await?.iter().map(listed).collect()
}

pub(crate) async fn members(field: &Field, user: u64, chat: u64) -> anyhow::Result<BTreeMap<u64, Member>> {
    let member = |member: &Value| {
        let number = |name: &str| member[name].as_u64().with_context(|| format!("no {name}: {member}"));
        Ok((number("user_id")?, Member { role: Role::named(&member["role"]), joined: number("joined_seq")? }))
    };
    items(field, user, &format!("/v1/chats/{chat}/members?")).await?.iter().map(member).collect()
}

/// By user: whether a message was delivered to them, and read.
pub(crate) async fn receipts(
    field: &Field,
    user: u64,
    chat: u64,
    seq: u64,
) -> anyhow::Result<BTreeMap<u64, (bool, bool)>> {
    let receipt = |receipt: &Value| {
        let user = receipt["user_id"].as_u64().with_context(|| format!("no user_id: {receipt}"))?;
        Ok((user, (receipt["delivered"] == true, receipt["read"] == true)))
    };
    items(field, user, &format!("/v1/chats/{chat}/messages/{seq}/receipts?")).await?.iter().map(receipt).collect()
}
