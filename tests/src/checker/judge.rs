//! The rules, one function each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::report::Report;
use super::{Delivered, Device, GAP_LEAVES, History, Message, Sent, Stream};

/// A chat as the deliveries show it: seq → message, `None` for what isn't one.
type Log<'a> = BTreeMap<u64, Option<&'a Message>>;
type Key<'a> = (&'a Device, u64, &'a str);

pub(super) fn judge(history: &History) -> Report {
    let mut report = Report { seed: history.seed, ..Report::default() };
    for note in &history.notes {
        report.violation(|| note.clone());
    }
    let logs = logs(history, &mut report);
    let acks = acks(history, &mut report);
    let heads = heads(&logs, history);
    for ((chat, device), stream) in &history.streams {
        stream_is_whole(*chat, device, stream, heads.get(chat).copied().unwrap_or(0), &mut report);
    }
    let homes = homes(&logs);
    for sent in &history.sent {
        sent_is_there_once(sent, acks.get(&key(sent)), &homes, &logs, &mut report);
    }
    nothing_unsent(history, &logs, &mut report);
    send_order_holds(history, &acks, &mut report);
    count(history, &acks, &logs, &mut report);
    report
}

fn key(sent: &Sent) -> Key<'_> {
    (&sent.device, sent.chat, &sent.client_id)
}

/// Joins the streams to one log per chat; whoever differs from the first that told a seq is a violation.
fn logs<'a>(history: &'a History, report: &mut Report) -> BTreeMap<u64, Log<'a>> {
    let mut logs: BTreeMap<u64, Log<'a>> = BTreeMap::new();
    for ((chat, device), stream) in &history.streams {
        let log = logs.entry(*chat).or_default();
        for event in stream.all() {
            let told = event.message.as_ref();
            let known = *log.entry(event.seq).or_insert(told);
            if !same_message(known, told) {
                report.violation(|| {
                    format!("chat {chat} seq {}: {device} got {told:?}, another device {known:?}", event.seq)
                });
            }
        }
    }
    logs
}

fn same_message(one: Option<&Message>, other: Option<&Message>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            (&one.message_id, one.sender, one.digest) == (&other.message_id, other.sender, other.digest)
        }
        (None, None) => true,
        _ => false,
    }
}

/// The first ack of each message; later ones must agree and be duplicates.
fn acks<'a>(history: &'a History, report: &mut Report) -> HashMap<Key<'a>, (u64, &'a str)> {
    let mut acks: HashMap<Key<'a>, (u64, &'a str)> = HashMap::new();
    let mut first_hand: BTreeSet<Key<'a>> = BTreeSet::new();
    for ack in &history.acked {
        let key = (&ack.device, ack.chat, ack.client_id.as_str());
        let place = (ack.seq, ack.message_id.as_str());
        let known = *acks.entry(key).or_insert(place);
        if known != place {
            report.violation(|| format!("{key:?} was acked as {known:?} and as {place:?}"));
        }
        if !ack.duplicate && !first_hand.insert(key) {
            report.violation(|| format!("{key:?} was acked twice, the second time not as a duplicate"));
        }
    }
    acks
}

fn heads(logs: &BTreeMap<u64, Log<'_>>, history: &History) -> BTreeMap<u64, u64> {
    let delivered = logs.iter().filter_map(|(chat, log)| Some((*chat, *log.keys().next_back()?)));
    let acked = history.acked.iter().map(|ack| (ack.chat, ack.seq));
    let mut heads = BTreeMap::new();
    for (chat, seq) in delivered.chain(acked) {
        let head = heads.entry(chat).or_insert(seq);
        *head = seq.max(*head);
    }
    heads
}

fn stream_is_whole(chat: u64, device: &Device, stream: &Stream, head: u64, report: &mut Report) {
    let mut last = stream.start;
    let mut seen = BTreeSet::new();
    for Delivered { connection, seq, .. } in &stream.events {
        let at = || format!("chat {chat}: {device} on connection {connection} got seq {seq} after {last}");
        if *seq == last + 1 && !seen.contains(seq) {
            // As it should be.
        } else if seen.contains(seq) {
            report.violation(|| format!("doubled: {}", at()));
        } else if *seq <= last {
            report.violation(|| format!("out of order: {}", at()));
        } else if stream.gaps.contains(&(last + 1, *seq - 1)) {
            // It was told so.
        } else {
            report.violation(|| format!("a hole: {}", at()));
        }
        seen.insert(*seq);
        last = last.max(*seq);
    }
    for (from, to) in &stream.gaps {
        if head < to + GAP_LEAVES {
            report.violation(|| format!("a gap too near: chat {chat}: {device} was told {from} to {to} of {head}"));
        }
    }
    for Delivered { seq, .. } in &stream.fetched {
        if !stream.gaps.iter().any(|(from, to)| (*from..=*to).contains(seq)) {
            report.violation(|| format!("unasked: chat {chat}: {device} got seq {seq} by history"));
        }
        if !seen.insert(*seq) {
            report.violation(|| format!("doubled: chat {chat}: {device} got seq {seq} by history, too"));
        }
    }
    let missing: Vec<u64> = (stream.start + 1..=head).filter(|seq| !seen.contains(seq)).collect();
    if !missing.is_empty() {
        report.violation(|| format!("lost: chat {chat}: {device} never got seqs {}", some_of(&missing)));
    }
}

/// Where each content of a sender is: (chat, sender, digest) → seqs.
fn homes(logs: &BTreeMap<u64, Log<'_>>) -> HashMap<(u64, u64, u64), Vec<u64>> {
    let mut homes: HashMap<(u64, u64, u64), Vec<u64>> = HashMap::new();
    for (chat, log) in logs {
        for (seq, message) in log {
            if let Some(message) = message {
                homes.entry((*chat, message.sender, message.digest)).or_default().push(*seq);
            }
        }
    }
    homes
}

fn sent_is_there_once(
    sent: &Sent,
    ack: Option<&(u64, &str)>,
    homes: &HashMap<(u64, u64, u64), Vec<u64>>,
    logs: &BTreeMap<u64, Log<'_>>,
    report: &mut Report,
) {
    let Sent { device, chat, client_id, digest } = sent;
    let home = homes.get(&(*chat, device.user, *digest)).map_or(&[][..], Vec::as_slice);
    if home.len() > 1 {
        report.violation(|| format!("doubled: chat {chat}: {device}'s {client_id} has the seqs {}", some_of(home)));
    }
    let Some((seq, message_id)) = ack else {
        return;
    };
    match logs.get(chat).and_then(|log| log.get(seq)) {
        None => report.violation(|| format!("lost: chat {chat}: {device}'s {client_id}, acked as seq {seq}, reached nobody")),
        Some(Some(there)) if there.message_id == *message_id && there.digest == *digest => {}
        Some(there) => report.violation(|| {
            format!("chat {chat}: {device}'s {client_id} was acked as seq {seq}, {message_id}, but there is {there:?} (its content is at {home:?})")
        }),
    }
}

/// Every message in a chat was sent, and carries the sender's own `client_id` where it carries one.
fn nothing_unsent(history: &History, logs: &BTreeMap<u64, Log<'_>>, report: &mut Report) {
    let by_content: HashMap<(u64, u64, u64), &Sent> =
        history.sent.iter().map(|sent| ((sent.chat, sent.device.user, sent.digest), sent)).collect();
    for (chat, log) in logs {
        for (seq, message) in log.iter().filter_map(|(seq, message)| Some((seq, (*message)?))) {
            if !by_content.contains_key(&(*chat, message.sender, message.digest)) {
                report.violation(|| format!("chat {chat} seq {seq}: nobody sent {message:?}"));
            }
        }
    }
    for ((chat, device), stream) in &history.streams {
        for message in stream.all().filter_map(|event| event.message.as_ref()) {
            let sent = by_content.get(&(*chat, message.sender, message.digest));
            let (Some(told), Some(sent)) = (&message.client_id, sent) else { continue };
            if *told != sent.client_id || message.sender != device.user {
                report.violation(|| format!("chat {chat}: {device} got {message:?} of the send {}", sent.client_id));
            }
        }
    }
}

fn send_order_holds(history: &History, acks: &HashMap<Key<'_>, (u64, &str)>, report: &mut Report) {
    let mut last: HashMap<(&Device, u64), (u64, &str)> = HashMap::new();
    for sent in &history.sent {
        let Some((seq, _)) = acks.get(&key(sent)) else { continue };
        let (before, earlier) = last.insert((&sent.device, sent.chat), (*seq, &sent.client_id)).unwrap_or((0, ""));
        if *seq <= before {
            report.violation(|| {
                format!(
                    "swapped: chat {}: {} sent {earlier} before {}, but their seqs are {before} and {seq}",
                    sent.chat, sent.device, sent.client_id
                )
            });
        }
    }
}

fn count(history: &History, acks: &HashMap<Key<'_>, (u64, &str)>, logs: &BTreeMap<u64, Log<'_>>, report: &mut Report) {
    let connections: BTreeSet<(&Device, u32)> = history
        .streams
        .iter()
        .flat_map(|((_, device), stream)| stream.events.iter().map(move |event| (device, event.connection)))
        .collect();
    let counts = &mut report.counts;
    counts.sent = history.sent.len();
    counts.acked = acks.len();
    counts.duplicates = history.acked.iter().filter(|ack| ack.duplicate).count();
    counts.deliveries = history.streams.values().map(|stream| stream.all().count()).sum();
    counts.chats = logs.len();
    counts.gaps = history.streams.values().map(|stream| stream.gaps.len()).sum();
    counts.streams = history.streams.len();
    counts.connections = connections.len();
}

fn some_of(seqs: &[u64]) -> String {
    let shown: Vec<String> = seqs.iter().take(5).map(u64::to_string).collect();
    let more = if seqs.len() > shown.len() { format!(" and {} more", seqs.len() - shown.len()) } else { String::new() };
    shown.join(", ") + &more
}
