//! Watermarks: raised in memory, told as receipts, written in blocks. And who is typing, which is told and not kept.

use std::sync::Arc;

use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::ChatKind;

use super::{Owner, Slot};
use crate::core::chat::{BLOCK, Chat, Member};
use crate::core::marks::Marks;
use crate::core::{Count, Counts, Effects, Mark, Now, Origin, Outcome, Payload};
use crate::error::MarkError;
use crate::store::Row;

/// In a chat with more members receipts are numbers, not names.
const NAMED_MAX: usize = 32;

/// In the place of a member: all of a chat's.
const ALL: UserId = UserId(0);

/// How long a member's further typing is not passed on, milliseconds.
const TYPING_EVERY_MS: u64 = 3_000;

impl Owner {
    /// Answers what passes: a call always, a stream only where it is refused.
    pub(super) fn passed(origin: Origin, result: Result<(), MarkError>, fx: &mut Effects) {
        match (result, origin) {
            (Ok(()), Origin::Stream { .. }) => {}
            (Ok(()), Origin::Call(_)) => fx.replies.push((origin, Outcome::Marked)),
            (Err(error), _) => fx.replies.push((origin, Outcome::MarkRefused(error))),
        }
    }

    pub(super) fn mark(&mut self, now: Now, id: ChatId, mark: &Mark, fx: &mut Effects) -> Result<(), MarkError> {
        let chat = self.hot(id).ok_or(MarkError::Unavailable)?;
        let slot = chat.slot(mark.user).ok_or(MarkError::NotMember)?;
        // Who has left marks what there still was for them, or they would get it again and again.
        let is_in = chat.members[slot].row.is_in();
        let head = chat.members[slot].row.sees_upto(chat.head);
        if mark.delivered.max(mark.read) > head {
            return Err(MarkError::BeyondHead(head));
        }
        let named = chat.ids.len() <= NAMED_MAX;
        let member = &mut chat.members[slot];
        let before = (member.marks.delivered(), member.marks.read);
        let is_new_device = member.marks.confirmed(&mark.device).is_none();
        if !member.marks.raise(&mark.device, mark.delivered, mark.read) {
            return Ok(());
        }
        let after = (member.marks.delivered(), member.marks.read);
        // What was read while there seemed to be one device alone was told to nobody.
        let is_news = before.1 < after.1 || is_new_device && after.1 > Seq::ZERO;
        let for_own_devices = is_news && member.marks.devices.len() > 1;
        let any_other = |is_concerned: &dyn Fn(Seq) -> bool| {
            let mut others = chat.members.iter().filter(|other| other.row.user != mark.user && other.row.is_in());
            others.any(|other| is_concerned(other.marks.own))
        };
        // A clock that starts for nobody would hold up the first receipt that concerns somebody.
        let rises = is_in && before != after;
        let named_concerns = rises && named && (chat.meta.kind == ChatKind::Direct || any_other(&|own| own > before.1));
        let counts =
            rises && !named && (chat.counts.is_scheduled() || any_other(&|own| own > Seq::ZERO && own <= after.0));
        let member = &mut chat.members[slot];
        let tell = if named_concerns || for_own_devices { member.receipts.changed(now.mono_ms) } else { Err(None) };
        let count = if counts { chat.counts.changed(now.mono_ms) } else { Err(None) };
        chat.dirty_blocks.insert(block_of(slot));
        self.dirty.insert(id);
        for (tell, whose) in [(tell, mark.user), (count, ALL)] {
            match tell {
                Ok(()) => self.publish_receipt(id, whose, fx),
                Err(Some(due)) => drop(self.receipts_due.insert((due, id, whose))),
                Err(None) => {}
            }
        }
        Ok(())
    }

    /// Tells the others, if it is not too soon after the last time.
    pub(super) fn typing(&mut self, now: Now, id: ChatId, user: UserId, fx: &mut Effects) -> Result<(), MarkError> {
        let chat = self.hot(id).ok_or(MarkError::Unavailable)?;
        let member = chat.member_mut(user).filter(|member| member.row.is_in()).ok_or(MarkError::NotMember)?;
        if now.mono_ms < member.typing_again_ms {
            return Ok(());
        }
        member.typing_again_ms = now.mono_ms + TYPING_EVERY_MS;
        if chat.ids.len() < 2 || chat.is_blocked_by_one() {
            return Ok(());
        }
        let others = chat.ids.iter().copied().filter(|other| *other != user.0).collect();
        let settled = chat.settled;
        fx.publications.push(self.outbox.publish(id, Seq::ZERO, settled, others, Payload::Typing(user)));
        Ok(())
    }

    /// One member's watermarks, or how many have got what.
    fn publish_receipt(&mut self, id: ChatId, user: UserId, fx: &mut Effects) {
        let Some(Slot::Hot { chat, .. }) = self.slots.get_mut(&id) else { return };
        let (to, payload) = if user == ALL {
            let Some(counts) = chat.counts_to_tell() else { return };
            (counts.of.iter().map(|count| count.user.0).collect(), Payload::Counts(counts))
        } else {
            let Some(told) = chat.receipt_to_tell(user) else { return };
            told
        };
        fx.publications.push(self.outbox.publish(id, Seq::ZERO, chat.settled, to, payload));
    }

    pub(super) fn publish_due_receipts(&mut self, now: Now, fx: &mut Effects) {
        while let Some((due, id, user)) = self.receipts_due.first().copied()
            && due <= now.mono_ms
        {
            self.receipts_due.pop_first();
            let Some(chat) = self.hot(id) else { continue };
            let clock = if user == ALL {
                Some(&mut chat.counts)
            } else {
                chat.member_mut(user).map(|member| &mut member.receipts)
            };
            if let Some(clock) = clock {
                clock.told(now.mono_ms);
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
                let marks =
                    chat.members[from..to].iter().map(|member| (member.row.user, member.marks.clone())).collect();
                fx.rows.push(Row::Marks { chat: id, block, marks });
            }
        }
    }
}

impl Chat {
    /// A member's watermarks, to whoever's last message lies above what was told as read, for they may newly cover something of
    /// theirs; and to the member's own devices. `None`: it concerns nobody.
    fn receipt_to_tell(&mut self, user: UserId) -> Option<(Arc<[u64]>, Payload)> {
        let is_direct = self.meta.kind == ChatKind::Direct;
        let is_named = self.ids.len() <= NAMED_MAX;
        let member = self.member_mut(user).filter(|member| member.row.is_in())?;
        let (delivered, read) = (member.marks.delivered(), member.marks.read);
        let before = std::mem::replace(&mut member.told, read);
        // Whose last message was told as read before has nothing that is newly covered.
        let concerns =
            |other: &Member| other.row.user != user && other.row.is_in() && is_named && other.marks.own > before;
        let others = self.members.iter().filter(|other| concerns(other)).map(|other| other.row.user.0);
        let to: Arc<[u64]> = match is_direct {
            true if self.is_blocked_by_one() => Arc::from([user.0]),
            true => self.ids.clone(),
            false => others.chain([user.0]).collect(),
        };
        let payload = Payload::Receipt { user, delivered, read };
        (to.len() > 1 || read > before).then_some((to, payload))
    }

    /// For each sender whose numbers are others than were told: how many have got their last message, and read it; those who
    /// joined after it, too.
    fn counts_to_tell(&mut self) -> Option<Counts> {
        let sorted = |of: fn(&Marks) -> Seq| {
            let there = self.members.iter().filter(|member| member.row.is_in());
            let mut seqs: Vec<Seq> = there.map(|member| of(&member.marks)).collect();
            seqs.sort_unstable();
            seqs
        };
        let (delivered, read) = (sorted(Marks::delivered), sorted(|marks| marks.read));
        let at_least = |seqs: &[Seq], seq: Seq| seqs.len() - seqs.partition_point(|other| *other < seq);
        let members = self.ids.len();
        let mut of = Vec::new();
        let sent = |member: &&mut Member| member.row.is_in() && member.marks.own > Seq::ZERO;
        for member in self.members.iter_mut().filter(sent) {
            let (user, seq) = (member.row.user, member.marks.own);
            // Not the sender, whatever they say of their own.
            let others = |seqs: &[Seq], own: Seq| count_u32(at_least(seqs, seq) - usize::from(own >= seq));
            let delivered_by = others(&delivered, member.marks.delivered());
            let read_by = others(&read, member.marks.read);
            let count = Count { user, seq, delivered_by, read_by };
            if delivered_by > 0 && member.counted != Some(count) {
                member.counted = Some(count);
                of.push(count);
            }
        }
        (!of.is_empty()).then(|| Counts { of: of.into(), members: count_u32(members) })
    }
}

/// At most [`MEMBERS_MAX`](crate::store::MEMBERS_MAX), so it fits.
pub(super) fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn block_of(slot: usize) -> u32 {
    count_u32(slot / BLOCK)
}
