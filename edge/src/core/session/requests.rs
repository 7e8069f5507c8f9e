//! What a client's frames ask.

use std::collections::BTreeMap;
use std::time::Duration;

use confab_ids::{ChatId, UserId};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Send, Typing};
use uuid::Uuid;

use super::acks::InFlight;
use super::sync::Sync;
use super::{LOG_READS_MAX, Mode, Now, Phase, Session, expiry, too_many};
use crate::auth::{Claims, TokenError};
use crate::core::manners::Consequence;
use crate::core::{Out, Question};
use crate::frames::client::{BadFrame, ClientFrame, Place, Read};
use crate::frames::server::ServerFrame;
use crate::frames::{Close, Code};

/// References of marks and of typing that may yet be refused.
const MARK_REFERENCES_MAX: usize = 32;

impl Session {
    /// A frame.
    pub(crate) fn frame(&mut self, now: Now, read: Read, verify: impl FnOnce(&str) -> Result<Claims, TokenError>) {
        let Read { reference, client_id, trace, frame } = read;
        match frame {
            Ok(ClientFrame::Send(send)) => {
                let message_id = *Uuid::now_v7().as_bytes();
                let seed = self.mode == Mode::Seed;
                if seed {
                    self.own.push_back(message_id);
                    if self.own.len() > 2 * self.bounds.in_flight_max {
                        self.own.pop_front();
                    }
                }
                let client_id = (!send.client_id.is_empty()).then(|| send.client_id.clone());
                let send = Send {
                    user_id: self.user.0,
                    device: self.device.clone(),
                    message_id: message_id.to_vec().into(),
                    ..*send
                };
                let message_id = seed.then_some(message_id);
                let waiting = InFlight { client_id, reference, trace, message_id, accepted: None };
                self.command(Action::Send(send), waiting);
            }
            Ok(ClientFrame::Delivered { chat, at }) => {
                self.confirms_itself = true;
                self.mark(chat, at, false, reference);
            }
            Ok(ClientFrame::Read { chat, at }) => self.mark(chat, at, true, reference),
            Ok(ClientFrame::Sync { positions }) => self.client_sync(now, positions, reference),
            Ok(ClientFrame::History { chat, before, limit }) => {
                self.ask(Question::History { chat, before, limit, reference });
            }
            Ok(ClientFrame::Watch { users }) => self.watch(now, users, reference),
            Ok(ClientFrame::Unwatch { users }) => self.unwatch(now, users, reference.as_deref()),
            Ok(ClientFrame::Typing { chat }) => {
                let typing = Typing { chat_id: chat.0, user_id: self.user.0 };
                self.say_in_passing(Action::Typing(typing), reference);
            }
            Ok(ClientFrame::Ping) => self.reply_with(&ServerFrame::Pong { reference: reference.as_deref() }),
            Ok(ClientFrame::Auth { token }) => self.auth(now, verify(&token), reference.as_deref()),
            Ok(ClientFrame::Presence) => {}
            Err(bad) => self.bad_frame(now, &bad, reference.as_deref(), client_id.as_deref()),
        }
    }

    /// A message that is one too many for its sender; it is not sent.
    pub(crate) fn limited(&mut self, read: &Read, wait: Duration) {
        self.reply_with(&too_many(read, wait));
    }

    /// Answers a frame that can't be followed, and minds its sender's manners.
    pub(crate) fn bad_frame(&mut self, now: Now, bad: &BadFrame, reference: Option<&str>, client_id: Option<&str>) {
        self.error(bad.code, &bad.message, bad.field, client_id, reference, None);
        match self.manners.bad_frame(now.mono_ms) {
            Consequence::None => {}
            Consequence::Warn { pause_until_ms } => {
                self.error(
                    Code::RateLimited,
                    "many bad frames: from now on each takes its time",
                    None,
                    None,
                    None,
                    None,
                );
                self.paused_until_ms = pause_until_ms;
            }
            Consequence::Pause { pause_until_ms } => self.paused_until_ms = pause_until_ms,
            Consequence::Close => self.out.push(Out::Close(Close::TooManyBadFrames)),
        }
    }

    fn auth(&mut self, now: Now, claims: Result<Claims, TokenError>, reference: Option<&str>) {
        match claims {
            Ok(claims) if claims.user != self.user || claims.device != self.device => {
                self.error(
                    Code::Unauthenticated,
                    "the token is another user's or device's",
                    Some("token"),
                    None,
                    reference,
                    None,
                );
                self.out.push(Out::Close(Close::Revoked));
            }
            Ok(claims) => {
                self.expires_ms = expiry(&claims);
                self.reply_with(&ServerFrame::Authed {
                    expires_at: claims.expires_at.saturating_mul(1_000),
                    reference,
                });
            }
            // The token at hand still holds.
            Err(error) => {
                let bad = BadFrame::new(Code::Unauthenticated, Some("token"), error.to_string());
                self.bad_frame(now, &bad, reference, None);
            }
        }
    }

    fn client_sync(&mut self, now: Now, positions: BTreeMap<u64, u64>, reference: Option<String>) {
        let may = matches!(self.mode, Mode::Json | Mode::Proto);
        if !may || self.sync.is_some() || !matches!(self.phase, Phase::Registering | Phase::Waiting) {
            let why = "sync is said once per connection, not in seed mode, and of a long poll when it is opened";
            let bad = BadFrame::new(Code::Conflict, Some("type"), why);
            return self.bad_frame(now, &bad, reference.as_deref(), None);
        }
        self.sync = Some(Box::new(Sync { positions, reference, ..Sync::default() }));
        if self.phase == Phase::Waiting {
            self.begin_sync();
        }
    }

    fn watch(&mut self, now: Now, mut users: Vec<UserId>, reference: Option<String>) {
        users.sort_unstable();
        users.dedup();
        let fresh: Vec<UserId> = users.iter().copied().filter(|user| !self.watched.contains(user)).collect();
        if users.len().max(self.watched.len() + fresh.len()) > self.bounds.watch_max {
            return self.too_many_users(now, reference.as_deref());
        }
        self.watched.extend(&fresh);
        self.ask(Question::Watch { users, fresh, asked: true, reference });
    }

    fn unwatch(&mut self, now: Now, users: Vec<UserId>, reference: Option<&str>) {
        if users.len() > self.bounds.watch_max {
            return self.too_many_users(now, reference);
        }
        self.watched.retain(|user| !users.contains(user));
        self.out.push(Out::Ask(Question::Unwatch { users }));
    }

    fn too_many_users(&mut self, now: Now, reference: Option<&str>) {
        let why = format!("at most {} users are watched", self.bounds.watch_max);
        self.bad_frame(now, &BadFrame::new(Code::TooLarge, Some("user_ids"), why), reference, None);
    }

    pub(super) fn mark(&mut self, chat: ChatId, at: Place, read: bool, reference: Option<String>) {
        let mark = at.mark(chat, self.user, &self.device, read);
        self.say_in_passing(Action::Mark(mark), reference);
    }

    /// What is answered only where it is refused: its `ref` is kept for a while, and not until the answer.
    fn say_in_passing(&mut self, action: Action, reference: Option<String>) {
        self.next_call += 1;
        let call = self.next_call;
        if let Some(reference) = reference {
            self.mark_references.push_back((call, reference));
            if self.mark_references.len() > MARK_REFERENCES_MAX {
                self.mark_references.pop_front();
            }
        }
        self.out.push(Out::Command { call, action });
    }

    fn command(&mut self, action: Action, waiting: InFlight) {
        self.next_call += 1;
        self.in_flight.push((self.next_call, waiting));
        self.out.push(Out::Command { call: self.next_call, action });
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.questions += 1;
        self.out.push(Out::Ask(question));
    }

    /// Asks for a part of a log, when it is its turn.
    pub(super) fn ask_log(&mut self, question: Question) {
        if self.questions < LOG_READS_MAX { self.ask(question) } else { self.reads_waiting.push_back(question) }
    }
}
