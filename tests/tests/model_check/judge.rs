//! At rest: whether devices, answers and lists say what the logs say.

mod answers;
mod receipts;

use std::collections::BTreeMap;

use crate::event::{Body, Event, Role};
use crate::finding::{Finding, Kind};
use crate::log::{Log, Seen};
use crate::replica::{Chat, Replica, Standing, Text};

pub(crate) use answers::Ledger;
pub(crate) use receipts::{Truth, receipts, watermarks};

/// The logs of all chats that are not deleted.
pub(crate) type Logs = BTreeMap<u64, Log>;

/// What a device has of a chat, and what its user may see of it.
pub(crate) fn device(replica: &Replica, log: &Log, ledger: &Ledger) -> Vec<Finding> {
    let known = replica.chats.get(&log.chat).filter(|known| known.position > 0);
    let find = |kind: Kind, expected: String, found: String| Finding::new(kind, log.chat, &replica.id, expected, found);
    let (seen, known) = match (log.seen_by(replica.id.user), known) {
        (Some(seen), Some(known)) => (seen, known),
        // Who was away when the user came and went need not hear of it.
        (None, None) => return Vec::new(),
        (Some(seen), None) if seen.standing != Standing::In => return Vec::new(),
        (Some(seen), None) => return vec![find(Kind::Missing, format!("{seen:?}"), "nothing of this chat".into())],
        (None, Some(known)) => {
            return vec![find(Kind::BeforeJoin, "nothing of this chat".into(), format!("{:?}", known.events))];
        }
    };
    let mut findings = Vec::new();
    if known.standing != seen.standing {
        findings.push(find(Kind::Group, format!("{:?}", seen.standing), format!("{:?}", known.standing)));
    }
    for (kind, expected, found) in events(&known.events, log, seen).into_iter().chain(texts(known, log, seen, ledger)) {
        findings.push(find(kind, expected, found));
    }
    if seen.standing == Standing::In && !log.made.is_direct {
        findings.extend(group(known, log).map(|(expected, found)| find(Kind::Group, expected, found)));
    }
    findings
}

/// What the witness has of deleted chats: that they are, and nothing else.
pub(crate) fn gone(replica: &Replica, gone: &BTreeMap<u64, u64>) -> Vec<Finding> {
    let wrong = gone.iter().filter_map(|(chat, seq)| {
        let known = replica.chats.get(chat).filter(|known| known.position > 0)?;
        let is_gone = known.standing == Standing::Gone && known.events.keys().eq([seq]);
        let found = || format!("{:?}, {:?}", known.standing, known.events);
        (!is_gone).then(|| Finding::new(Kind::Group, *chat, &replica.id, format!("deleted with seq {seq}"), found()))
    });
    wrong.collect()
}

type Wrong = (Kind, String, String);

/// Each event that the user may see, and no other.
fn events(known: &BTreeMap<u64, Event>, log: &Log, seen: Seen) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for seq in seen.from..=seen.upto {
        match (known.get(&seq), log.event(seq)) {
            (None, _) => wrong.push((Kind::Missing, format!("seq {seq} of {seen:?}"), "nothing".into())),
            (Some(known), Some(event)) if known.is_same(event) => {}
            (Some(known), event) => wrong.push((Kind::Differs, format!("{event:?}"), format!("{known:?}"))),
        }
    }
    let beyond = known.keys().filter(|seq| !(seen.from..=seen.upto).contains(*seq));
    for seq in beyond {
        let kind = if *seq < seen.from { Kind::BeforeJoin } else { Kind::AfterRemoval };
        wrong.push((kind, format!("only {seen:?}"), format!("seq {seq}")));
    }
    wrong
}

/// Each message as it was left: for who is there, now; for who has left, when they did.
fn texts(known: &Chat, log: &Log, seen: Seen, ledger: &Ledger) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for (seq, text) in known.texts() {
        let expected = Text::of(ledger.text(log, seq, seen.upto));
        // docs/protocol.md, `chat`: what was before is still there to read for who has left, but for what was changed later; and
        // `edited`: without its words where a later event has changed the message again, which they don't see.
        let is_said = matches!(text, Text::Said(_));
        let is_hidden = !is_said && log.changes_of(seq).iter().any(|change| *change > seen.upto);
        if text != expected && !is_hidden {
            let about = |event: &&Event| event.seq == seq || event.body.target() == Some(seq);
            let told: Vec<&Event> = known.events.values().filter(about).collect();
            let story = log.story(&crate::log::Asked::Edit(seq));
            wrong.push((
                Kind::Message,
                format!("message {seq}: {expected:?}, of{story}"),
                format!("{text:?} by {told:?}"),
            ));
        }
    }
    wrong
}

/// Title and members.
fn group(known: &Chat, log: &Log) -> Option<(String, String)> {
    let state = log.now();
    let expected: (String, BTreeMap<u64, Role>) =
        (state.title.clone(), state.members.iter().map(|(user, member)| (*user, member.role)).collect());
    (known.group.as_ref() != Some(&expected)).then(|| (format!("{expected:?}"), format!("{:?}", known.group)))
}

/// A page of the log as the server shows it to `user`.
pub(crate) fn page(user: u64, page: &[Event], log: &Log, ledger: &Ledger) -> Vec<Finding> {
    let who = format!("GET messages of user {user}");
    let find = |kind: Kind, expected: String, found: String| Finding::new(kind, log.chat, &who, expected, found);
    let Some(seen) = log.seen_by(user) else { return Vec::new() };
    let first = seen.upto.saturating_sub(page.len() as u64) + 1;
    let mut findings = Vec::new();
    if page.iter().map(|event| event.seq).ne(first..=seen.upto) || first < seen.from {
        let seqs: Vec<u64> = page.iter().map(|event| event.seq).collect();
        findings.push(find(Kind::Missing, format!("the end of {seen:?}"), format!("{seqs:?}")));
    }
    for event in page {
        let same = log.event(event.seq).filter(|known| known.is_same(event));
        if same.is_none() {
            findings.push(find(Kind::Differs, format!("{:?}", log.event(event.seq)), format!("{event:?}")));
        }
        findings.extend(row(event, log, seen, ledger).map(|(expected, found)| find(Kind::Message, expected, found)));
    }
    findings
}

/// "`message`s that are read later are as they are then", and an edit's words are only there where no later event has changed them.
fn row(event: &Event, log: &Log, seen: Seen, ledger: &Ledger) -> Option<(String, String)> {
    let changed_later = |message: u64, seq: u64| log.changes_of(message).iter().any(|change| *change > seq);
    match &event.body {
        Body::Message { text } => {
            let is_hidden = seen.standing == Standing::Left && changed_later(event.seq, seen.upto);
            let expected = ledger.text(log, event.seq, seen.upto).filter(|_| !is_hidden);
            (*text != expected).then(|| (format!("seq {}: {expected:?}", event.seq), format!("{event:?}")))
        }
        Body::Edited { target, text } => {
            let is_hidden = changed_later(*target, event.seq);
            (text.is_none() != is_hidden).then(|| (format!("words: {}", !is_hidden), format!("{event:?}")))
        }
        _ => None,
    }
}
