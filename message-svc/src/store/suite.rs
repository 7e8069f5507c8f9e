//! What every store has to do, as one suite: run against each of them.

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Content, Event, Role, event};
use prost::Message;

use super::{
    BUCKET, ChatOfUser, Creation, CreationKey, DAY_MS, MemberRow, Meta, Opening, Page, Range, Row, SendKey, Store,
    bucket_of,
};
use crate::core::marks::Marks;
use crate::core::sends::Sent;
use crate::core::{Found, Lookup};

const CHAT: ChatId = ChatId(7);
const EVENTS: u64 = 5_000;
/// In the second bucket.
const NEXT: u64 = BUCKET + 1;
const STAMP: i64 = 1;
const MADE: Creation = Creation { chat: CHAT, body_hash: u64::MAX - 7 };
/// An hour before a day's end.
const SENT_AT: i64 = 20_000 * DAY_MS - 3_600_000;

pub(crate) async fn run(store: &impl Store) {
    assert_eq!(store.last_chat().await.expect("read"), 0);
    assert!(store.load(vec![CHAT]).await.expect("read")[0].is_none());
    fill(store).await;
    check(store).await;
    drop_sends(store).await;
}

pub(crate) async fn fill(store: &impl Store) {
    let mut rows = vec![Row::Chat { meta: meta(), roster: None }, Row::Creation { key: direct(), made: MADE }];
    rows.extend([(1, 0), (2, 1)].map(|(user, slot)| Row::Member {
        chat: CHAT,
        kind: ChatKind::Direct,
        member: member(user, slot),
    }));
    rows.push(Row::Member { chat: ChatId(9), kind: ChatKind::Group, member: member(1, 0) });
    rows.push(Row::Marks { chat: CHAT, block: 0, marks: vec![(UserId(2), marks())] });
    rows.extend((1..=EVENTS).map(|seq| Row::Event { chat: CHAT, seq: Seq(seq), epoch: 0, bytes: event(seq) }));
    let sends = (2 * BUCKET).min(EVENTS + 1);
    rows.extend((1..sends).map(|seq| Row::Send { chat: CHAT, key: key(seq), sent: sent(seq) }));
    // Another chat's events lie right behind.
    rows.push(Row::Event { chat: ChatId(8), seq: Seq(1), epoch: 0, bytes: event(1) });
    store.commit(rows, STAMP).await.expect("committed");
}

pub(crate) async fn check(store: &impl Store) {
    assert_eq!(store.last_chat().await.expect("read"), CHAT.0);
    let record = store.load(vec![CHAT]).await.expect("read")[0].clone().expect("the chat");
    assert_eq!((record.meta, record.head, record.count), (meta(), Seq(EVENTS), EVENTS));
    assert_eq!(record.members, [(member(1, 0), Marks::default()), (member(2, 1), marks())]);
    assert_eq!(store.members(CHAT).await.expect("read"), [member(1, 0), member(2, 1)]);
    check_events(store).await;
    check_sends(store).await;
    let chats = store.chats_of(UserId(1), ChatId(0), 10).await.expect("read");
    let of = |chat, kind| ChatOfUser { chat: ChatId(chat), kind };
    assert_eq!(chats, [of(7, ChatKind::Direct), of(9, ChatKind::Group)]);
    assert_eq!(store.chats_of(UserId(1), CHAT, 10).await.expect("read"), [of(9, ChatKind::Group)]);
    assert_eq!(store.creation(direct()).await.expect("read"), Some(MADE));
    let acquainted = store.acquainted(UserId(1), vec![UserId(2), UserId(3)]).await.expect("read");
    assert_eq!(acquainted, [UserId(2)]);
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
    ];
    let pages = store.events(ranges).await.expect("read");
    let page = |seqs: std::ops::Range<u64>, more| Page { events: seqs.map(event).collect(), more };
    assert_eq!(pages[0], page(1..4, false), "from the start");
    assert_eq!(pages[1], page(4_095..4_098, true), "over a bucket's end");
    assert_eq!(pages[2], page(4_095..4_098, true), "the newest below a bound");
    assert_eq!(pages[3], page(0..0, false), "nothing");
    assert_eq!(pages[4], page(11..12, true), "bounded by bytes");
}

async fn check_sends(store: &impl Store) {
    let lookup = |seq: u64, at_ms| lookup_of(seq, at_ms);
    let lookups = [lookup(NEXT, SENT_AT), lookup(5, SENT_AT + DAY_MS), lookup(EVENTS + 1, SENT_AT)];
    let found = store.find_sends(&lookups).await.expect("read");
    assert_eq!(seqs(found), [Some(sent(NEXT)), Some(sent(5)), None]);
}

async fn drop_sends(store: &impl Store) {
    store.commit(vec![Row::DropSends { chat: CHAT, bucket: 0 }], STAMP).await.expect("committed");
    let lookups = [lookup_of(5, SENT_AT), lookup_of(NEXT, SENT_AT)];
    let found = store.find_sends(&lookups).await.expect("read");
    assert_eq!(seqs(found), [None, Some(sent(NEXT))]);
}

fn lookup_of(seq: u64, at_ms: i64) -> Lookup {
    Lookup { chat: CHAT, key: key(seq), at_ms, buckets: vec![bucket_of(Seq(seq))], epoch: 0, head: Seq(EVENTS) }
}

fn seqs(found: Vec<Found>) -> Vec<Option<Sent>> {
    found.into_iter().map(|found| found.sent.first().map(|(sent, _)| *sent)).collect()
}

fn meta() -> Meta {
    Meta {
        chat: CHAT,
        kind: ChatKind::Direct,
        title: "a title".into(),
        created_by: UserId(1),
        created_at_ms: 5,
        openings: vec![Opening { bucket: 0, at_ms: 5 }, Opening { bucket: 1, at_ms: 6 }],
    }
}

fn member(user: u64, slot: u32) -> MemberRow {
    MemberRow { user: UserId(user), slot, role: Role::Member, joined_at_ms: 5, joined_seq: Seq(1) }
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
