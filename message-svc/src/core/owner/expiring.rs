//! Old events that lose what they say, as `retention_days` has it: their rows are written anew, without it, and the chat's row then
//! says how far that has come.
//!
//! Only rows below the head are changed, which no recovery cuts; and a row that is left as it was is found by the next pass, for the
//! chat's row says so only when they are stored. A recovery has that be true of what it writes again.

use bytes::Bytes;
use confab_ids::{ChatId, Seq};

use super::durable::Commit;
use super::{Owner, Slot};
use crate::core::ownership::rules::{self, Rule};
use crate::core::{Command, Effects, Expire, Now, Origin, Outcome};
use crate::error::ChatError;
use crate::store::recent::Kept;

impl Owner {
    pub(super) fn expire(&mut self, now: Now, id: ChatId, origin: Origin, expire: Expire, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        if !chat.pending.is_empty() {
            // What is under way may name one of them.
            chat.barrier = chat.last;
            return self.wait_in_front(id, origin, Command::Expire(expire));
        }
        if chat.changed_at > expire.as_of && rules::holds(Rule::ExpireAsRead) {
            // One of them may be another now: they are to be read again.
            return fx.replies.push((origin, Outcome::ChatRefused(ChatError::Unavailable)));
        }
        let upto = expire.upto.min(chat.head);
        fx.replies.push((origin, Outcome::Expired { upto }));
        if upto <= chat.meta.expired_upto {
            return;
        }
        // Nothing is appended meanwhile.
        chat.opening = true;
        let mut changed = expire.rows;
        changed.retain(|(seq, _)| *seq <= chat.head);
        if changed.is_empty() {
            // Members that came and went, and what was deleted before.
            return self.expired(now, id, upto, changed, fx);
        }
        let rows = chat.changed_rows(&changed);
        self.write(now, id, rows, Commit::Expired(id, upto, changed), fx);
    }

    /// The rows are stored: nobody reads what they said before, and the chat's row says so.
    pub(super) fn expired(&mut self, now: Now, id: ChatId, upto: Seq, changed: Vec<(Seq, Bytes)>, fx: &mut Effects) {
        let is_sole = self.fence.is_sole();
        let Some(Slot::Hot { chat, .. }) = self.slots.get_mut(&id) else { return };
        self.tails.change(&mut chat.tail, chat.head, &changed);
        if !is_sole {
            fx.recent.extend(Kept::in_place(id, chat.certain.epoch, changed));
        }
        chat.meta.expired_upto = upto;
        let row = chat.row(is_sole);
        self.write(now, id, vec![row], Commit::Bucket(id), fx);
    }
}
