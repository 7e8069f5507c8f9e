//! Which instance of message-svc each command goes to, and what is sent again when that changes; pure and synchronous:
//! commands, replies, streams, shard maps and `now` go in, [`Effects`] come out.
//!
//! A session's sends in a chat go out in their order and at once. When one is refused because the chat has moved or its owner
//! can't serve, when the owner's stream breaks, and when a map names another owner, all that have no answer go out again with a
//! higher generation, before anything newer: the owner refuses what is left of the generations before. Marks have no answer
//! where they succeed, so the highest are kept for a while, and told to each new owner. [`lane`] is one session's part of
//! one chat; [`owners`] the map and the streams.

mod lane;
#[cfg(test)]
mod model_test;
mod owners;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use confab_ids::{ChatId, Shard};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Command, Refused, Reply, Send, WatchShardsResponse, reply};

use lane::{Generations, Lane, MARK, Refusal, Way};
use owners::{NO_STREAM, Owners};

pub(crate) use owners::Stream;

/// Sends without an answer; at the bound no more commands are taken, and connections wait. As many as an edge of 100,000
/// connections takes while an owner among ten is replaced.
const HELD_MAX: usize = 65_536;

/// The same in bytes, as [`weight`] counts them.
const HELD_BYTES_MAX: usize = 128 * 1_024 * 1_024;

/// Chats of all sessions with a command in the last while; beyond it the oldest idle ones are forgotten, a tenth at once.
const LANES_MAX: usize = 262_144;

/// The same of one session, which searches them; beyond it its oldest idle one is forgotten.
const SESSION_LANES_MAX: usize = 64;

/// What is refused like this will do better at another time, or place.
const PASSING: [&str; 2] = [NOT_OWNER, "UNAVAILABLE"];

const NOT_OWNER: &str = "NOT_OWNER";

/// In a mark's call: it is the router's own, and nobody wants to hear of it.
const TOUCH: u64 = 1 << 62;

/// What an input led to.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Each stream's in this order.
    pub commands: Vec<(Stream, Vec<Command>)>,
    /// For the sessions.
    pub replies: Vec<Reply>,
    /// An instance that knows better who owns what, or will.
    pub follow: Option<Arc<str>>,
}

impl Effects {
    fn to(&mut self, stream: Stream) -> &mut Vec<Command> {
        let at = self.commands.iter().position(|(to, _)| *to == stream).unwrap_or_else(|| {
            self.commands.push((stream, Vec::new()));
            self.commands.len() - 1
        });
        &mut self.commands[at].1
    }
}

#[derive(Debug)]
struct Session {
    user: u64,
    device: String,
    /// Chats with a command in the last while.
    lanes: Vec<Lane>,
}

/// Session numbers are the edge's own: nobody can choose them to collide.
type Sessions = HashMap<u64, Session, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug, Default)]
pub(crate) struct Router {
    owners: Owners,
    sessions: Sessions,
    generations: Generations,
    timers: Timers,
    lanes: usize,
    held: Held,
    touches: u64,
}

/// When which lane is looked at, one entry per lane.
#[derive(Debug, Default)]
struct Timers(BTreeSet<(u64, u64, ChatId)>);

impl Timers {
    /// Moves a lane's entry to where it is needed; a late one that comes early is only looked at for nothing.
    fn arm(&mut self, now_ms: u64, session: u64, lane: &mut Lane) {
        let next_ms = lane.next_ms(now_ms);
        if next_ms < lane.due_ms {
            self.disarm(session, lane);
            self.0.insert((next_ms, session, lane.chat));
            lane.due_ms = next_ms;
        }
    }

    fn disarm(&mut self, session: u64, lane: &Lane) {
        if lane.due_ms < u64::MAX {
            self.0.remove(&(lane.due_ms, session, lane.chat));
        }
    }

    fn pop_due(&mut self, now_ms: u64) -> Option<(u64, ChatId)> {
        let (at, session, chat) = self.0.first().copied().filter(|(at, ..)| *at <= now_ms)?;
        self.0.remove(&(at, session, chat));
        Some((session, chat))
    }
}

/// What all lanes hold together.
#[derive(Debug, Default)]
struct Held {
    sends: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, send: &Send) {
        self.sends += 1;
        self.bytes += weight(send);
    }

    fn remove(&mut self, send: &Send) {
        self.sends -= 1;
        self.bytes -= weight(send);
    }
}

/// About what a send takes in memory, bytes.
fn weight(send: &Send) -> usize {
    let content = send.content.as_ref();
    let content =
        content.map_or(0, |content| content.text.len() + content.media_url.len() + 8 * content.mentions.len());
    512 + content + send.edit.as_ref().map_or(0, |edit| edit.text.len())
}

impl Router {
    /// Whether it takes commands.
    pub(crate) fn has_room(&self) -> bool {
        self.held.sends < HELD_MAX && self.held.bytes < HELD_BYTES_MAX
    }

    /// A session's command; its calls rise.
    pub(crate) fn command(&mut self, now_ms: u64, id: u64, call: u64, action: Action, fx: &mut Effects) {
        let (chat, user, device) = match &action {
            Action::Send(send) => (send.chat_id, send.user_id, &send.device),
            Action::Mark(mark) => (mark.chat_id, mark.user_id, &mark.device),
            // Now or never.
            Action::Typing(typing) => {
                let stream = self.owners.stream_of(ChatId(typing.chat_id));
                if stream != NO_STREAM {
                    fx.to(stream).push(lane::command(id, call | MARK, 0, action));
                }
                return;
            }
        };
        let chat = ChatId(chat);
        let session = self.sessions.entry(id).or_insert_with(|| Session {
            user,
            device: device.clone(),
            lanes: Vec::with_capacity(1),
        });
        let at = session.lanes.iter().position(|lane| lane.chat == chat).unwrap_or_else(|| {
            self.lanes += 1;
            self.lanes -= session.make_room(id, &mut self.timers);
            session.lanes.push(Lane::new(chat, &self.generations));
            session.lanes.len() - 1
        });
        let stream = self.owners.stream_of(chat);
        let (lane, way) = session.lane_at(at, now_ms, id, stream);
        match action {
            Action::Send(send) => {
                self.held.add(&send);
                lane.push(&way, call, send, fx);
            }
            Action::Mark(mark) => lane.mark(&way, call | MARK, mark, fx),
            Action::Typing(_) => {}
        }
        self.timers.arm(now_ms, id, lane);
        if self.lanes > LANES_MAX {
            self.forget_idle();
        }
    }

    /// A session has ended: nobody waits for its answers. Its marks stay, as if they had been heard.
    pub(crate) fn closed(&mut self, now_ms: u64, id: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for lane in session.lanes.iter_mut().filter(|lane| !lane.is_idle()) {
            self.touches += 1;
            let gone = lane.take_sends(MARK | TOUCH | self.touches, &mut self.generations);
            gone.iter().for_each(|pending| self.held.remove(&pending.send));
            self.timers.arm(now_ms, id, lane);
        }
    }

    /// An instance has a stream.
    pub(crate) fn connected(&mut self, now_ms: u64, name: &str, stream: Stream, fx: &mut Effects) {
        if let Some(before) = self.owners.stream_to(name) {
            self.lost(now_ms, before, fx);
        }
        self.owners.opened(name, stream);
        for (id, session) in &mut self.sessions {
            for at in 0..session.lanes.len() {
                if self.owners.stream_of(session.lanes[at].chat) == stream {
                    let (lane, way) = session.lane_at(at, now_ms, *id, stream);
                    lane.go(&way, fx);
                }
            }
        }
    }

    /// A stream has ended. What was sent on it is not known to have come, and its instance may come back with nothing in its
    /// memory.
    pub(crate) fn lost(&mut self, now_ms: u64, stream: Stream, fx: &mut Effects) {
        let chats = self.chats().filter(|chat| self.owners.stream_of(*chat) == stream).collect();
        self.owners.closed(stream);
        self.begin_again(now_ms, &chats, false, fx);
    }

    /// Who owns what from now on, unless that is known to be old.
    pub(crate) fn mapped(&mut self, now_ms: u64, map: WatchShardsResponse, fx: &mut Effects) {
        let Some(moved) = self.owners.mapped(map) else { return };
        let has_moved = |chat: &ChatId| moved.get(usize::from(Shard::of_chat(*chat).0)).is_none_or(|moved| *moved);
        let chats = self.chats().filter(has_moved).collect();
        self.begin_again(now_ms, &chats, true, fx);
    }

    fn chats(&self) -> impl Iterator<Item = ChatId> {
        self.sessions.values().flat_map(|session| &session.lanes).map(|lane| lane.chat)
    }

    /// These chats' owners are others, or have forgotten: they are told what has no answer, and the marks. Where there is
    /// neither, a chat is touched, so that its owner recovers it, and publishes how far it goes: what the owner before
    /// had acked and not published reaches its members by that.
    fn begin_again(&mut self, now_ms: u64, chats: &HashSet<ChatId>, at_once: bool, fx: &mut Effects) {
        let mut told = HashSet::new();
        for bare in [false, true] {
            for (id, session) in &mut self.sessions {
                for at in 0..session.lanes.len() {
                    let chat = session.lanes[at].chat;
                    let is_turn = chats.contains(&chat) && session.lanes[at].is_bare() == bare;
                    if !is_turn || bare && told.contains(&chat) {
                        continue;
                    }
                    told.insert(chat);
                    let stream = self.owners.stream_of(chat);
                    let (lane, way) = session.lane_at(at, now_ms, *id, stream);
                    if bare {
                        self.touches += 1;
                        lane.touch(MARK | TOUCH | self.touches);
                    }
                    lane.begin_again(&mut self.generations);
                    if at_once {
                        lane.wait_no_more()
                    } else {
                        lane.back_off(now_ms)
                    }
                    lane.go(&way, fx);
                    self.timers.arm(now_ms, *id, lane);
                }
            }
        }
    }

    /// An instance has answered, on a stream that may be broken meanwhile.
    pub(crate) fn replied(&mut self, now_ms: u64, stream: Stream, reply: Reply, fx: &mut Effects) {
        match &reply.outcome {
            Some(reply::Outcome::Accepted(_)) => self.accepted(reply, fx),
            Some(reply::Outcome::Refused(refused)) => {
                let passes = PASSING.contains(&refused.code.as_str());
                if refused.code == NOT_OWNER {
                    fx.follow = self.owners.name_of(stream);
                }
                if reply.call & MARK == 0 {
                    self.refused(now_ms, stream, passes, reply, fx);
                } else {
                    self.mark_refused(now_ms, passes, reply, fx);
                }
            }
            None => {}
        }
    }

    fn accepted(&mut self, reply: Reply, fx: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&reply.session) else { return };
        if let Some(pending) = session.lanes.iter_mut().find_map(|lane| lane.accepted(reply.call)) {
            self.held.remove(&pending.send);
            fx.replies.push(reply);
        }
    }

    fn refused(&mut self, now_ms: u64, stream: Stream, passes: bool, reply: Reply, fx: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&reply.session) else { return };
        for lane in &mut session.lanes {
            match lane.refused(now_ms, stream, reply.call, passes, &mut self.generations) {
                Refusal::Ignored => {}
                Refusal::Restarted => return self.timers.arm(now_ms, reply.session, lane),
                Refusal::Final(pending) => {
                    self.held.remove(&pending.send);
                    return fx.replies.push(reply);
                }
            }
        }
    }

    fn mark_refused(&mut self, now_ms: u64, passes: bool, reply: Reply, fx: &mut Effects) {
        let mut lanes = self.sessions.get_mut(&reply.session).into_iter().flat_map(|session| &mut session.lanes);
        if let Some(lane) = lanes.find(|lane| lane.is_of_mark(reply.call))
            && lane.mark_refused(now_ms, reply.call, passes)
        {
            return self.timers.arm(now_ms, reply.session, lane);
        }
        // A passing one of a mark that a newer one has taken in: that one is answered, too. Typing is not tried again.
        if !passes && reply.call & TOUCH == 0 {
            fx.replies.push(Reply { call: reply.call & !MARK, ..reply });
        }
    }

    /// Does what is due: what has waited is sent, what is too old is given up, what is idle forgotten.
    pub(crate) fn tick(&mut self, now_ms: u64, fx: &mut Effects) {
        while let Some((id, chat)) = self.timers.pop_due(now_ms) {
            self.look_at(now_ms, id, chat, fx);
        }
    }

    fn look_at(&mut self, now_ms: u64, id: u64, chat: ChatId, fx: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(at) = session.lanes.iter().position(|lane| lane.chat == chat) else { return };
        let stream = self.owners.stream_of(chat);
        let (lane, way) = session.lane_at(at, now_ms, id, stream);
        lane.due_ms = u64::MAX;
        if lane.is_overdue(now_ms) {
            self.touches += 1;
            for pending in lane.take_sends(MARK | TOUCH | self.touches, &mut self.generations) {
                self.held.remove(&pending.send);
                fx.replies.push(given_up(id, pending.call));
            }
        }
        if lane.is_stale(now_ms) {
            session.lanes.swap_remove(at);
            self.lanes -= 1;
            if session.lanes.is_empty() {
                self.sessions.remove(&id);
            }
            return;
        }
        lane.go(&way, fx);
        self.timers.arm(now_ms, id, lane);
    }

    /// Makes room for other lanes, a tenth of them at once, so that it isn't done for each.
    fn forget_idle(&mut self) {
        let lanes = self.sessions.values().flat_map(|session| &session.lanes).filter(|lane| lane.is_idle());
        let mut used: Vec<u64> = lanes.map(Lane::used_ms).collect();
        let tenth = (LANES_MAX / 10).min(used.len());
        let Some(last) = tenth.checked_sub(1) else { return };
        let (_, before, _) = used.select_nth_unstable(last);
        let (before, timers, mut left) = (*before, &mut self.timers, tenth);
        for (id, session) in &mut self.sessions {
            session.lanes.retain(|lane| {
                let goes = left > 0 && lane.is_idle() && lane.used_ms() <= before;
                if goes {
                    left -= 1;
                    timers.disarm(*id, lane);
                }
                !goes
            });
        }
        self.lanes -= tenth - left;
        self.sessions.retain(|_, session| !session.lanes.is_empty());
    }
}

impl Session {
    fn lane_at(&mut self, at: usize, now_ms: u64, session: u64, stream: Stream) -> (&mut Lane, Way<'_>) {
        let way = Way { now_ms, session, user: self.user, device: &self.device, stream };
        (&mut self.lanes[at], way)
    }

    /// Forgets the oldest idle lane, if there are too many; says how many that are.
    fn make_room(&mut self, id: u64, timers: &mut Timers) -> usize {
        if self.lanes.len() < SESSION_LANES_MAX {
            return 0;
        }
        let idle = self.lanes.iter().enumerate().filter(|(_, lane)| lane.is_idle());
        let Some((at, _)) = idle.min_by_key(|(_, lane)| lane.used_ms()) else { return 0 };
        timers.disarm(id, &self.lanes.swap_remove(at));
        1
    }
}

fn given_up(session: u64, call: u64) -> Reply {
    let refused = Refused {
        code: "UNAVAILABLE".to_owned(),
        message: "what became of it is not known: send it again with its client_id".to_owned(),
        field: String::new(),
        retry_after_ms: 1_000,
    };
    Reply { session, call, outcome: Some(reply::Outcome::Refused(refused)) }
}
