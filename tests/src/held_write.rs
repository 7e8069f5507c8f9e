//! The control of the fault table: an owner's writes are held back past its lease and arrive when another has its chats.
//! Fenced, the checker finds nothing; with fencing off, it does.
//!
//! The program has to be built with the feature `failpoints` (message-svc/src/owner/failpoints.rs).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::checker::{Device, History, Report};
use crate::harness::{Mesh, Shape, Store, wait_for};
use crate::roam::{Field, roam};

/// The owner that is struck.
const OWNER: &str = "message-svc-0";
const GROUPS: usize = 16;
const MEMBERS: usize = 4;
const PER_MEMBER: usize = 60;
/// Of a member, so that sends of every chat are under way whenever writes are held.
const PACE: Duration = Duration::from_millis(400);
/// Acks in each chat while its owner's writes are held, and again after they have arrived.
const MORE: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// What a run saw.
pub struct Seen {
    pub report: Report,
    /// Held writes that arrived after all.
    pub arrived: usize,
}

/// # Errors
/// If the mesh doesn't start, a client can't get through, or no write was held.
pub async fn run(store: Store, fenced: bool, seed: u64, first: u64) -> anyhow::Result<Seen> {
    let mut mesh = Mesh::prepare(Shape { message: 2, cassandra: Some(store.clone()), ..Shape::default() })?;
    store.migrate()?;
    let hold = mesh.folder().join("hold");
    for mut spec in mesh.specs() {
        if spec.name == OWNER {
            spec.env.push(("FAILPOINT_HOLD".to_owned(), hold.display().to_string()));
            spec.env.extend((!fenced).then(|| ("FAILPOINT_UNFENCED".to_owned(), "1".to_owned())));
        }
        mesh.spawn(spec)?;
    }
    mesh.wait_ready().await?;
    let users: Vec<u64> = (first..).take(GROUPS * MEMBERS).collect();
    let mut chats = Vec::new();
    for part in users.chunks(MEMBERS) {
        chats.push(mesh.group(0, part[0], &part[1..]).await?);
    }
    // And a device of each chat's first member that comes when all is over: it reads the log from its beginning.
    let mut field = Field::new([mesh.edge(0), mesh.edge(1)], seed, 50..500, &chats, users.len() + chats.len());
    field.pace = PACE;
    let field = Arc::new(field);
    let start = |user: u64, name: &str, chat: u64, messages: usize| {
        let (field, token) = (Arc::clone(&field), mesh.device_token(user, name));
        let device = Device { user, name: name.to_owned() };
        tokio::spawn(async move { roam(&field, device, token, &[chat], messages, PATIENCE).await })
    };
    let mut roamers = Vec::new();
    for (at, user) in users.iter().enumerate() {
        roamers.push(start(*user, "default", chats[at / MEMBERS], PER_MEMBER));
    }
    go_on(&field, "before").await?;
    std::fs::write(&hold, "")?;
    go_on(&field, "while writes are held").await?;
    std::fs::remove_file(&hold)?;
    go_on(&field, "after they have arrived").await?;
    let all = (users.len() * PER_MEMBER) as u64;
    field.reaches(all, "all acks", PATIENCE).await?;
    for (part, chat) in users.chunks(MEMBERS).zip(&chats) {
        roamers.push(start(part[0], "late", *chat, 0));
    }
    let mut history = History::new(seed);
    for roamer in roamers {
        history.absorb(roamer.await??);
    }
    let arrived = mesh.process(OWNER).log().matches("failpoint: a held write has arrived").count();
    ensure!(arrived > 0, "no write was held: is the program built with the feature failpoints?");
    Ok(Seen { report: history.judge(), arrived })
}

/// Until every chat has some more acks.
async fn go_on(field: &Field, when: &str) -> anyhow::Result<()> {
    let before = field.heads();
    let more = || {
        let heads = field.heads();
        let all = before.iter().all(|(chat, head)| heads.get(chat).is_some_and(|now| *now >= head + MORE));
        std::future::ready(all.then_some(()))
    };
    wait_for("acks in every chat", PATIENCE, more).await.with_context(|| when.to_owned())
}
