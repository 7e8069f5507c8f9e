//! A chat by the server's log: who is in it at each of its events, what each user may see of it, and who may do what when.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{Body, Change, Event, Role};
use crate::finding::{Finding, Kind};
use crate::replica::{Marks, Standing};

/// How a chat was made: its first event doesn't name its members.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub by: u64,
    /// With its maker.
    pub members: Vec<u64>,
    pub is_direct: bool,
}

/// What can be asked of a chat, and refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Message,
    /// Of a key that was used for something else.
    Conflict,
    Edit(u64),
    Delete(u64),
    React(u64),
    Mark(u64),
    Add(Vec<u64>),
    Remove(u64),
    Role(u64, Role),
    Rename(String),
    DeleteChat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It becomes an event.
    Event,
    /// It is so already, or takes no seq.
    Nothing,
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub role: Role,
    pub joined: u64,
}

/// A chat after one of its events.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub title: String,
    pub members: BTreeMap<u64, Member>,
    /// Of who has left: what they see, both ends inclusive.
    pub left: BTreeMap<u64, (u64, u64)>,
    /// Everyone who ever was there.
    pub is_gone: bool,
}

/// What a user may see of a chat: up to which event, and from which on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub standing: Standing,
    pub from: u64,
    pub upto: u64,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub chat: u64,
    pub made: Made,
    /// From seq 1 on; messages as they are now.
    pub events: Vec<Event>,
    /// `states[seq]`: after that event.
    states: Vec<Arc<State>>,
    /// By message: the events that have changed its text.
    changes: BTreeMap<u64, Vec<u64>>,
    pub findings: Vec<Finding>,
}

impl Log {
    pub(crate) fn new(chat: u64, made: Made, events: Vec<Event>) -> Self {
        let mut log = Self {
            chat,
            made,
            events: Vec::with_capacity(events.len()),
            states: vec![Arc::default()],
            changes: BTreeMap::new(),
            findings: Vec::new(),
        };
        events.into_iter().for_each(|event| log.push(event));
        log
    }

    pub(crate) fn head(&self) -> u64 {
        self.events.len() as u64
    }

    pub(crate) fn event(&self, seq: u64) -> Option<&Event> {
        self.events.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    fn at(&self, seq: u64) -> &State {
        let at = usize::try_from(seq).unwrap_or(usize::MAX).min(self.states.len() - 1);
        &self.states[at]
    }

    /// As it is now.
    pub(crate) fn now(&self) -> &State {
        self.at(self.head())
    }

    /// Events that changed a message's text, ascending.
    pub(crate) fn changes_of(&self, message: u64) -> &[u64] {
        self.changes.get(&message).map_or(&[], Vec::as_slice)
    }

    fn find(&mut self, kind: Kind, expected: impl Into<String>, found: impl Into<String>) {
        self.findings.push(Finding::new(kind, self.chat, &"the log", expected, found));
    }

    fn push(&mut self, event: Event) {
        let (seq, before) = (self.head() + 1, Arc::clone(&self.states[self.states.len() - 1]));
        if event.seq != seq {
            self.find(Kind::Missing, format!("seq {seq}"), format!("{event:?}"));
        }
        let counted =
            self.events.last().map_or(0, |last| last.n) + u64::from(matches!(event.body, Body::Message { .. }));
        if event.n != counted {
            self.find(Kind::Listed, format!("n of seq {seq}: {counted}"), format!("{event:?}"));
        }
        match asked_of(&event) {
            Some(asked) => {
                let verdict = self.verdict(seq - 1, event.by, &asked);
                if verdict != Verdict::Event {
                    self.find(Kind::Illegal, format!("{verdict:?} for {asked:?}"), format!("{event:?}"));
                }
            }
            None if seq == 1 => {}
            None => self.find(Kind::Illegal, "one first event", format!("{event:?}")),
        }
        let after = match event.change() {
            Some(change) => Arc::new(self.changed(&before, &event, change)),
            None => before,
        };
        if let Body::Chat { members, .. } = event.body
            && members != after.members.len() as u64
        {
            self.find(Kind::Group, format!("{} members with seq {seq}", after.members.len()), format!("{event:?}"));
        }
        if let Body::Edited { target, .. } | Body::Deleted { target } = event.body {
            self.changes.entry(target).or_default().push(seq);
        }
        self.states.push(after);
        self.events.push(event);
    }

    fn changed(&self, before: &State, event: &Event, change: &Change) -> State {
        let (mut state, seq) = (before.clone(), event.seq);
        match change {
            Change::Created { title } => {
                state.title.clone_from(title);
                // A direct chat has no admins.
                let is_admin = |user: u64| user == self.made.by && !self.made.is_direct;
                let role = |user: u64| if is_admin(user) { Role::Admin } else { Role::Member };
                let member = |user: &u64| (*user, Member { role: role(*user), joined: seq });
                state.members = self.made.members.iter().map(member).collect();
            }
            Change::Added(users) => {
                state.members.extend(users.iter().map(|user| (*user, Member { role: Role::Member, joined: seq })));
                state.left.retain(|user, _| !users.contains(user));
            }
            Change::Removed(users) => {
                for user in users {
                    let joined = state.members.remove(user).map_or(seq, |member| member.joined);
                    state.left.insert(*user, (joined, seq));
                }
            }
            Change::Role(users, role) => {
                let of = |(user, _): &(&u64, &mut Member)| users.contains(user);
                state.members.iter_mut().filter(of).for_each(|(_, member)| member.role = *role);
            }
            Change::Renamed(title) => state.title.clone_from(title),
            Change::Deleted => {
                state.is_gone = true;
                let there = std::mem::take(&mut state.members);
                state.left = there.into_keys().map(|user| (user, (seq, seq))).collect();
            }
        }
        state
    }

    /// What becomes of it, if it is asked after the event `seq`: docs/protocol.md.
    pub(crate) fn verdict(&self, seq: u64, by: u64, asked: &Asked) -> Verdict {
        let state = self.at(seq);
        let member = state.members.get(&by);
        let wanted_to_go = matches!(asked, Asked::Remove(user) if *user == by);
        let was_there_to_the_end = *asked == Asked::DeleteChat && state.is_gone && state.left.contains_key(&by);
        if *asked == Asked::Conflict {
            // "…the idempotency key within (sender, device, chat) …; with another body, `CONFLICT`": of who has left, too, for what
            // they have sent is still answered.
            return Verdict::Refused("CONFLICT");
        }
        let Some(member) = member else {
            return match (asked, state.left.get(&by)) {
                // They mark what there was for them.
                (Asked::Mark(at), Some((_, upto))) if at <= upto => Verdict::Nothing,
                (Asked::Mark(_), Some(_)) => Verdict::Refused("NOT_FOUND"),
                // "Removal of who isn't there: 204, too"; of a chat that one was never in there is nothing to say.
                _ if (wanted_to_go || was_there_to_the_end) && self.was_there(seq, by) => Verdict::Nothing,
                _ => Verdict::Refused("NOT_MEMBER"),
            };
        };
        match asked {
            Asked::Message => Verdict::Event,
            Asked::Mark(at) if *at <= seq => Verdict::Nothing,
            Asked::Mark(_) => Verdict::Refused("NOT_FOUND"),
            Asked::Edit(target) | Asked::Delete(target) | Asked::React(target) => {
                let message = self.event(*target).filter(|_| *target <= seq && *target >= member.joined);
                let message = message.filter(|event| matches!(event.body, Body::Message { .. }));
                let Some(message) = message.filter(|_| !self.is_deleted(*target, seq)) else {
                    return Verdict::Refused("NOT_FOUND");
                };
                let is_admin = member.role == Role::Admin;
                match asked {
                    Asked::Edit(_) if message.by != by => Verdict::Refused("FORBIDDEN"),
                    Asked::Delete(_) if message.by != by && !is_admin => Verdict::Refused("FORBIDDEN"),
                    _ => Verdict::Event,
                }
            }
            _ => self.verdict_of_change(state, by, *member, asked),
        }
    }

    fn verdict_of_change(&self, state: &State, by: u64, member: Member, asked: &Asked) -> Verdict {
        let leaves = *asked == Asked::Remove(by);
        let steps_down = *asked == Asked::Role(by, Role::Member);
        if self.made.is_direct {
            return Verdict::Refused("FORBIDDEN");
        }
        if member.role != Role::Admin && !leaves {
            return if steps_down { Verdict::Nothing } else { Verdict::Refused("FORBIDDEN") };
        }
        let becomes = |so_already: bool| if so_already { Verdict::Nothing } else { Verdict::Event };
        let others = || state.members.iter().filter(|(user, _)| **user != subject(asked));
        let without_admin = || others().next().is_some() && others().all(|(_, member)| member.role != Role::Admin);
        match asked {
            Asked::Add(users) => becomes(users.iter().all(|user| state.members.contains_key(user))),
            Asked::Remove(user) if !state.members.contains_key(user) => Verdict::Nothing,
            Asked::Remove(_) if without_admin() => Verdict::Refused("CONFLICT"),
            Asked::Remove(_) => Verdict::Event,
            Asked::Role(user, role) => match state.members.get(user) {
                None => Verdict::Refused("NOT_FOUND"),
                Some(_) if *role == Role::Member && without_admin() => Verdict::Refused("CONFLICT"),
                Some(member) => becomes(member.role == *role),
            },
            Asked::Rename(title) => becomes(state.title == *title),
            _ => Verdict::Event,
        }
    }

    fn was_there(&self, seq: u64, user: u64) -> bool {
        let seqs = 0..=seq;
        seqs.rev().any(|at| self.at(at).members.contains_key(&user) || self.at(at).left.contains_key(&user))
    }

    fn is_deleted(&self, message: u64, seq: u64) -> bool {
        let deletes =
            |at: &u64| *at <= seq && matches!(self.event(*at).map(|event| &event.body), Some(Body::Deleted { .. }));
        self.changes_of(message).iter().any(deletes)
    }

    /// What a user may see now; none: nothing.
    pub(crate) fn seen_by(&self, user: u64) -> Option<Seen> {
        let state = self.now();
        if let Some(member) = state.members.get(&user) {
            return Some(Seen { standing: Standing::In, from: member.joined, upto: self.head() });
        }
        let (from, upto) = *state.left.get(&user)?;
        let standing = if state.is_gone { Standing::Gone } else { Standing::Left };
        Some(Seen { standing, from, upto })
    }

    /// The last message of a user that is not from before they, or `other`, have joined.
    pub(crate) fn last_message_of(&self, user: u64, other: u64) -> Option<u64> {
        let joined = self.now().members.get(&user)?.joined.max(self.now().members.get(&other)?.joined);
        let is_it = |event: &&Event| event.by == user && matches!(event.body, Body::Message { .. });
        self.events.iter().rev().take_while(|event| event.seq >= joined).find(is_it).map(|event| event.seq)
    }

    /// Messages that a user has not read: docs/protocol.md, promise 6.
    pub(crate) fn unread(&self, user: u64, marks: Marks) -> u64 {
        let Some(member) = self.now().members.get(&user) else { return 0 };
        let own = self.events.iter().rev().find(|event| event.by == user && matches!(event.body, Body::Message { .. }));
        let from = marks.read.max(member.joined).max(own.map_or(0, |event| event.seq));
        let n = |seq: u64| self.event(seq).map_or(0, |event| event.n);
        n(self.head()).saturating_sub(n(from))
    }

    /// What may have decided about something that was asked, for who reads of it.
    pub(crate) fn story(&self, asked: &Asked) -> String {
        let target = match asked {
            Asked::Edit(target) | Asked::Delete(target) | Asked::React(target) => *target,
            _ => 0,
        };
        let decides =
            |event: &&Event| event.change().is_some() || event.seq == target || event.body.target() == Some(target);
        let told = |event: &Event| format!("\n      {}: {} by {}", event.seq, event.body, event.by);
        self.events.iter().filter(decides).map(told).collect()
    }

    /// Whether an event is what was asked for.
    pub(crate) fn is_of(&self, seq: u64, asked: &Asked) -> bool {
        self.event(seq).and_then(asked_of).is_some_and(|event| is_of(&event, asked))
    }

    /// Whether something explains that it was answered so, when it was asked after the device had seen `known`.
    pub(crate) fn explains(&self, by: u64, asked: &Asked, known: u64, refused: Option<&str>) -> bool {
        (known..=self.head()).any(|seq| match (self.verdict(seq, by, asked), refused) {
            (Verdict::Refused(code), Some(refused)) => code == refused,
            (Verdict::Nothing, None) => true,
            (Verdict::Event, None) => {
                let next = self.event(seq + 1).filter(|next| next.by == by);
                next.and_then(asked_of).is_some_and(|next| is_of(&next, asked))
            }
            _ => false,
        })
    }
}

/// Whom a change of members is about.
fn subject(asked: &Asked) -> u64 {
    match asked {
        Asked::Remove(user) | Asked::Role(user, _) => *user,
        _ => 0,
    }
}

/// What was asked for, by the event that has come of it.
fn asked_of(event: &Event) -> Option<Asked> {
    Some(match &event.body {
        Body::Message { .. } => Asked::Message,
        Body::Edited { target, .. } => Asked::Edit(*target),
        Body::Deleted { target } => Asked::Delete(*target),
        Body::Reacted { target, .. } => Asked::React(*target),
        Body::Chat { change, .. } => match change {
            Change::Created { .. } => return None,
            Change::Added(users) => Asked::Add(users.clone()),
            Change::Removed(users) => Asked::Remove(users.first().copied().unwrap_or_default()),
            Change::Role(users, role) => Asked::Role(users.first().copied().unwrap_or_default(), *role),
            Change::Renamed(title) => Asked::Rename(title.clone()),
            Change::Deleted => Asked::DeleteChat,
        },
    })
}

/// Whether an event is of what was asked: it adds only those who were not there.
fn is_of(event: &Asked, asked: &Asked) -> bool {
    match (event, asked) {
        (Asked::Add(added), Asked::Add(users)) => added.iter().all(|user| users.contains(user)),
        _ => event == asked,
    }
}
