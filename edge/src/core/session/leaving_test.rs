//! A client that is told to come again is served until its time has come.

use confab_ids::UserId;
use uuid::Uuid;

use super::{Bounds, LEAVE_MS, Mode, Now, Session};
use crate::auth::Claims;
use crate::core::Out;
use crate::frames::Frame;
use crate::frames::server::Limits;
use crate::mailbox::Item;

fn is_closed(out: &[Out]) -> bool {
    out.iter().any(|out| matches!(out, Out::Close(_)))
}

#[test]
fn it_is_told_at_once_and_closed_when_it_has_not_gone_in_time() {
    let claims = Claims { user: UserId(1), device: "d".into(), expires_at: 1 << 40 };
    let limits = Limits { content_bytes: 1, frame_bytes: 1, watch_max: 1, chats_max: 1 };
    let bounds = Bounds { in_flight_max: 10, watch_max: 10, ping_ms: 30_000, silence_ms: 45_000, limits };
    let at = |mono_ms| Now { wall_ms: 0, mono_ms };
    let mut session = Session::new(at(0), Mode::Json, &claims, Uuid::nil(), bounds);
    session.take_out();
    session.item(at(1_000), Item::Reconnect { after_ms: 2_000 });
    let told = session.take_out();
    let says = |out: &Out| matches!(out, Out::Frame(Frame::Text(text)) if text.contains(r#""type":"reconnect","after_ms":2000"#));
    assert!(told.iter().any(says) && !is_closed(&told), "{told:?}");
    let due = 1_000 + 2_000 + LEAVE_MS;
    assert_eq!(session.next_tick_ms(at(1_000)), due);
    session.tick(at(due - 1));
    assert!(!is_closed(&session.take_out()) && session.reads(at(due - 1)), "it is served until then");
    session.tick(at(due));
    assert!(is_closed(&session.take_out()));
}
