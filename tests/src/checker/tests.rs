//! Controls: the checker passes a clean history, and catches each kind of fault put into it.

use super::{Acked, Delivered, Device, GAP_LEAVES, History, Message, Sent, Stream, digest};

const CHAT: u64 = 7;
const MESSAGES: u64 = 6;

fn device(user: u64) -> Device {
    Device { user, name: "default".to_owned() }
}

fn content(seq: u64) -> String {
    format!("content of {seq}")
}

fn event(seq: u64) -> Delivered {
    let message = (seq > 1).then(|| Message {
        message_id: format!("id-{seq}"),
        sender: 1,
        digest: digest(&content(seq)),
        client_id: None,
    });
    Delivered { connection: u32::from(seq > 3), seq, message }
}

fn ack(seq: u64, duplicate: bool) -> Acked {
    Acked {
        device: device(1),
        chat: CHAT,
        client_id: format!("c-{seq}"),
        seq,
        message_id: format!("id-{seq}"),
        duplicate,
    }
}

/// User 1 sends messages 2 to 6; users 1 and 2 get the chat's events 1 to 6. `change` edits user 2's deliveries.
fn history(change: impl FnOnce(&mut Vec<Delivered>)) -> History {
    let mut history = History::new(42);
    for seq in 2..=MESSAGES {
        let (client_id, digest) = (format!("c-{seq}"), digest(&content(seq)));
        history.sent(Sent { device: device(1), chat: CHAT, client_id, digest });
        history.acked(ack(seq, false));
    }
    history.acked(ack(4, true));
    let whole: Vec<Delivered> = (1..=MESSAGES).map(event).collect();
    let mut second = whole.clone();
    change(&mut second);
    for (user, events) in [(1, whole), (2, second)] {
        history.member(CHAT, &device(user), 0);
        for mut event in events {
            if let Some(message) = event.message.as_mut().filter(|_| user == 1) {
                message.client_id = Some(format!("c-{}", event.seq));
            }
            history.delivered(CHAT, &device(user), event);
        }
    }
    history
}

fn assert_caught(history: &History, word: &str) {
    let report = history.judge();
    println!("{report}");
    assert!(report.violations.iter().any(|words| words.contains(word)), "{word:?} is not in {report}");
}

#[test]
fn a_clean_history_passes() {
    let report = history(|_| {}).judge();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts.acked, 5);
    assert_eq!(report.counts.duplicates, 1);
    assert_eq!(report.counts.deliveries, 12);
    assert_eq!(report.counts.connections, 4);
}

#[test]
fn a_lost_message_is_caught() {
    assert_caught(&history(|events| drop(events.pop())), "lost");
    assert_caught(&history(|events| drop(events.remove(3))), "a hole");
    assert_caught(&history(Vec::clear), "lost");
}

/// A chat of [`GAP_LEAVES`] events and some more, of which user 2 got the first, a gap, and the rest; `change` edits its record.
fn far_behind(change: impl FnOnce(&mut Stream)) -> History {
    let plain = |seq| Delivered { connection: 0, seq, message: None };
    let mut behind = Stream { gaps: vec![(2, 4)], ..Stream::default() };
    behind.events = [1].into_iter().chain(5..=GAP_LEAVES + 4).map(plain).collect();
    behind.fetched = [4, 3, 2].map(plain).to_vec();
    change(&mut behind);
    let mut history = History::new(42);
    history.streams.insert((CHAT, device(2)), behind);
    history
}

#[test]
fn a_gap_that_was_said_and_fetched_passes_and_any_other_is_caught() {
    let report = far_behind(|_| {}).judge();
    assert!(report.is_clean() && report.counts.gaps == 1, "{report}");
    assert_caught(&far_behind(|behind| drop(behind.fetched.pop())), "lost");
    assert_caught(&far_behind(|behind| behind.gaps[0] = (2, 3)), "a hole");
    assert_caught(&far_behind(|behind| behind.gaps.clear()), "unasked");
    assert_caught(&far_behind(|behind| behind.fetched.push(behind.events[0].clone())), "doubled");
    assert_caught(&far_behind(|behind| drop(behind.events.pop())), "a gap too near");
}

#[test]
fn a_message_lost_by_all_is_caught() {
    let mut all = History::new(1);
    all.member(CHAT, &device(2), 0);
    for seq in [1, 2] {
        all.delivered(CHAT, &device(2), event(seq));
    }
    let digests = [2, 3].map(|seq| (seq, digest(&content(seq))));
    for (seq, digest) in digests {
        all.sent(Sent { device: device(1), chat: CHAT, client_id: format!("c-{seq}"), digest });
        all.acked(ack(seq, false));
    }
    assert_caught(&all, "reached nobody");
}

#[test]
fn a_doubled_message_is_caught() {
    assert_caught(&history(|events| events.push(event(6))), "doubled");
    assert_caught(&history(|events| events.insert(2, event(2))), "doubled");
}

#[test]
fn a_message_twice_in_the_log_is_caught_acked_or_not() {
    let twice = |seq: u64| {
        let mut again = event(seq);
        again.seq = MESSAGES + 1;
        again
    };
    assert_caught(&history(|events| events.push(twice(4))), "doubled: chat 7: 1/default's c-4 has the seqs 4, 7");
    let mut unacked = history(|events| events.push(twice(4)));
    unacked.acked.retain(|ack| ack.client_id != "c-4");
    assert_caught(&unacked, "doubled: chat 7: 1/default's c-4 has the seqs 4, 7");
}

#[test]
fn an_unacked_message_may_be_there_once_or_not_at_all() {
    let mut there = history(|_| {});
    there.acked.retain(|ack| ack.client_id != "c-6");
    assert!(there.judge().is_clean());
    let mut absent = history(|_| {});
    let (client_id, digest) = ("c-late".to_owned(), digest("never arrived"));
    absent.sent(Sent { device: device(1), chat: CHAT, client_id, digest });
    assert!(absent.judge().is_clean());
}

#[test]
fn a_swapped_message_is_caught() {
    assert_caught(&history(|events| events.swap(3, 4)), "out of order");
    let mut swapped = history(|_| {});
    swapped.sent.swap(1, 2);
    assert_caught(&swapped, "swapped");
}

#[test]
fn a_changed_content_is_caught() {
    let change = |events: &mut Vec<Delivered>| {
        if let Some(message) = events[3].message.as_mut() {
            message.digest = digest("another");
        }
    };
    assert_caught(&history(change), "another device");
}

#[test]
fn an_ack_that_differs_from_the_log_is_caught() {
    let mut wrong_seq = history(|_| {});
    wrong_seq.acked[2].seq = 5;
    assert_caught(&wrong_seq, "was acked as seq 5");
    let mut wrong_id = history(|_| {});
    wrong_id.acked[0].message_id = "other".to_owned();
    assert_caught(&wrong_id, "was acked as seq 2, other");
    let mut twice = history(|_| {});
    twice.acked.push(ack(3, false));
    assert_caught(&twice, "not as a duplicate");
    let mut disagree = history(|_| {});
    disagree.acked.push(Acked { seq: 3, ..ack(4, true) });
    assert_caught(&disagree, "and as (3");
}

#[test]
fn what_nobody_sent_and_a_foreign_client_id_are_caught() {
    let mut unsent = history(|_| {});
    unsent.sent.remove(0);
    assert_caught(&unsent, "nobody sent");
    let leak = |events: &mut Vec<Delivered>| {
        if let Some(message) = events[1].message.as_mut() {
            message.client_id = Some("c-2".to_owned());
        }
    };
    assert_caught(&history(leak), "2/default got");
}

#[test]
fn notes_are_violations_and_only_ten_are_kept_in_words() {
    let mut noted = history(|_| {});
    for number in 0..30 {
        noted.note(format!("note {number}"));
    }
    let report = noted.judge();
    assert_eq!(report.violation_count, 30);
    assert_eq!(report.violations.len(), 10);
}

#[test]
fn records_of_several_clients_join() {
    let mut whole = History::new(42);
    whole.absorb(history(|_| {}));
    assert!(whole.judge().is_clean());
    assert_eq!(whole.acked_count(), 6);
}
