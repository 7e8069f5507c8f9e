use super::*;
use crate::chat::frame;

const NOW: &str = "2026-11-24T12:03:30Z";

fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

fn model() -> Model {
    let settings = Settings { me: 1, chat: 1, zone: TimeZone::UTC, run: "run".to_owned(), seen: true };
    Model::new(settings)
}

/// A model that has opened an empty chat with user 2.
fn live() -> Model {
    let mut model = model();
    hear(&mut model, r#"{"type":"hello","limits":{"watch_max":200}}"#);
    model.connected(Some(vec![1, 2]));
    hear(
        &mut model,
        r#"{"type":"history","chat_id":1,"events":[{"type":"chat","event":"created","chat_id":1,"seq":1,"by":1,"user_ids":[1,2]}],"more":false}"#,
    );
    model
}

fn hear(model: &mut Model, text: &str) -> Vec<String> {
    let incoming = frame::read(text).expect("a frame");
    words(model.frame(incoming, now()))
}

fn type_line(model: &mut Model, line: &str) -> Vec<String> {
    words(model.line(line, now()))
}

/// Effects as one reads them: lines as they are, frames behind an arrow.
fn words(effects: Vec<Effect>) -> Vec<String> {
    effects
        .into_iter()
        .map(|effect| match effect {
            Effect::Show(line) => line.text(),
            Effect::Send(frame) => format!("→ {}", frame.text()),
            Effect::Quit => "quit".to_owned(),
            Effect::Fail(why) => format!("fail: {why}"),
        })
        .collect()
}

fn message(seq: u64, sender: u64, content: &str) -> String {
    format!(
        r#"{{"type":"message","chat_id":1,"sender_id":{sender},"content":"{content}","created_at":"2026-11-24T12:03:04.000Z","seq":{seq}}}"#
    )
}

#[test]
fn the_chat_opens_with_its_end_and_goes_on_from_there() {
    let mut model = model();
    hear(&mut model, r#"{"type":"hello","limits":{"watch_max":200}}"#);
    assert_eq!(
        words(model.connected(Some(vec![1, 2]))),
        [r#"→ {"type":"history","chat_id":1,"limit":20,"ref":"opening"}"#]
    );
    assert!(!model.is_live());
    let history = format!(
        r#"{{"type":"history","chat_id":1,"events":[{},{}],"more":true}}"#,
        message(7, 2, "hello"),
        message(8, 1, "hi")
    );
    assert_eq!(
        hear(&mut model, &history),
        [
            "(/history shows older messages)",
            "12:03 user 2: hello",
            "12:03 you: hi ✓",
            r#"→ {"type":"sync","chats":{"1":8}}"#,
            r#"→ {"type":"watch","user_ids":[2]}"#
        ]
    );
    assert!(model.is_live());
    assert_eq!(hear(&mut model, &message(9, 2, "how are you?")), ["12:03 user 2: how are you?"]);
    assert_eq!(hear(&mut model, &message(9, 2, "how are you?")), Vec::<String>::new(), "once");
}

#[test]
fn ticks_follow_a_message() {
    let mut model = live();
    assert_eq!(
        type_line(&mut model, "hello"),
        ["12:03 you: hello …", r#"→ {"type":"message","chat_id":1,"client_id":"run-1","content":"hello"}"#]
    );
    assert_eq!(model.pending(), 1);
    let ack = r#"{"type":"ack","client_id":"run-1","message_id":"x","chat_id":1,"seq":2,"created_at":"2026-11-24T12:03:31.000Z"}"#;
    assert_eq!(hear(&mut model, ack), ["12:03 you: hello ✓"]);
    assert_eq!(model.pending(), 0);
    let echo = r#"{"type":"message","chat_id":1,"sender_id":1,"content":"hello","client_id":"run-1","created_at":"2026-11-24T12:03:31.000Z","seq":2}"#;
    assert_eq!(hear(&mut model, echo), Vec::<String>::new(), "shown already");
    let receipt = |delivered, read| {
        format!(r#"{{"type":"receipt","chat_id":1,"user_id":2,"delivered":{delivered},"read":{read}}}"#)
    };
    assert_eq!(hear(&mut model, &receipt(2, 1)), ["12:03 you: hello ✓✓"]);
    assert_eq!(hear(&mut model, &receipt(2, 2)), ["12:03 you: hello ✓✓ read"]);
    assert_eq!(hear(&mut model, &receipt(2, 2)), Vec::<String>::new());
}

#[test]
fn a_receipt_that_overtakes_the_ack_counts() {
    let mut model = live();
    type_line(&mut model, "hello");
    hear(&mut model, r#"{"type":"receipt","chat_id":1,"user_id":2,"delivered":2,"read":0}"#);
    let ack = r#"{"type":"ack","client_id":"run-1","message_id":"x","chat_id":1,"seq":2,"created_at":"2026-11-24T12:03:31.000Z"}"#;
    assert_eq!(hear(&mut model, ack), ["12:03 you: hello ✓✓"]);
}

#[test]
fn what_was_not_acked_goes_again_with_the_same_key() {
    let mut model = live();
    type_line(&mut model, "one");
    assert_eq!(
        words(model.disconnected("the connection is lost", Duration::from_millis(2_500))),
        ["the connection is lost; connecting again in 3 s"]
    );
    assert_eq!(
        words(model.disconnected("connection refused", Duration::from_secs(5))),
        Vec::<String>::new(),
        "said once"
    );
    assert_eq!(type_line(&mut model, "two"), ["12:03 you: two …"], "kept for later");
    assert!(model.status().contains("not connected"));
    assert_eq!(
        words(model.connected(None)),
        [
            r#"→ {"type":"sync","chats":{"1":1}}"#,
            r#"→ {"type":"watch","user_ids":[2]}"#,
            r#"→ {"type":"message","chat_id":1,"client_id":"run-1","content":"one"}"#,
            r#"→ {"type":"message","chat_id":1,"client_id":"run-2","content":"two"}"#
        ]
    );
}

#[test]
fn a_sync_that_brings_ones_own_message_is_an_ack() {
    let mut model = live();
    type_line(&mut model, "one");
    model.disconnected("lost", Duration::ZERO);
    model.connected(None);
    let echo = r#"{"type":"message","chat_id":1,"sender_id":1,"content":"one","client_id":"run-1","created_at":"2026-11-24T12:03:31.000Z","seq":2}"#;
    assert_eq!(hear(&mut model, echo), ["12:03 you: one ✓"]);
    assert_eq!(model.pending(), 0);
}

#[test]
fn what_is_shown_is_confirmed_once() {
    let mut model = live();
    assert_eq!(model.confirm().map(|frame| frame.text()).as_deref(), Some(r#"{"type":"read","chat_id":1,"seq":1}"#));
    assert_eq!(model.confirm(), None);
    hear(&mut model, &message(2, 2, "hello"));
    hear(&mut model, &message(3, 2, "hello?"));
    assert_eq!(model.confirm(), Some(ClientFrame::Read { chat_id: 1, seq: 3 }));
    model.settings.seen = false;
    hear(&mut model, &message(4, 2, "in a pipe"));
    assert_eq!(model.confirm(), Some(ClientFrame::Delivered { chat_id: 1, seq: 4 }));
}

#[test]
fn a_busy_server_is_asked_again() {
    let mut model = live();
    type_line(&mut model, "hello");
    let busy = r#"{"type":"error","code":"UNAVAILABLE","message":"busy","client_id":"run-1","retryable":true,"retry_after_ms":500}"#;
    assert_eq!(hear(&mut model, busy), Vec::<String>::new());
    assert_eq!(model.retries(now()), []);
    let later = now().saturating_add(jiff::SignedDuration::from_millis(500)).expect("a time");
    assert_eq!(
        words(model.retries(later)),
        [r#"→ {"type":"message","chat_id":1,"client_id":"run-1","content":"hello"}"#]
    );
    assert_eq!(model.retries(later), [], "once");
}

#[test]
fn a_refused_message_says_why() {
    let mut model = live();
    type_line(&mut model, "hello");
    let refusal = r#"{"type":"error","code":"TOO_LARGE","message":"content is over 16 KiB","field":"content","client_id":"run-1","retryable":false,"retry_after_ms":null}"#;
    assert_eq!(hear(&mut model, refusal), ["12:03 you: hello ✗ not sent", "! content is over 16 KiB (TOO_LARGE)"]);
    assert_eq!(model.pending(), 0);
}

#[test]
fn a_strangers_chat_does_not_open() {
    let mut model = model();
    model.connected(None);
    let refusal = r#"{"type":"error","code":"NOT_MEMBER","message":"not a member","retryable":false,"ref":"opening"}"#;
    assert_eq!(
        hear(&mut model, refusal),
        ["fail: user 1 is not in chat 1, or there is no such chat.\nIn a fresh data folder, users 1 and 2 have chat 1"]
    );
}

#[test]
fn who_comes_and_goes() {
    let mut model = live();
    assert_eq!(hear(&mut model, r#"{"type":"presence","user_id":2,"status":"online"}"#), ["user 2 is online"]);
    assert_eq!(model.status(), "chat 1 · you are user 1 · user 2 online");
    assert_eq!(type_line(&mut model, "/who"), ["user 1: you", "user 2: online"]);
    let gone = r#"{"type":"presence","user_id":2,"status":"offline","last_seen":"2026-11-24T12:00:00.000Z"}"#;
    assert_eq!(hear(&mut model, gone), ["user 2 is offline"]);
    assert_eq!(type_line(&mut model, "/who"), ["user 1: you", "user 2: last seen 12:00"]);
    let added = r#"{"type":"chat","event":"added","chat_id":1,"seq":2,"by":2,"user_ids":[3],"created_at":"2026-11-24T12:03:04.000Z"}"#;
    assert_eq!(hear(&mut model, added), ["12:03 user 2 added user 3", r#"→ {"type":"watch","user_ids":[3]}"#]);
}

#[test]
fn older_messages_come_when_asked_for() {
    let mut model = model();
    model.connected(Some(vec![1, 2]));
    hear(&mut model, &format!(r#"{{"type":"history","chat_id":1,"events":[{}],"more":true}}"#, message(7, 2, "seven")));
    assert_eq!(
        type_line(&mut model, "/history"),
        [r#"→ {"type":"history","chat_id":1,"before":7,"limit":20,"ref":"older"}"#]
    );
    let older = format!(r#"{{"type":"history","chat_id":1,"events":[{}],"more":false}}"#, message(1, 2, "one"));
    assert_eq!(hear(&mut model, &older), ["— earlier —", "12:03 user 2: one", "— now; that was the beginning —"]);
    assert_eq!(type_line(&mut model, "/history"), ["there is nothing older"]);
    assert_eq!(hear(&mut model, &message(8, 2, "eight")), ["12:03 user 2: eight"]);
}

#[test]
fn commands() {
    let mut model = live();
    assert_eq!(type_line(&mut model, "/quit"), ["quit"]);
    assert_eq!(type_line(&mut model, "/dance wildly"), ["! /dance is not a command; /help shows them"]);
    assert_eq!(type_line(&mut model, "  "), Vec::<String>::new());
    assert_eq!(type_line(&mut model, "//etc is a folder")[0], "12:03 you: /etc is a folder …");
    assert_eq!(type_line(&mut model, "/help").len(), 2);
}

#[test]
fn other_chats_are_mentioned_once() {
    let mut model = live();
    let elsewhere = r#"{"type":"message","chat_id":7,"sender_id":2,"content":"psst","created_at":"2026-11-24T12:03:04.000Z","seq":1}"#;
    assert_eq!(hear(&mut model, elsewhere), ["there are messages in chat 7: confab chat --user 1 --chat 7"]);
    assert_eq!(hear(&mut model, elsewhere), Vec::<String>::new());
}

#[test]
fn a_gap_is_told_and_skipped() {
    let mut model = live();
    assert_eq!(
        hear(&mut model, r#"{"type":"gap","chat_id":1,"from":2,"to":900}"#),
        ["899 older ones are left out: /history"]
    );
    assert_eq!(hear(&mut model, &message(901, 2, "hello")), ["12:03 user 2: hello"]);
    assert_eq!(
        type_line(&mut model, "/history"),
        [r#"→ {"type":"history","chat_id":1,"before":901,"limit":20,"ref":"older"}"#]
    );
}
