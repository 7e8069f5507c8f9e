//! Old events that lose what they say, as `retention_days` has it: their rows are written anew, without it, and the chat's row then
//! says how far that has come.
//!
//! Only rows below the head are changed, which no recovery cuts; and a row that is left as it was is found by the next pass, for the
//! chat's row says so only when they are stored.

use confab_ids::{ChatId, Seq};

use super::Owner;
use super::durable::Commit;
use crate::core::{Command, Effects, Expire, Now, Origin, Outcome};
use crate::store::Row;
use crate::store::recent::Kept;

impl Owner {
    pub(super) fn expire(&mut self, now: Now, id: ChatId, origin: Origin, expire: Expire, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        if !chat.pending.is_empty() {
            // What is under way may name one of them.
            chat.barrier = chat.last;
            return self.wait_in_front(id, origin, Command::Expire(expire));
        }
        let upto = expire.upto.min(chat.head);
        fx.replies.push((origin, Outcome::Expired { upto }));
        if upto <= chat.meta.expired_upto {
            return;
        }
        // Nothing is appended meanwhile.
        chat.opening = true;
        let epoch = chat.certain.epoch;
        let (head, mut rows) = (chat.head, expire.rows);
        rows.retain(|(seq, _)| *seq <= head);
        let row = |(seq, bytes): &(Seq, _)| Row::Event { chat: id, seq: *seq, epoch, bytes: Clone::clone(bytes) };
        let written = rows.iter().map(row).collect();
        self.write(now, id, written, Commit::Expired(id, upto, rows), fx);
    }

    /// The rows are stored: nobody reads what they said before, and the chat's row says so.
    pub(super) fn expired(
        &mut self,
        now: Now,
        id: ChatId,
        upto: Seq,
        rows: Vec<(Seq, bytes::Bytes)>,
        fx: &mut Effects,
    ) {
        let is_sole = self.fence.is_sole();
        let Some(super::Slot::Hot { chat, .. }) = self.slots.get_mut(&id) else { return };
        self.tails.change(&mut chat.tail, chat.head, &rows);
        if !is_sole {
            let epoch = chat.certain.epoch;
            let kept = |(seq, bytes)| Kept { chat: id, epoch, seq, bytes, replaces: true };
            fx.recent.extend(rows.into_iter().map(kept));
        }
        chat.meta.expired_upto = upto;
        let row = chat.row(is_sole);
        self.write(now, id, vec![row], Commit::Bucket(id), fx);
    }
}
