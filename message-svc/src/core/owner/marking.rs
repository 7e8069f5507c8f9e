//! Watermarks: raised in memory, told as receipts, written in blocks.

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::ChatKind;

use super::{Owner, Slot};
use crate::core::chat::BLOCK;
use crate::core::{Effects, Mark, Now, Origin, Outcome, Payload};
use crate::error::MarkError;
use crate::store::Row;

impl Owner {
    pub(super) fn mark(&mut self, now: Now, id: ChatId, origin: Origin, mark: &Mark, fx: &mut Effects) {
        let Some(chat) = self.hot(id) else { return };
        let Some(slot) = chat.slot(mark.user) else {
            return fx.replies.push((origin, Outcome::MarkRefused(MarkError::NotMember)));
        };
        if mark.delivered.max(mark.read) > chat.head {
            return fx.replies.push((origin, Outcome::MarkRefused(MarkError::BeyondHead(chat.head))));
        }
        let direct = chat.meta.kind == ChatKind::Direct;
        let member = &mut chat.members[slot];
        let before = (member.marks.delivered(), member.marks.read);
        if !member.marks.raise(&mark.device, mark.delivered, mark.read) {
            return;
        }
        let told = direct && before != (member.marks.delivered(), member.marks.read);
        let tell = if told { member.receipts.changed(now.mono_ms) } else { Err(None) };
        chat.dirty_blocks.insert(block_of(slot));
        self.dirty.insert(id);
        match tell {
            Ok(()) => self.publish_receipt(id, mark.user, fx),
            Err(Some(due)) => drop(self.receipts_due.insert((due, id, mark.user))),
            Err(None) => {}
        }
    }

    fn publish_receipt(&mut self, id: ChatId, user: UserId, fx: &mut Effects) {
        let Some(Slot::Hot { chat, .. }) = self.slots.get(&id) else { return };
        let Some(slot) = chat.slot(user) else { return };
        let marks = &chat.members[slot].marks;
        let payload = Payload::Receipt { user, delivered: marks.delivered(), read: marks.read };
        fx.publications.push(self.outbox.publish(id, Seq::ZERO, chat.settled, chat.ids.clone(), payload));
    }

    pub(super) fn publish_due_receipts(&mut self, now: Now, fx: &mut Effects) {
        while let Some((due, id, user)) = self.receipts_due.first().copied()
            && due <= now.mono_ms
        {
            self.receipts_due.pop_first();
            if let Some(member) = self.hot(id).and_then(|chat| chat.member_mut(user)) {
                member.receipts.told(now.mono_ms);
            }
            self.publish_receipt(id, user, fx);
        }
    }

    /// Hands out the rows of all raised watermarks.
    pub(crate) fn write_marks(&mut self, fx: &mut Effects) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(chat) = self.hot(id) else { continue };
            for block in std::mem::take(&mut chat.dirty_blocks) {
                let from = block as usize * BLOCK;
                let to = chat.members.len().min(from + BLOCK);
                let marks = chat.members[from..to].iter().map(|member| (member.user, member.marks.clone())).collect();
                fx.rows.push(Row::Marks { chat: id, block, marks });
            }
        }
    }
}

/// At most [`MEMBERS_MAX`](crate::store::MEMBERS_MAX), so it fits.
pub(super) fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn block_of(slot: usize) -> u32 {
    count_u32(slot / BLOCK)
}
