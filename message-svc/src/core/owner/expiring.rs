//! Old events that lose what they say, as `retention_days` has it: their rows are written anew, without it, and the chat's row then
//! says how far that has come.
//!
//! Only rows below the head are changed, which no recovery cuts; and a row that is left as it was is found by the next pass, for the
//! chat's row says so only when they are stored. A recovery has that be true of what it writes again.

use std::collections::BTreeMap;

use bytes::Bytes;
use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::Event;
use prost::Message as _;

use super::durable::Commit;
use super::{Owner, Slot};
use crate::core::body::{as_expired, without_words};
use crate::core::ownership::rules::{self, Rule};
use crate::core::{Command, Effects, Expire, Now, Origin, Outcome};
use crate::error::ChatError;
use crate::store::recent::Kept;

impl Expire {
    /// Of nothing yet, in a log that was read up to the head `as_of` and has expired up to `upto`.
    pub(crate) fn after(upto: Seq, as_of: Seq) -> Self {
        Self { rows: BTreeMap::new(), upto, as_of }
    }

    /// Takes the next event. What it says now was said by its last edit, too, however young that is: where that has to be taken from.
    pub(crate) fn take(&mut self, event: &Event) -> Option<Seq> {
        self.upto = Seq(event.seq);
        let silent = without_words(event)?;
        self.rows.insert(self.upto, silent.encode_to_vec().into());
        (event.changed_seq > event.seq).then_some(Seq(event.changed_seq))
    }

    pub(crate) fn take_edit(&mut self, edit: &Event) {
        let silent = as_expired(edit, self.upto);
        self.rows.extend(silent.map(|silent| (Seq(silent.seq), Bytes::from(silent.encode_to_vec()))));
    }
}

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
        let changed: Vec<(Seq, Bytes)> = expire.rows.into_iter().filter(|(seq, _)| *seq <= chat.head).collect();
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
