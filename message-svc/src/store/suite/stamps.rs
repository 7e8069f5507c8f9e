//! Where several owners may write: of two writes to a row the one with the newer timestamp stays, whenever it comes.

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Role};

use super::{key, meta};
use crate::core::Lookup;
use crate::core::marks::Marks;
use crate::core::sends::Sent;
use crate::store::{Certain, Creation, CreationKey, MemberRow, Meta, Roster, Row, SendKey, Store};

/// Whose write it was, in every table. Ordered otherwise than the times are: a store that keeps the greater value fails.
const EARLIER: Writer = Writer { name: "zz", number: 900 };
const LATER: Writer = Writer { name: "aa", number: 3 };
const MIDDLE: Writer = Writer { name: "mm", number: 50 };

/// Whose list of chats has them all.
const LISTED: UserId = UserId(77);

#[derive(Clone, Copy)]
struct Writer {
    name: &'static str,
    number: u64,
}

pub(crate) async fn run(store: &impl Store) {
    // In order; the newer one first; one that comes between two in time, last of all.
    let cases: [&[(Writer, i64)]; 3] = [
        &[(EARLIER, 100), (LATER, 200)],
        &[(LATER, 200), (EARLIER, 100)],
        &[(EARLIER, 100), (LATER, 200), (MIDDLE, 150)],
    ];
    for (chat, writes) in (50..).map(ChatId).zip(cases) {
        for (writer, stamp) in writes {
            store.commit(rows(chat, *writer), *stamp).await.expect("committed");
        }
        check(store, chat, LATER).await;
    }
    late_part(store).await;
    twice_in_one_commit(store).await;
}

/// A late older write of some rows leaves those alone, and fills in others.
async fn late_part(store: &impl Store) {
    let chat = ChatId(60);
    store.commit(vec![event(chat, 1, LATER)], 200).await.expect("committed");
    store.commit(vec![event(chat, 1, EARLIER), event(chat, 2, EARLIER)], 100).await.expect("committed");
    let rows = store.tails(vec![(chat, 0, 10)]).await.expect("read");
    let mut found: Vec<(u64, Bytes)> = rows[0].iter().map(|row| (row.seq.0, row.bytes.clone())).collect();
    found.sort_unstable();
    assert_eq!(found, [(1, Bytes::from(LATER.name)), (2, Bytes::from(EARLIER.name))]);
}

/// Of two writes to a row in one commit, which have one timestamp, the later one counts.
async fn twice_in_one_commit(store: &impl Store) {
    let chat = ChatId(61);
    let both = rows(chat, EARLIER).into_iter().chain(rows(chat, LATER)).collect();
    store.commit(both, 100).await.expect("committed");
    check(store, chat, LATER).await;
}

fn event(chat: ChatId, seq: u64, by: Writer) -> Row {
    Row::Event { chat, seq: Seq(seq), epoch: epoch(by), bytes: Bytes::from(by.name) }
}

fn epoch(by: Writer) -> i64 {
    by.number.cast_signed()
}

/// A row of every table.
fn rows(chat: ChatId, by: Writer) -> Vec<Row> {
    vec![
        event(chat, 5, by),
        Row::Send { chat, key: send_key(), sent: sent(by) },
        Row::Chat { meta: chat_of(chat, by), roster: Some(roster(by)) },
        Row::Member { chat, kind: kind(by), member: MemberRow { user: LISTED, ..member(by) } },
        Row::Creation { key: creation(chat), made: Creation { chat, body_hash: by.number } },
        Row::Marks { chat, block: 0, marks: vec![(UserId(by.number), marks(by))] },
    ]
}

async fn check(store: &impl Store, chat: ChatId, by: Writer) {
    let tail = store.tails(vec![(chat, 0, 10)]).await.expect("read").remove(0);
    assert_eq!(tail.len(), 1);
    assert_eq!((tail[0].epoch, &tail[0].bytes), (epoch(by), &Bytes::from(by.name)), "messages");

    let lookup = Lookup { chat, key: send_key(), at_ms: 0, buckets: vec![0], epoch: 0, head: Seq(5) };
    let found = store.find_sends(&[lookup]).await.expect("read").remove(0);
    assert_eq!(found.sent, [(sent(by), Some(Bytes::from(by.name)))], "sends");

    let record = store.load(vec![chat]).await.expect("read").remove(0).expect("the chat");
    assert_eq!((record.meta, record.roster_seq), (chat_of(chat, by), Seq(by.number)), "chats");
    assert_eq!(record.certain, certain(by), "chats");
    assert_eq!(record.members, [(member(by), marks(by))], "the roster, and watermarks");

    let chats = store.chats_of(LISTED, ChatId(chat.0 - 1), 1).await.expect("read");
    assert_eq!((chats[0].chat, chats[0].kind), (chat, kind(by)), "chats_by_user");
    let made = store.creation(creation(chat)).await.expect("read");
    assert_eq!(made, Some(Creation { chat, body_hash: by.number }), "creations");
}

fn send_key() -> SendKey {
    key(5)
}

/// Of the same seq: the row of `messages` is another's then.
fn sent(by: Writer) -> Sent {
    let message_id = MessageId([u8::try_from(by.number % 200).unwrap_or_default(); 16]);
    Sent { seq: Seq(5), message_id, created_at_ms: epoch(by), body_hash: by.number }
}

fn chat_of(chat: ChatId, by: Writer) -> Meta {
    Meta { chat, title: by.name.into(), ..meta() }
}

fn certain(by: Writer) -> Certain {
    Certain { epoch: by.number.cast_signed(), upto: Seq(by.number), window: 1, stale_upto: Seq(by.number + 1) }
}

fn roster(by: Writer) -> Roster {
    Roster { seq: Seq(by.number), members: [member(by)].into(), certain: certain(by) }
}

fn member(by: Writer) -> MemberRow {
    MemberRow {
        user: UserId(by.number),
        slot: 0,
        role: Role::Member,
        joined_at_ms: 5,
        joined_seq: Seq(1),
        left_seq: Seq::ZERO,
    }
}

fn kind(by: Writer) -> ChatKind {
    if by.number == LATER.number { ChatKind::Direct } else { ChatKind::Group }
}

fn marks(by: Writer) -> Marks {
    Marks { read: Seq(by.number), own: Seq(1), devices: vec![(by.name.into(), Seq(2))] }
}

fn creation(chat: ChatId) -> CreationKey {
    CreationKey::Direct(LISTED, UserId(chat.0))
}
