//! What a device does next: drawn from what it knows, mostly what it may do, sometimes what it may not.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};

use crate::event::{Body, Role};
use crate::log::Asked;
use crate::replica::{Chat, Marks, Replica, Standing};

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// By a frame that takes a seq.
    Send {
        chat: u64,
        asked: Asked,
        detail: Detail,
    },
    /// What was acked before, once more; with another body it is a conflict.
    Again {
        with_another_body: bool,
    },
    /// A change of a group, by HTTP.
    Change {
        chat: u64,
        asked: Asked,
    },
    Mark {
        chat: u64,
        marks: Marks,
        by_http: bool,
    },
    MarkBeyond {
        chat: u64,
        seq: u64,
    },
    Typing {
        chat: u64,
    },
    History {
        chat: u64,
        before: Option<u64>,
        limit: u64,
    },
    MakeDirect {
        peer: u64,
    },
    MakeGroup {
        members: Vec<u64>,
    },
    /// Of a poll: its answer gets lost.
    LoseAnswer,
    /// Of a poll: another edge is asked from now on.
    NextEdge,
    Reconnect {
        is_polite: bool,
        away: u64,
    },
}

/// What a reaction says beside its target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    pub emoji: &'static str,
    pub removes: bool,
}

impl Op {
    /// For the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Send { asked, detail, .. } => match asked {
                Asked::Edit(_) => "edit",
                Asked::Delete(_) => "delete",
                Asked::React(_) if detail.removes => "react: take back",
                Asked::React(_) => "react",
                _ => "send",
            },
            Self::Again { with_another_body: false } => "send again",
            Self::Again { .. } => "send again, changed",
            Self::Change { asked, .. } => match asked {
                Asked::Add(_) => "add members",
                Asked::Remove(_) => "remove or leave",
                Asked::Role(..) => "role",
                Asked::Rename(_) => "rename",
                _ => "delete a group",
            },
            Self::Mark { by_http: true, .. } => "read by HTTP",
            Self::Mark { marks, .. } if marks.read > 0 => "read",
            Self::Mark { .. } => "delivered",
            Self::MarkBeyond { .. } => "read beyond the end",
            Self::Typing { .. } => "typing",
            Self::History { .. } => "history",
            Self::MakeDirect { .. } => "make a direct chat",
            Self::MakeGroup { .. } => "make a group",
            Self::LoseAnswer => "lose a poll's answer",
            Self::NextEdge => "change the edge of a poll",
            Self::Reconnect { is_polite: true, .. } => "reconnect, politely",
            Self::Reconnect { .. } => "reconnect, abruptly",
        }
    }
}

const EMOJIS: [&str; 3] = ["👍", "🎉", "❤️"];

/// Groups that a device knows before it makes no more of them.
const GROUPS_MAX: usize = 8;

/// Beyond any head.
const BEYOND: u64 = 1_000_000;

/// Of what was said last, what is changed mostly.
const LATELY: u64 = 40;

/// What drawing depends on beside what a device knows.
pub(crate) struct Setting<'a> {
    pub users: &'a [u64],
    /// It stays connected at its edge.
    pub is_steady: bool,
    pub is_poll: bool,
}

/// By weight, in thousandths.
pub(crate) fn draw(rng: &mut StdRng, replica: &Replica, setting: &Setting<'_>) -> Op {
    let roll = rng.random_range(0..1_000);
    let Some((id, chat)) = pick_chat(rng, replica) else { return make(rng, replica, setting) };
    let send = |asked| Op::Send { chat: id, asked, detail: Detail::default() };
    match roll {
        0..300 => send(Asked::Message),
        300..390 => send(Asked::Edit(pick_message(rng, chat, replica.id.user, true))),
        390..430 => {
            let is_own = !rng.random_bool(0.3);
            send(Asked::Delete(pick_message(rng, chat, replica.id.user, is_own)))
        }
        430..510 => {
            let target = pick_message(rng, chat, replica.id.user, false);
            let emoji = EMOJIS.choose(rng).copied().unwrap_or_default();
            Op::Send { chat: id, asked: Asked::React(target), detail: Detail { emoji, removes: rng.random_bool(0.3) } }
        }
        510..530 => Op::Again { with_another_body: false },
        530..540 => Op::Again { with_another_body: true },
        540..670 => mark(rng, id, chat),
        670..675 => Op::MarkBeyond { chat: id, seq: BEYOND },
        675..690 => Op::Typing { chat: id },
        690..730 => {
            let before = rng.random_bool(0.7).then(|| rng.random_range(1..=chat.position + 1));
            Op::History { chat: id, before, limit: rng.random_range(1..=200) }
        }
        730..745 => make(rng, replica, setting),
        745..860 => Op::Change { chat: id, asked: change(rng, chat, replica.id.user, setting.users) },
        860..880 if setting.is_poll => Op::LoseAnswer,
        _ if setting.is_steady => send(Asked::Message),
        880..900 if setting.is_poll => Op::NextEdge,
        _ => {
            let away = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..400) };
            Op::Reconnect { is_polite: rng.random_bool(0.5), away }
        }
    }
}

/// Mostly one that its user is in; one of them more often than the others.
fn pick_chat<'a>(rng: &mut StdRng, replica: &'a Replica) -> Option<(u64, &'a Chat)> {
    let any = rng.random_bool(0.03);
    let known = || replica.chats.iter().filter(|(_, chat)| any || chat.standing == Standing::In && chat.position > 0);
    let (id, chat) = if rng.random_bool(0.3) { known().next() } else { known().choose(rng) }?;
    Some((*id, chat))
}

/// The seq of a message, mostly; sometimes of something else, or of nothing.
fn pick_message(rng: &mut StdRng, chat: &Chat, user: u64, is_own: bool) -> u64 {
    if rng.random_bool(0.1) {
        return rng.random_range(1..=chat.position + 3);
    }
    let from = if rng.random_bool(0.2) { 0 } else { chat.position.saturating_sub(LATELY) };
    let fits = |by: u64| !is_own || by == user;
    let messages = chat.events.range(from..).map(|(_, event)| event);
    let messages = messages.filter(|event| fits(event.by) && matches!(event.body, Body::Message { .. }));
    messages.choose(rng).map_or(chat.position.max(1), |event| event.seq)
}

fn mark(rng: &mut StdRng, id: u64, chat: &Chat) -> Op {
    let position = chat.position.max(1);
    let seq = if rng.random_bool(0.7) { position } else { rng.random_range(1..=position) };
    let (marks, by_http) = match rng.random_range(0..10) {
        0..5 => (Marks { delivered: seq, read: 0 }, false),
        9 => (Marks { delivered: seq, read: seq }, true),
        _ => (Marks { delivered: seq, read: seq }, false),
    };
    Op::Mark { chat: id, marks, by_http }
}

fn make(rng: &mut StdRng, replica: &Replica, setting: &Setting<'_>) -> Op {
    let users = setting.users;
    let groups = replica.chats.values().filter(|chat| chat.standing == Standing::In).count();
    let at = users.iter().position(|user| *user == replica.id.user).unwrap_or(0);
    if groups > GROUPS_MAX || rng.random_bool(0.3) {
        return Op::MakeDirect { peer: users[(at + 1) % users.len()] };
    }
    let count = rng.random_range(2..7);
    let mut members: Vec<u64> = users.choose_multiple(rng, count).copied().chain([users[0]]).collect();
    members.retain(|user| *user != replica.id.user);
    members.sort_unstable();
    members.dedup();
    Op::MakeGroup { members }
}

fn change(rng: &mut StdRng, chat: &Chat, me: u64, users: &[u64]) -> Asked {
    // The witness stays.
    let others = &users[1..];
    let somebody = |rng: &mut StdRng| others.choose(rng).copied().unwrap_or_default();
    let is_admin = chat.role(me) == Some(Role::Admin);
    // Who isn't one asks for it all the same, now and then.
    if !is_admin && rng.random_bool(0.75) && me != users[0] {
        return if rng.random_bool(0.4) { Asked::Remove(me) } else { Asked::Rename(format!("{me}'s")) };
    }
    match rng.random_range(0..100) {
        0..45 => {
            let count = rng.random_range(1..3);
            Asked::Add(others.choose_multiple(rng, count).copied().collect())
        }
        45..65 => Asked::Remove(somebody(rng)),
        65..85 => {
            let role = if rng.random_bool(0.6) { Role::Admin } else { Role::Member };
            Asked::Role(somebody(rng), role)
        }
        85..98 => Asked::Rename(format!("title {}", rng.random_range(0..20))),
        _ => Asked::DeleteChat,
    }
}
