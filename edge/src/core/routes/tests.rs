use confab_proto::message::v1::{Accepted, Mark};

use super::lane::{KEPT_MS, SEND_AGE_MAX_MS};
use super::*;

/// A router of the only instance that there is, which has stream 1.
fn router() -> Router {
    let mut router = Router::default();
    router.mapped(0, WatchShardsResponse::default(), &mut Effects::default());
    router.connected(0, "local", 1, &mut Effects::default());
    router
}

fn send(chat_id: u64) -> Action {
    Action::Send(Send { chat_id, user_id: 7, ..Send::default() })
}

fn mark(chat_id: u64, delivered: u64) -> Action {
    Action::Mark(Mark { chat_id, user_id: 7, delivered, ..Mark::default() })
}

fn say(router: &mut Router, now_ms: u64, session: u64, call: u64, action: Action) -> Effects {
    let mut fx = Effects::default();
    router.command(now_ms, session, call, action, &mut fx);
    fx
}

fn tick(router: &mut Router, now_ms: u64) -> Effects {
    let mut fx = Effects::default();
    router.tick(now_ms, &mut fx);
    fx
}

fn refuse(router: &mut Router, now_ms: u64, call: u64, code: &str) -> Effects {
    let refused = Refused { code: code.to_owned(), ..Refused::default() };
    let reply = Reply { session: 1, call, outcome: Some(reply::Outcome::Refused(refused)) };
    let mut fx = Effects::default();
    router.replied(now_ms, 1, reply, &mut fx);
    fx
}

fn accept(router: &mut Router, session: u64, call: u64) {
    let reply = Reply { session, call, outcome: Some(reply::Outcome::Accepted(Accepted::default())) };
    router.replied(0, 1, reply, &mut Effects::default());
}

/// Calls and generations.
fn sent(fx: &Effects) -> Vec<(u64, u32)> {
    let all = fx.commands.iter().flat_map(|(_, commands)| commands);
    all.map(|command| (command.call & !MARK, command.generation)).collect()
}

fn told(fx: &Effects) -> Vec<u64> {
    fx.replies.iter().map(|reply| reply.call).collect()
}

#[test]
fn what_is_refused_waits_and_goes_out_again_before_what_is_newer() {
    let mut router = router();
    assert_eq!(sent(&say(&mut router, 0, 1, 1, send(5))), [(1, 0)]);
    assert_eq!(sent(&say(&mut router, 0, 1, 2, send(5))), [(2, 0)]);
    assert_eq!(told(&refuse(&mut router, 10, 1, "NOT_OWNER")), [0; 0]);
    assert_eq!(sent(&say(&mut router, 20, 1, 3, send(5))), []);
    assert_eq!(sent(&say(&mut router, 20, 1, 4, send(6))), [(4, 1)], "another chat doesn't wait");
    assert_eq!(sent(&tick(&mut router, 59)), []);
    assert_eq!(sent(&tick(&mut router, 60)), [(1, 1), (2, 1), (3, 1)]);
    // It is of the first attempt: the second one is answered, too.
    refuse(&mut router, 70, 2, "NOT_OWNER");
    assert_eq!(sent(&say(&mut router, 70, 1, 5, send(5))), [(5, 1)]);
    refuse(&mut router, 80, 2, "UNAVAILABLE");
    assert_eq!(sent(&tick(&mut router, 179)), [], "it waits longer the second time");
    assert_eq!(sent(&tick(&mut router, 180)), [(1, 2), (2, 2), (3, 2), (5, 2)]);
}

#[test]
fn a_send_that_nobody_takes_is_given_up_with_all_behind_it() {
    let mut router = Router::default();
    say(&mut router, 0, 1, 1, send(5));
    say(&mut router, SEND_AGE_MAX_MS - 1, 1, 2, send(5));
    say(&mut router, SEND_AGE_MAX_MS - 1, 1, 3, send(6));
    assert_eq!(told(&tick(&mut router, SEND_AGE_MAX_MS - 1)), [0; 0]);
    let given_up = tick(&mut router, SEND_AGE_MAX_MS);
    assert_eq!(told(&given_up), [1, 2]);
    let is_told = |reply: &Reply| matches!(&reply.outcome, Some(reply::Outcome::Refused(why)) if why.code == "UNAVAILABLE" && why.retry_after_ms == 1_000);
    assert!(given_up.replies.iter().all(is_told));
    accept(&mut router, 1, 3);
    assert_eq!((router.held.sends, router.held.bytes), (0, 0));
    tick(&mut router, 2 * KEPT_MS);
    assert!(router.sessions.is_empty() && router.timers.0.is_empty());
}

#[test]
fn marks_are_told_again_as_one_and_only_their_final_refusals_are_heard_of() {
    let mut router = router();
    assert_eq!(sent(&say(&mut router, 0, 1, 1, mark(5, 8))), [(1, 0)]);
    say(&mut router, 0, 1, 2, mark(5, 6));
    assert_eq!(told(&refuse(&mut router, 0, MARK | 1, "NOT_OWNER")), [0; 0]);
    assert_eq!(told(&refuse(&mut router, 0, MARK | 2, "NOT_OWNER")), [0; 0]);
    let again = tick(&mut router, 50);
    let Some(Action::Mark(told_again)) = &again.commands[0].1[0].action else { panic!("{again:?}") };
    assert_eq!((sent(&again).len(), told_again.delivered), (1, 8));
    assert_eq!(told(&refuse(&mut router, 60, MARK | 2, "NOT_FOUND")), [2]);
    // The stream breaks: nothing is left of the mark, and the chat is touched.
    router.lost(70, 1, &mut Effects::default());
    router.connected(80, "local", 2, &mut Effects::default());
    let touched = tick(&mut router, 200);
    let call = touched.commands[0].1[0].call;
    assert!(call & TOUCH > 0 && touched.commands[0].0 == 2);
    assert_eq!(told(&refuse(&mut router, 210, call, "NOT_MEMBER")), [0; 0]);
}

#[test]
fn at_the_bound_of_what_is_held_there_is_no_room() {
    let mut router = router();
    for call in 1..=HELD_MAX as u64 {
        assert!(router.has_room());
        say(&mut router, 0, call, 1, send(5));
    }
    assert!(!router.has_room());
    accept(&mut router, 9, 1);
    assert!(router.has_room());
    // Without a stream it is held, and not copied.
    let mut router = Router::default();
    let large = confab_proto::message::v1::Content { text: "x".repeat(HELD_BYTES_MAX), ..Default::default() };
    say(&mut router, 0, 9, 1, Action::Send(Send { chat_id: 5, content: Some(large), ..Send::default() }));
    assert!(!router.has_room());
    router.closed(0, 9);
    assert!(router.has_room());
}

#[test]
fn idle_chats_are_forgotten_at_their_bounds_oldest_first() {
    let mut router = router();
    let chats = SESSION_LANES_MAX as u64 + 1;
    say(&mut router, 0, 1, 1, send(1));
    (2..=chats).for_each(|chat| drop(say(&mut router, chat, 1, chat, mark(chat, 1))));
    let has = |router: &Router, chat| router.sessions[&1].lanes.iter().any(|lane| lane.chat == ChatId(chat));
    assert_eq!((router.lanes, router.timers.0.len()), (SESSION_LANES_MAX, SESSION_LANES_MAX));
    assert!(has(&router, 1) && !has(&router, 2) && has(&router, 3), "the first one waits for an answer");
    let sessions = (LANES_MAX - SESSION_LANES_MAX) as u64;
    (0..=sessions).for_each(|session| drop(say(&mut router, 1_000 + session, 2 + session, 1, mark(1, 1))));
    let left = LANES_MAX + 1 - LANES_MAX / 10;
    assert_eq!((router.lanes, router.timers.0.len()), (left, left));
    assert_eq!(router.sessions.values().map(|session| session.lanes.len()).sum::<usize>(), left);
    assert!(has(&router, 1) && !has(&router, 3));
}
