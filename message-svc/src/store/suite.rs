//! What every store has to do, as one suite: run against each of them. Where several owners may write, [`stamps`] and
//! [`ledger`] come to it.

pub(crate) mod ledger;
pub(crate) mod stamps;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Content, Event, Role, event};
use prost::Message;

use super::{
    BUCKET, Certain, ChatOfUser, Creation, CreationKey, DAY_MS, MemberRow, Meta, Opening, Page, Range, Roster, Row,
    SendKey, Store, bucket_of,
};
use crate::core::marks::Marks;
use crate::core::recovery::LogRow;
use crate::core::sends::{Sent, hash};
use crate::core::user::{Block, Erasure, QuietHours, UserRecord};
use crate::core::{Found, Lookup};

/// Who writes to a store: what it keeps for them differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// It keeps members as rows and epochs not at all, knows heads, counts and the last chat, and drops keys when told to.
    One,
    /// It keeps members as rosters and rows with their epochs, shows all that it has of a key, and drops keys by itself.
    Many,
}

const CHAT: ChatId = ChatId(7);
const EVENTS: u64 = 5_000;
/// In the second bucket.
const NEXT: u64 = BUCKET + 1;
const STAMP: i64 = 1;
const EPOCH: i64 = 1 << 50;
const MADE: Creation = Creation { chat: CHAT, body_hash: u64::MAX - 7 };
/// An hour before a day's end.
const SENT_AT: i64 = 20_000 * DAY_MS - 3_600_000;

pub(crate) async fn run(store: &impl Store, writers: Writers) {
    assert_eq!(store.last_chat().await.expect("read"), 0);
    assert!(store.load(vec![CHAT]).await.expect("read")[0].is_none());
    assert_eq!(store.creation(direct()).await.expect("read"), None);
    assert!(store.members(CHAT).await.expect("read").is_empty());
    fill(store, writers).await;
    check(store, writers).await;
    drop_sends(store, writers).await;
    leave(store, writers).await;
    users(store).await;
}

pub(crate) async fn fill(store: &impl Store, writers: Writers) {
    let roster = (writers == Writers::Many).then(roster);
    let mut rows = vec![Row::Chat { meta: meta(), roster }, Row::Creation { key: direct(), made: MADE }];
    rows.extend([(1, 0), (2, 1)].map(|(user, slot)| Row::Member {
        chat: CHAT,
        kind: ChatKind::Direct,
        member: member(user, slot),
    }));
    rows.push(Row::Member { chat: ChatId(9), kind: ChatKind::Group, member: member(1, 0) });
    rows.push(Row::Marks { chat: CHAT, block: 0, marks: vec![(UserId(2), marks())] });
    if writers == Writers::Many {
        // A log begins with a row that no client sees.
        rows.push(Row::Event { chat: CHAT, seq: Seq::ZERO, epoch: EPOCH, bytes: Bytes::new() });
    }
    rows.extend((1..=EVENTS).map(|seq| Row::Event { chat: CHAT, seq: Seq(seq), epoch: EPOCH, bytes: event(seq) }));
    let sends = (2 * BUCKET).min(EVENTS + 1);
    rows.extend((1..sends).map(|seq| Row::Send { chat: CHAT, key: key(seq), sent: sent(seq) }));
    // Another chat's events lie right behind.
    rows.push(Row::Event { chat: ChatId(8), seq: Seq(1), epoch: EPOCH, bytes: event(1) });
    store.commit(rows, STAMP).await.expect("committed");
}

pub(crate) async fn check(store: &impl Store, writers: Writers) {
    let one = writers == Writers::One;
    assert_eq!(store.last_chat().await.expect("read"), if one { CHAT.0 } else { 0 });
    let loaded = store.load(vec![ChatId(99), CHAT]).await.expect("read");
    assert!(loaded[0].is_none());
    let record = loaded[1].clone().expect("the chat");
    let end = if one { (Seq(EVENTS), EVENTS, SENT_AT) } else { (Seq::ZERO, 0, 0) };
    assert_eq!((record.head, record.count, record.last_at_ms), end);
    let known = if one { (Seq::ZERO, Certain::default()) } else { (roster().seq, roster().certain) };
    assert_eq!((record.roster_seq, record.certain), known);
    assert_eq!(record.meta, meta());
    assert_eq!(record.members, [(member(1, 0), Marks::default()), (member(2, 1), marks())]);
    assert_eq!(store.members(CHAT).await.expect("read"), [member(1, 0), member(2, 1)]);
    check_events(store).await;
    check_tails(store, writers).await;
    check_sends(store, writers).await;
    let chats = store.chats_of(UserId(1), ChatId(0), 10).await.expect("read");
    let of = |chat, kind| ChatOfUser { chat: ChatId(chat), kind };
    assert_eq!(chats, [of(7, ChatKind::Direct), of(9, ChatKind::Group)]);
    assert_eq!(store.chats_of(UserId(1), CHAT, 10).await.expect("read"), [of(9, ChatKind::Group)]);
    assert_eq!(store.chats_of(UserId(1), ChatId(0), 1).await.expect("read"), [of(7, ChatKind::Direct)]);
    assert_eq!(store.creation(direct()).await.expect("read"), Some(MADE));
    let acquainted = store.acquainted(UserId(1), vec![UserId(2), UserId(3)]).await.expect("read");
    assert_eq!(acquainted, [UserId(2)]);
}

/// What users have set is changed by one after the other, and who changes what is no longer so is told.
async fn users(store: &impl Store) {
    let (ann, ben) = (UserId(1), UserId(2));
    let nothing = UserRecord::default();
    assert_eq!(store.users(vec![ben, ann]).await.expect("read"), [nothing.clone(), nothing.clone()]);
    let quiet = QuietHours { from_minute: 1_320, to_minute: 420, time_zone: "Europe/Berlin".into() };
    let first = UserRecord {
        version: 1,
        hides_last_seen: true,
        hides_preview: true,
        quiet_hours: Some(quiet),
        mutes: BTreeMap::from([(CHAT, 0), (ChatId(9), 77)]),
        blocks: BTreeSet::from([UserId(2), UserId(1 << 40)]),
        erasure: None,
    };
    assert!(store.swap_user(ann, first.clone()).await.expect("written"));
    assert!(!store.swap_user(ann, first.clone()).await.expect("refused"), "another was first");
    assert_eq!(store.users(vec![ben, ann]).await.expect("read"), [nothing, first.clone()]);
    let record = store.load(vec![CHAT]).await.expect("read").remove(0).expect("the chat");
    // Of whoever the other is by now.
    let blocked = record.members.iter().any(|(member, _)| member.user == ben);
    assert_eq!(record.blocks, [Block { by: ann, version: 1, blocked }]);

    assert!(store.erasing().await.expect("read").is_empty());
    let begun = UserRecord { version: 2, erasure: Some(Erasure { asked_at_ms: 5, done_at_ms: 0 }), ..first };
    assert!(store.swap_user(ann, begun.clone()).await.expect("written"));
    assert_eq!(store.erasing().await.expect("read"), [ann]);
    let done = UserRecord { version: 3, erasure: Some(Erasure { asked_at_ms: 5, done_at_ms: 6 }), ..begun };
    assert!(store.swap_user(ann, done.clone()).await.expect("written"));
    assert!(store.erasing().await.expect("read").is_empty());
    assert!(!store.swap_user(ann, UserRecord { version: 5, ..done.clone() }).await.expect("refused"));
    assert_eq!(store.users(vec![ann]).await.expect("read"), [done]);
}

/// Who has left shares the chat no longer, and who comes back does.
async fn leave(store: &impl Store, writers: Writers) {
    let acquainted = async |user, other| store.acquainted(UserId(user), vec![UserId(other)]).await.expect("read");
    for (left, is_in) in [(Seq(8), false), (Seq::ZERO, true)] {
        let second = MemberRow { left_seq: left, ..member(2, 1) };
        let mut rows = vec![Row::Member { chat: CHAT, kind: ChatKind::Direct, member: second.clone() }];
        if writers == Writers::Many {
            let members = [member(1, 0), second.clone()].into();
            rows.push(Row::Chat { meta: meta(), roster: Some(Roster { members, ..roster() }) });
        }
        store.commit(rows, STAMP + if is_in { 3 } else { 2 }).await.expect("committed");
        assert_eq!(store.members(CHAT).await.expect("read"), [member(1, 0), second]);
        for (user, other) in [(1, 2), (2, 1)] {
            assert_eq!(!acquainted(user, other).await.is_empty(), is_in, "{user} and {other}");
        }
        let listed = store.chats_of(UserId(2), ChatId(0), 10).await.expect("read");
        assert_eq!(listed, [ChatOfUser { chat: CHAT, kind: ChatKind::Direct }]);
    }
    if writers == Writers::One {
        // The place of who has left goes to another.
        let later = MemberRow { joined_seq: Seq(9), ..member(5, 1) };
        let row = Row::Member { chat: CHAT, kind: ChatKind::Direct, member: later.clone() };
        store.commit(vec![Row::DropMember { chat: CHAT, user: UserId(2) }, row], STAMP).await.expect("committed");
        assert_eq!(store.members(CHAT).await.expect("read"), [member(1, 0), later]);
    }
}

async fn check_events(store: &impl Store) {
    let range = |after, before, limit, newest| Range {
        chat: CHAT,
        after: Seq(after),
        before: Seq(before),
        limit,
        bytes: 1 << 20,
        newest,
    };
    let small = Range { bytes: 1, ..range(10, 20, 9, false) };
    let ranges = vec![
        range(0, 4, 9, false),
        range(4_094, 9_999, 3, false),
        range(0, 4_098, 3, true),
        range(5, 6, 9, false),
        small,
        range(4_990, u64::MAX, 50, false),
        range(0, u64::MAX, 2, true),
        range(0, 2 * BUCKET, 1_000, true),
        range(BUCKET - 2, 2 * BUCKET, 2, false),
        Range { chat: ChatId(99), ..range(0, u64::MAX, 2, true) },
    ];
    let pages = store.events(ranges).await.expect("read");
    let page = |seqs: std::ops::Range<u64>, more| Page { events: seqs.map(event).collect(), more };
    assert_eq!(pages[0], page(1..4, false), "from the start");
    assert_eq!(pages[1], page(4_095..4_098, true), "over a bucket's end");
    assert_eq!(pages[2], page(4_095..4_098, true), "the newest below a bound");
    assert_eq!(pages[3], page(0..0, false), "nothing");
    assert_eq!(pages[4], page(11..12, true), "bounded by bytes");
    assert_eq!(pages[5], page(4_991..5_001, false), "beyond the log's end");
    assert_eq!(pages[6], page(4_999..5_001, true), "the log's end, wherever it is");
    assert_eq!(pages[7], page(1..2 * BUCKET, false), "down to the start, without seq 0");
    assert_eq!(pages[8], page(BUCKET - 1..BUCKET + 1, true), "full at a bucket's end, and more in the next");
    assert_eq!(pages[9], page(0..0, false), "no chat");
}

async fn check_tails(store: &impl Store, writers: Writers) {
    let (last, limit) = (bucket_of(Seq(EVENTS)), 3);
    let asked = [0, last, last + 1].map(|bucket| (CHAT, bucket, limit)).to_vec();
    let read = store.tails(asked).await.expect("read");
    let epoch = if writers == Writers::One { 0 } else { EPOCH };
    let newest = |end: u64| -> BTreeSet<(u64, i64, Bytes)> {
        (end + 1 - limit as u64..=end).map(|seq| (seq, epoch, event(seq))).collect()
    };
    let row = |row: &LogRow| (row.seq.0, row.epoch, row.bytes.clone());
    let rows = |read: &[LogRow]| read.iter().map(row).collect::<BTreeSet<_>>();
    assert_eq!((rows(&read[0]), rows(&read[1])), (newest(BUCKET - 1), newest(EVENTS)));
    assert!(read[2].is_empty());
    if writers == Writers::Many {
        let read = store.tails(vec![(CHAT, 0, usize::MAX)]).await.expect("read");
        let first = LogRow { seq: Seq::ZERO, epoch: EPOCH, bytes: Bytes::new() };
        assert!(read[0].len() as u64 == BUCKET && read[0].contains(&first), "with seq 0");
    }
}

async fn check_sends(store: &impl Store, writers: Writers) {
    let both = Lookup { buckets: vec![1, 0], ..lookup_of(5, SENT_AT) };
    let lookups = [
        lookup_of(NEXT, SENT_AT),
        lookup_of(5, SENT_AT + DAY_MS),
        Lookup { buckets: vec![0], ..lookup_of(EVENTS + 1, SENT_AT) },
        both,
    ];
    let found = store.find_sends(&lookups).await.expect("read");
    assert_eq!(seqs(&found), [Some(sent(NEXT)), Some(sent(5)), None, Some(sent(5))]);
    for (lookup, found) in lookups.iter().zip(found) {
        match writers {
            Writers::One => assert!(found.of_sender.is_none() && found.sent.iter().all(|(_, row)| row.is_none())),
            Writers::Many => check_found(lookup, found),
        }
    }
}

/// With the log's row, and with the sender's other keys of the same buckets.
fn check_found(lookup: &Lookup, found: Found) {
    for (sent, row) in found.sent {
        assert_eq!(row, Some(event(sent.seq.0)));
    }
    let of_bucket = |bucket: &u32| (u64::from(*bucket) * BUCKET).max(1)..(u64::from(*bucket) + 1) * BUCKET;
    let expected: BTreeSet<u64> = lookup.buckets.iter().flat_map(of_bucket).map(|seq| hash(&key(seq))).collect();
    let hashes: BTreeSet<u64> = found.of_sender.expect("the sender's keys").into_iter().collect();
    assert_eq!(hashes, expected);
}

async fn drop_sends(store: &impl Store, writers: Writers) {
    store.commit(vec![Row::DropSends { chat: CHAT, bucket: 0 }], STAMP + 1).await.expect("committed");
    let lookups = [lookup_of(5, SENT_AT), lookup_of(NEXT, SENT_AT)];
    let found = store.find_sends(&lookups).await.expect("read");
    let dropped = (writers == Writers::Many).then_some(sent(5));
    assert_eq!(seqs(&found), [dropped, Some(sent(NEXT))]);
}

fn lookup_of(seq: u64, at_ms: i64) -> Lookup {
    Lookup { chat: CHAT, key: key(seq), at_ms, buckets: vec![bucket_of(Seq(seq))], epoch: 0, head: Seq(EVENTS) }
}

fn seqs(found: &[Found]) -> Vec<Option<Sent>> {
    found.iter().map(|found| found.sent.first().map(|(sent, _)| *sent)).collect()
}

fn roster() -> Roster {
    Roster {
        seq: Seq(1),
        members: [member(1, 0), member(2, 1)].into(),
        certain: Certain { epoch: 9, upto: Seq(1), window: 5, stale_upto: Seq(3) },
    }
}

fn meta() -> Meta {
    Meta {
        chat: CHAT,
        kind: ChatKind::Direct,
        title: "a title".into(),
        created_by: UserId(1),
        created_at_ms: 5,
        openings: (0..=bucket_of(Seq(EVENTS))).map(|bucket| Opening { bucket, at_ms: 5 }).collect(),
        expired_upto: Seq::ZERO,
    }
}

fn member(user: u64, slot: u32) -> MemberRow {
    MemberRow { user: UserId(user), slot, role: Role::Member, joined_at_ms: 5, joined_seq: Seq(1), left_seq: Seq::ZERO }
}

fn marks() -> Marks {
    Marks { read: Seq(3), own: Seq(2), devices: vec![("a".into(), Seq(4)), ("b".into(), Seq(3))] }
}

fn direct() -> CreationKey {
    CreationKey::Direct(UserId(1), UserId(2))
}

fn client_id(seq: u64) -> String {
    format!("id-{seq}")
}

fn event(seq: u64) -> Bytes {
    let event = Event {
        chat_id: CHAT.0,
        seq,
        count: seq,
        created_at_ms: SENT_AT,
        message_id: Bytes::copy_from_slice(&[1; 16]),
        sender_id: 1,
        device: "phone".into(),
        client_id: client_id(seq),
        body: Some(event::Body::Content(Content::default())),
        ..Event::default()
    };
    Bytes::from(event.encode_to_vec())
}

fn key(seq: u64) -> SendKey {
    SendKey::new(UserId(1), "phone", &client_id(seq), MessageId([0; 16]))
}

fn sent(seq: u64) -> Sent {
    assert!(bucket_of(Seq(seq)) < 2, "two buckets are filled");
    Sent { seq: Seq(seq), message_id: MessageId([1; 16]), created_at_ms: SENT_AT, body_hash: seq }
}
