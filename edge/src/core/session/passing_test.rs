//! Receipts are published, read and passed on by several ways, of which each may be late: none is told after a later one.

use confab_ids::{ChatId, UserId};
use confab_proto::message::v1::ChatSync;
use uuid::Uuid;

use super::{Bounds, Mode, Now, Session, TIDY_MS};
use crate::auth::{Claims, TokenError};
use crate::core::Out;
use crate::frames::Frame;
use crate::frames::client::read;
use crate::frames::server::{Limits, Marks, ServerFrame};
use crate::mailbox::{Answer, Item, Passing, Subject};

const CHAT: u64 = 7;
const PEER: u64 = 2;

fn receipt(delivered: u64, read: u64) -> Item {
    let frame = ServerFrame::Receipt { chat_id: CHAT, user_id: PEER, delivered, read };
    let passing = Passing { frame: frame.write(Mode::Json.wire()), marks: Marks { delivered, read } };
    Item::Passing(Subject::Receipt(ChatId(CHAT), UserId(PEER)), passing)
}

/// What was told of receipts: `"delivered":…,"read":…`.
fn told(session: &mut Session) -> Vec<String> {
    let receipt = |out| match out {
        Out::Passing(_, Frame::Text(text)) => text.split_once("\"user_id\":2,").map(|(_, marks)| marks.to_owned()),
        _ => None,
    };
    session.take_out().into_iter().filter_map(receipt).collect()
}

#[test]
fn a_receipt_never_goes_back() {
    let claims = Claims { user: UserId(1), device: "d".into(), expires_at: 1 << 40 };
    let limits = Limits { content_bytes: 1, frame_bytes: 1, watch_max: 1, chats_max: 1 };
    let bounds = Bounds { in_flight_max: 10, watch_max: 10, ping_ms: 30_000, silence_ms: 10 * TIDY_MS, limits };
    let at = |mono_ms| Now { wall_ms: 0, mono_ms };
    let mut session = Session::new(at(0), Mode::Json, &claims, Uuid::nil(), bounds);
    session.item(at(0), Item::Tracked);
    session.frame(at(0), read(r#"{"type":"sync","chats":{"7":4}}"#), |_| Err(TokenError::Invalid));
    // It was published before the sync's answer was read, and comes while that is on its way.
    session.item(at(1), receipt(3, 2));
    let chat = ChatSync {
        chat_id: CHAT,
        position: 4,
        head: 4,
        peer: PEER,
        peer_delivered: 4,
        peer_read: 3,
        ..ChatSync::default()
    };
    let synced = Answer::Synced { chats: vec![chat], next: None, known_device: true };
    session.item(at(2), Item::Answer(Box::new(synced)));
    assert_eq!(told(&mut session), [r#""delivered":4,"read":3}"#]);
    // Or after it.
    session.item(at(3), receipt(3, 3));
    session.item(at(4), receipt(4, 4));
    session.item(at(5), receipt(4, 3));
    assert_eq!(told(&mut session), [r#""delivered":4,"read":4}"#]);
    // What is remembered for it is forgotten.
    session.tick(at(3 * TIDY_MS));
    assert!(session.told.is_empty());
}
