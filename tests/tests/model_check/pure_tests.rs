//! The model by itself: what a replica finds wrong with frames, and what a log lets whom do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::event::{Event, Role};
use crate::finding::Kind;
use crate::log::{Asked, Log, Made, Verdict};
use crate::replica::{Id, Replica};

const CHAT: u64 = 7;
const ME: u64 = 1;

fn message(seq: u64, by: u64, n: u64) -> Value {
    let id = format!("id {seq}");
    json!({"type": "message", "chat_id": CHAT, "seq": seq, "n": n, "message_id": id, "sender_id": by, "content": "x"})
}

fn chat(seq: u64, event: &str, more: &Value) -> Value {
    let mut frame = json!({"type": "chat", "event": event, "chat_id": CHAT, "seq": seq, "n": 0, "by": 2});
    (frame["message_id"], frame["title"], frame["members"]) = (json!(format!("id {seq}")), json!("a group"), json!(2));
    for (name, value) in more.as_object().into_iter().flatten() {
        frame[name] = value.clone();
    }
    frame
}

fn found(frames: &[Value]) -> Vec<Kind> {
    let mut replica = Replica::new(Id { user: ME, device: "phone".to_owned() });
    frames.iter().for_each(|frame| replica.take(frame));
    replica.take_findings().into_iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_replica_finds_holes_doubles_and_what_is_not_its_users_to_see() {
    let created = chat(1, "created", &json!({}));
    let removed = chat(3, "removed", &json!({"user_ids": [ME]}));
    let added = chat(9, "added", &json!({"user_ids": [ME]}));
    let (two, four) = (message(2, 2, 1), message(4, 2, 2));
    assert_eq!(found(&[created.clone(), two.clone(), removed.clone(), added.clone(), message(10, 2, 2)]), []);
    assert_eq!(found(&[created.clone(), two.clone(), four.clone()]), [Kind::Missing]);
    assert_eq!(found(&[created.clone(), two.clone(), two.clone()]), [Kind::Twice]);
    assert_eq!(found(&[created.clone(), two.clone(), removed.clone(), four]), [Kind::AfterRemoval]);
    assert_eq!(found(&[created.clone(), two.clone(), removed, added, two.clone()]), [Kind::BeforeJoin]);
    let told = |delivered: u64, read: u64| json!({"type": "receipt", "chat_id": CHAT, "user_id": 2, "delivered": delivered, "read": read});
    assert_eq!(found(&[created.clone(), told(4, 2), told(5, 2)]), []);
    assert_eq!(found(&[created.clone(), told(4, 2), told(5, 1)]), [Kind::ReceiptWentBack]);
    let synced = json!({"type": "synced", "chats": {"7": 5}});
    assert_eq!(found(&[created, two, synced]), [Kind::Missing]);
}

#[test]
fn a_replica_reads_back_until_it_has_all() {
    let mut replica = Replica::new(Id { user: ME, device: "phone".to_owned() });
    replica.take(&message(5, 2, 3));
    let lacks = |replica: &Replica| replica.chats[&CHAT].lacks_before();
    assert_eq!(lacks(&replica), Some(5));
    let page = |events: Value, more: bool| json!({"type": "history", "chat_id": CHAT, "events": events, "more": more, "ref": "back"});
    replica.take(&page(json!([message(4, 2, 2)]), true));
    assert_eq!(lacks(&replica), Some(4));
    replica.take(&page(json!([]), false));
    assert_eq!(lacks(&replica), None);
    assert_eq!(replica.take_findings(), []);
}

#[test]
fn a_log_says_who_may_do_what_when() {
    let edited =
        json!({"type": "edited", "chat_id": CHAT, "seq": 3, "n": 1, "message_id": "id 3", "user_id": ME, "target": 2});
    let frames = [
        chat(1, "created", &json!({})),
        message(2, ME, 1),
        edited,
        chat(4, "removed", &json!({"n": 1, "members": 1, "user_ids": [ME]})),
    ];
    let made = Made { by: 2, members: vec![ME, 2], is_direct: false };
    let log = Log::new(CHAT, made, frames.iter().map(|frame| Event::read(frame).unwrap()).collect());
    assert_eq!(log.findings, []);
    assert_eq!(log.verdict(3, ME, &Asked::Edit(2)), Verdict::Event);
    assert_eq!(log.verdict(3, 2, &Asked::Edit(2)), Verdict::Refused("FORBIDDEN"));
    assert_eq!(log.verdict(3, 2, &Asked::Delete(2)), Verdict::Event, "an admin");
    assert_eq!(log.verdict(1, ME, &Asked::Edit(2)), Verdict::Refused("NOT_FOUND"));
    assert_eq!(log.verdict(3, ME, &Asked::Rename("x".into())), Verdict::Refused("FORBIDDEN"));
    assert_eq!(log.verdict(3, 2, &Asked::Remove(2)), Verdict::Refused("CONFLICT"), "the last admin");
    assert_eq!(log.verdict(4, ME, &Asked::Message), Verdict::Refused("NOT_MEMBER"));
    assert!(log.explains(ME, &Asked::Message, 3, Some("NOT_MEMBER")));
    assert!(!log.explains(ME, &Asked::Message, 3, Some("FORBIDDEN")));
    assert_eq!(log.now().members.keys().copied().collect::<Vec<_>>(), [2]);
    let roles: BTreeMap<u64, Role> = log.now().members.iter().map(|(user, member)| (*user, member.role)).collect();
    assert_eq!(roles, BTreeMap::from([(2, Role::Admin)]));
}
