//! What names a message: edits, deletions and reactions.
//!
//! Each is an event of its own. An edit and a deletion change the message's row, too, so that nobody reads again what was
//! overwritten; and the row of the edit before, which says it as well. Where there are other owners that is done alone, after the
//! event is stored and before it counts: a row that changed for an event that a recovery cuts would stay so. The event carries
//! the rows, so that a recovery can do it again without a look at anything.

use std::collections::VecDeque;

use bytes::Bytes;
use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::{Event, Role};
use prost::Message as _;

use super::{Owner, Slot};
use crate::core::body::{self, Body};
use crate::core::chat::Chat;
use crate::core::ownership::rules::{self, Rule};
use crate::core::{Command, Effects, Now, Origin, Outcome, RowRead, Send};
use crate::error::SendError;
use crate::store::{MemberRow, Row};

/// A message that is changed, or reacted to.
pub(super) struct Target {
    message: Event,
    edit_before: Option<Event>,
}

impl Target {
    /// The rows that a change of it changes, encoded, with their seqs.
    pub(super) fn rows_after(&self, body: &Body, at: Seq) -> Vec<(Seq, Bytes)> {
        let rows = body::rows_after(&self.message, self.edit_before.as_ref(), body, at);
        rows.iter().map(|row| (Seq(row.seq), row.encode_to_vec().into())).collect()
    }
}

/// The event as it is stored.
pub(super) fn with_rows(mut event: Event, changed: &[(Seq, Bytes)]) -> Event {
    let rows = changed.iter().map(|(_, row)| row.clone()).collect();
    match &mut event.body {
        Some(Body::Edit(edit)) => edit.rows = rows,
        Some(Body::Deletion(deletion)) => deletion.rows = rows,
        _ => {}
    }
    event
}

impl Owner {
    /// Takes what names a message, when that is known and nothing else is under way that could change it.
    pub(super) fn change(&mut self, now: Now, id: ChatId, origin: Origin, send: Send, target: Seq, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let sees = |row: &MemberRow| target >= row.joined_seq && target <= chat.head;
        let member = chat.member(send.user).filter(|row| sees(row));
        if member.is_none() && !send.erases {
            return fx.replies.push((origin, Outcome::SendRefused(SendError::UnknownTarget)));
        }
        let is_admin = member.is_some_and(|member| member.role == Role::Admin);
        let is_alone = matches!(send.body, Body::Reaction(_)) || chat.pending.is_empty();
        if !is_alone && rules::holds(Rule::ChangeAlone) {
            chat.barrier = chat.last;
            return self.wait_in_front(id, origin, Command::Send(send));
        }
        let target = match chat.target(target) {
            Ok(target) => target,
            Err(seq) => {
                chat.looking = true;
                fx.row_reads.push(RowRead { chat: id, seq, epoch: chat.certain.epoch });
                return self.wait_in_front(id, origin, Command::Send(send));
            }
        };
        chat.rows_read = Vec::new();
        let is_own = target.message.sender_id == send.user.0;
        let may = match send.body {
            Body::Edit(_) => is_own,
            Body::Deletion(_) => is_own || is_admin,
            _ => true,
        };
        if !body::is_message(&target.message) {
            return fx.replies.push((origin, Outcome::SendRefused(SendError::UnknownTarget)));
        }
        if !may {
            return fx.replies.push((origin, Outcome::SendRefused(SendError::NotYours)));
        }
        self.accept(now, id, origin, send, Some(&target), fx);
    }

    /// An event that was asked for was read; `None`: it is not there, which can't be.
    pub(crate) fn row_read(&mut self, now: Now, read: RowRead, row: Option<Bytes>, fx: &mut Effects) {
        let Some((chat, waits)) = self.awaits_row(read) else { return };
        // Whoever asked may have been refused meanwhile, and what is kept for nobody is old for whoever comes.
        if waits {
            chat.rows_read.push((read.seq, row.unwrap_or_default()));
        } else {
            chat.rows_read = Vec::new();
        }
        self.go_on(now, read.chat, fx);
    }

    /// An event could not be read: what waits for it is refused.
    pub(crate) fn row_unread(&mut self, now: Now, read: RowRead, fx: &mut Effects) {
        let Some((chat, _)) = self.awaits_row(read) else { return };
        chat.rows_read = Vec::new();
        self.refuse_first(read.chat, fx);
        self.go_on(now, read.chat, fx);
    }

    /// The chat of a read that has come to its end, and whether anything waits there. `None`: it was asked before the chat was
    /// last recovered, and may be of another log.
    fn awaits_row(&mut self, read: RowRead) -> Option<(&mut Chat, bool)> {
        let Some(Slot::Hot { chat, waiting }) = self.slots.get_mut(&read.chat) else { return None };
        if !chat.looking || chat.certain.epoch != read.epoch {
            return None;
        }
        chat.looking = false;
        Some((chat, !waiting.is_empty()))
    }

    /// Has the rows written that the event which was appended last has changed.
    pub(super) fn change_rows(&mut self, id: ChatId, changed: Vec<(Seq, Bytes)>, fx: &mut Effects) {
        if changed.is_empty() {
            return;
        }
        let is_sole = self.fence.is_sole();
        let Some(chat) = self.hot(id) else { return };
        let rows = chat.changed_rows(&changed);
        chat.barrier = chat.last;
        chat.changed_at = chat.last;
        let Some(event) = chat.pending.back_mut() else { return };
        event.changed = changed;
        if is_sole || !rules::holds(Rule::ChangeAfterEvent) {
            // All of a commit or nothing, where there is no other owner.
            fx.rows.extend(rows);
        } else {
            event.then = VecDeque::from([rows]);
        }
    }
}

impl Chat {
    /// Rows of events that are others now.
    pub(super) fn changed_rows(&self, changed: &[(Seq, Bytes)]) -> Vec<Row> {
        let (chat, epoch) = (self.id(), self.certain.epoch);
        let row = |(seq, bytes): &(Seq, Bytes)| Row::Event { chat, seq: *seq, epoch, bytes: bytes.clone() };
        changed.iter().map(row).collect()
    }

    /// A message and its edit before, or the seq of what has to be read first.
    fn target(&self, seq: Seq) -> Result<Target, Seq> {
        let message = self.event(seq)?;
        let edit_before = match Seq(message.changed_seq) {
            Seq::ZERO => None,
            before => Some(self.event(before)?),
        };
        Ok(Target { message, edit_before })
    }

    fn event(&self, seq: Seq) -> Result<Event, Seq> {
        let read = self.rows_read.iter().find(|(read, _)| *read == seq).map(|(_, row)| row);
        let row = self.tail.get(self.head, seq).or(read).ok_or(seq)?;
        Ok(Event::decode(&row[..]).unwrap_or_default())
    }
}
