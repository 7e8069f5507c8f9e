//! What an event of a chat's log makes of its members. A member has a place, for their watermarks are kept by it: who leaves keeps it,
//! and who comes back has it again.

use confab_ids::{Seq, UserId};
use confab_proto::message::v1::{Event, Membership, MembershipKind, Role, event};

use crate::store::MemberRow;

/// Where so many have left, who joins gets the place of the one who left longest ago. So a chat has twice as many places at most
/// as it may have members.
const LEFT_MAX: usize = if cfg!(test) { 2 } else { 1_000 };

/// What an event changes of the chat, beside its log.
pub(crate) fn membership(event: &Event) -> Option<&Membership> {
    match &event.body {
        Some(event::Body::Membership(membership)) => Some(membership),
        _ => None,
    }
}

/// Changes the members as an event says that came after all others; in these places. Those who are there with a chat's first event
/// are not its to name.
pub(crate) fn apply(members: &mut Vec<MemberRow>, event: &Event) -> Vec<usize> {
    let Some(membership) = membership(event) else { return Vec::new() };
    let (seq, users) = (Seq(event.seq), membership.user_ids.iter().copied().map(UserId));
    match membership.kind() {
        MembershipKind::Added => users.map(|user| join(members, user, seq, event.created_at_ms)).collect(),
        MembershipKind::Removed => change(members, users, |member| {
            member.left_seq = seq;
            member.role = Role::Member;
        }),
        MembershipKind::Role => change(members, users, |member| member.role = membership.role()),
        MembershipKind::Deleted => {
            // Who had left before sees nothing any more: for them it ends before it begins.
            for member in members.iter_mut() {
                member.joined_seq = seq;
                member.role = Role::Member;
                if member.is_in() {
                    member.left_seq = seq;
                }
            }
            (0..members.len()).collect()
        }
        MembershipKind::Created | MembershipKind::Renamed | MembershipKind::Unspecified => Vec::new(),
    }
}

fn slot_of(members: &[MemberRow], user: UserId) -> Option<usize> {
    members.iter().position(|member| member.user == user)
}

/// Those of the users who have a place; gives out which.
fn change(members: &mut [MemberRow], users: impl Iterator<Item = UserId>, how: impl Fn(&mut MemberRow)) -> Vec<usize> {
    let changed: Vec<usize> = users.filter_map(|user| slot_of(members, user)).collect();
    changed.iter().for_each(|slot| how(&mut members[*slot]));
    changed
}

fn join(members: &mut Vec<MemberRow>, user: UserId, seq: Seq, at_ms: i64) -> usize {
    let slot = slot_of(members, user).unwrap_or_else(|| free(members));
    let place = u32::try_from(slot).unwrap_or(u32::MAX);
    let member =
        MemberRow { user, slot: place, role: Role::Member, joined_at_ms: at_ms, joined_seq: seq, left_seq: Seq::ZERO };
    match members.get_mut(slot) {
        Some(before) => *before = member,
        None => members.push(member),
    }
    slot
}

/// The place for who has none: behind all, or that of who left longest ago.
fn free(members: &[MemberRow]) -> usize {
    let left = members.iter().filter(|member| !member.is_in());
    if left.clone().count() < LEFT_MAX {
        return members.len();
    }
    let longest_ago = left.min_by_key(|member| (member.left_seq, member.slot));
    longest_ago.map_or(members.len(), |member| member.slot as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, kind: MembershipKind, users: &[u64], role: Role) -> Event {
        let membership =
            Membership { kind: kind.into(), user_ids: users.to_vec(), role: role.into(), ..Membership::default() };
        Event { seq, created_at_ms: 7, body: Some(event::Body::Membership(membership)), ..Event::default() }
    }

    /// User, joined and left of each place.
    fn places(members: &[MemberRow]) -> Vec<(u64, u64, u64)> {
        members.iter().map(|member| (member.user.0, member.joined_seq.0, member.left_seq.0)).collect()
    }

    #[test]
    fn who_comes_back_has_their_place_again_and_is_no_admin() {
        let mut members = Vec::new();
        assert_eq!(apply(&mut members, &event(2, MembershipKind::Added, &[5, 6], Role::Unspecified)), [0, 1]);
        assert_eq!(apply(&mut members, &event(3, MembershipKind::Role, &[6], Role::Admin)), [1]);
        assert_eq!(members[1].role, Role::Admin);
        assert_eq!(apply(&mut members, &event(4, MembershipKind::Removed, &[6, 99], Role::Unspecified)), [1]);
        assert_eq!(places(&members), [(5, 2, 0), (6, 2, 4)]);
        assert_eq!(apply(&mut members, &event(9, MembershipKind::Added, &[6], Role::Unspecified)), [1]);
        assert_eq!(places(&members), [(5, 2, 0), (6, 9, 0)]);
        assert_eq!(members[1].role, Role::Member);
    }

    #[test]
    fn places_of_who_left_longest_ago_are_given_away_where_many_have_left() {
        let mut members = Vec::new();
        apply(&mut members, &event(2, MembershipKind::Added, &[1, 2, 3], Role::Unspecified));
        apply(&mut members, &event(3, MembershipKind::Removed, &[2], Role::Unspecified));
        assert_eq!(apply(&mut members, &event(4, MembershipKind::Added, &[4], Role::Unspecified)), [3]);
        apply(&mut members, &event(5, MembershipKind::Removed, &[1], Role::Unspecified));
        assert_eq!(apply(&mut members, &event(6, MembershipKind::Added, &[5, 6], Role::Unspecified)), [1, 4]);
        assert_eq!(places(&members), [(1, 2, 5), (5, 6, 0), (3, 2, 0), (4, 4, 0), (6, 6, 0)]);
        assert!(members.iter().zip(0..).all(|(member, slot)| member.slot == slot));
    }

    #[test]
    fn of_a_deleted_chat_everyone_sees_that_alone() {
        let mut members = Vec::new();
        apply(&mut members, &event(2, MembershipKind::Added, &[1, 2], Role::Unspecified));
        apply(&mut members, &event(3, MembershipKind::Removed, &[2], Role::Unspecified));
        assert_eq!(apply(&mut members, &event(4, MembershipKind::Deleted, &[], Role::Unspecified)), [0, 1]);
        assert_eq!(places(&members), [(1, 4, 4), (2, 4, 3)], "who had left before sees nothing at all");
    }
}
