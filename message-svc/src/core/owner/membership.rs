//! Who joins a group, leaves it, or is its admin; and its title, and its end. Each is an event of the log, which everyone gets whom it
//! concerns: who is removed, too.

use std::collections::VecDeque;

use confab_ids::{ChatId, UserId};
use confab_proto::message::v1::{ChatKind, Membership, MembershipKind, Role, event};

use super::Owner;
use super::marking::{block_of, count_u32};
use crate::core::chat::{Answer, Author, Chat};
use crate::core::{Change, Command, Effects, Now, Origin, Outcome, What};
use crate::error::ChatError;
use crate::store::{MEMBERS_MAX, MemberRow, Row};

impl Owner {
    pub(super) fn change_group(&mut self, now: Now, id: ChatId, origin: Origin, change: Change, fx: &mut Effects) {
        let alone = self.fence.is_sole();
        let Some(chat) = self.hot(id) else { return };
        let membership = match chat.membership_of(&change) {
            Ok(Some(membership)) => membership,
            Ok(None) => {
                let unchanged = Outcome::Changed { users: Vec::new(), members: chat.ids.len() };
                return fx.replies.push((origin, unchanged));
            }
            Err(error) => return fx.replies.push((origin, Outcome::ChatRefused(error))),
        };
        if !alone && !chat.pending.is_empty() {
            chat.barrier = chat.last;
            return self.wait_in_front(id, origin, Command::Change(change));
        }
        let users = membership.user_ids.iter().copied().map(UserId).collect();
        let place = chat.take_place(now.wall_ms, false);
        let author =
            Author { user: change.by, device: change.device, client_id: String::new(), message_id: change.message_id };
        let mut event = place.event(id, author, event::Body::Membership(membership));
        let before = chat.ids.clone();
        let (changed, gone) = chat.apply(&event);
        chat.dirty_blocks.extend(changed.iter().map(|row| block_of(row.slot as usize)));
        if let Some(event::Body::Membership(membership)) = &mut event.body {
            membership.member_count = count_u32(chat.ids.len());
        }
        let answer = Answer::Now(Outcome::Changed { users, members: chat.ids.len() });
        if alone {
            fx.rows.extend(gone.into_iter().map(|user| Row::DropMember { chat: id, user }));
            fx.rows.extend(list_rows(chat, changed.iter().cloned()));
            fx.rows.push(chat.row(true));
        }
        self.dirty.insert(id);
        self.append(now, id, &event, (origin, answer), fx);
        let Some(chat) = self.hot(id) else { return };
        if let Some(event) = chat.pending.back_mut()
            && before.len() > chat.ids.len()
        {
            // Who has left gets it, too.
            event.to = before;
        }
        if !alone {
            self.write_roster(id, changed);
        }
    }

    /// Where there are other owners, nothing else is under way while the chat's row changes: it, and its members' lists before it,
    /// are written when the event is stored, one after the other, and it counts as durable after that.
    pub(super) fn write_roster(&mut self, id: ChatId, changed: Vec<MemberRow>) {
        let Some(chat) = self.hot(id) else { return };
        chat.roster_seq = chat.last;
        chat.barrier = chat.last;
        let (lists, row) = (list_rows(chat, changed).collect(), vec![chat.row(false)]);
        let then: VecDeque<Vec<Row>> = [lists, row].into_iter().filter(|rows| !rows.is_empty()).collect();
        if let Some(event) = chat.pending.back_mut() {
            event.then = then;
        }
    }
}

impl Chat {
    /// What a change puts into the log; `None`: it is so already.
    fn membership_of(&self, change: &Change) -> Result<Option<Membership>, ChatError> {
        let leaves = matches!(&change.what, What::Remove(users) if users[..] == [change.by]);
        let slot = self.slot(change.by).ok_or(ChatError::NotMember)?;
        let by = &self.members[slot].row;
        let was_there_to_the_end = by.joined_seq == by.left_seq;
        if !by.is_in() {
            // Whoever asks again, for the answer was lost, has what they want.
            let is_so = leaves || matches!(change.what, What::Delete) && was_there_to_the_end;
            return if is_so { Ok(None) } else { Err(ChatError::NotMember) };
        }
        if self.meta.kind != ChatKind::Group {
            return Err(ChatError::DirectIsFixed);
        }
        if by.role != Role::Admin {
            match change.what {
                What::Role(user, Role::Member) if user == change.by => return Ok(None),
                _ if !leaves => return Err(ChatError::NotAdmin),
                _ => {}
            }
        }
        let membership = Membership { chat_kind: ChatKind::Group.into(), ..Membership::default() };
        let of = |kind: MembershipKind, users: Vec<UserId>| {
            let user_ids = users.into_iter().map(|user| user.0).collect();
            Membership { kind: kind.into(), user_ids, ..membership.clone() }
        };
        Ok(match &change.what {
            What::Add(users) => {
                let fresh = each_once(users, |user| self.joined(user).is_none());
                if self.ids.len() + fresh.len() > MEMBERS_MAX {
                    return Err(ChatError::TooManyMembers);
                }
                (!fresh.is_empty()).then(|| of(MembershipKind::Added, fresh))
            }
            What::Remove(users) => {
                let gone = each_once(users, |user| self.joined(user).is_some());
                self.keeps_an_admin(&gone)?;
                (!gone.is_empty()).then(|| of(MembershipKind::Removed, gone))
            }
            What::Role(user, role) => {
                let member = self.joined(*user).ok_or(ChatError::UnknownMember)?;
                if *role == Role::Member && self.ids.len() > 1 {
                    self.keeps_an_admin(&[*user])?;
                }
                let role_changes = member.row.role != *role;
                role_changes.then(|| Membership { role: (*role).into(), ..of(MembershipKind::Role, vec![*user]) })
            }
            What::Rename(title) => {
                let title_changes = self.meta.title != *title;
                title_changes.then(|| Membership { title: title.clone(), ..of(MembershipKind::Renamed, Vec::new()) })
            }
            What::Delete => Some(of(MembershipKind::Deleted, Vec::new())),
        })
    }

    /// Whether those who stay have an admin without these, or nobody stays.
    fn keeps_an_admin(&self, gone: &[UserId]) -> Result<(), ChatError> {
        let mut stay = self.members.iter().filter(|member| member.row.is_in() && !gone.contains(&member.row.user));
        let mut any = stay.clone();
        if any.next().is_some() && !stay.any(|member| member.row.role == Role::Admin) {
            return Err(ChatError::LastAdmin);
        }
        Ok(())
    }

    /// All members' rows, and those of who has left.
    pub(super) fn rows(&self) -> impl Iterator<Item = MemberRow> {
        self.members.iter().map(|member| member.row.clone())
    }
}

/// Those of whom it is so, each once, ascending.
fn each_once(users: &[UserId], is_so: impl Fn(UserId) -> bool) -> Vec<UserId> {
    let mut users: Vec<UserId> = users.iter().copied().filter(|user| is_so(*user)).collect();
    users.sort_unstable();
    users.dedup();
    users
}

/// For the members' lists of chats.
pub(super) fn list_rows(chat: &Chat, members: impl IntoIterator<Item = MemberRow>) -> impl Iterator<Item = Row> {
    let (id, kind) = (chat.id(), chat.meta.kind);
    members.into_iter().map(move |member| Row::Member { chat: id, kind, member })
}
