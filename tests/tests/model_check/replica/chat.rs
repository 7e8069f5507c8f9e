//! One chat as a device has it.

use std::collections::BTreeMap;

use crate::event::{Body, Change, Event, Role};
use crate::finding::Kind;

/// A user's watermarks in a chat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub delivered: u64,
    pub read: u64,
}

impl Marks {
    pub(crate) fn max(self, other: Self) -> Self {
        Self { delivered: self.delivered.max(other.delivered), read: self.read.max(other.read) }
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Said(String),
    Deleted,
    /// An edit was told without its words: a later event has changed the message again, and says how.
    Outdated,
}

impl Text {
    pub(crate) fn of(text: Option<String>) -> Self {
        text.map_or(Self::Deleted, Self::Said)
    }
}

/// Whether the device's user is in the chat, as far as the device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    In,
    /// They left, or were removed; what was before is still there to read.
    Left,
    /// The chat is deleted; nothing of it is there to read.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Chat {
    pub events: BTreeMap<u64, Event>,
    /// The last seq of those that came in order.
    pub position: u64,
    pub standing: Standing,
    /// By user, what frames have told; and what the server has said when it was asked, which may be of after frames that are yet to
    /// be read.
    pub receipts: BTreeMap<u64, Marks>,
    pub asked: BTreeMap<u64, Marks>,
    /// Title and members, once the server was asked for them: the first events don't name all.
    pub group: Option<(String, BTreeMap<u64, Role>)>,
    /// The first event that the user sees, once it is known.
    joined: Option<u64>,
    /// Nothing but receipts has come.
    unseen: bool,
}

/// What is wrong, and what was expected.
type Wrong = (Kind, String);

impl Chat {
    pub(super) fn unseen() -> Self {
        Self { unseen: true, ..Self::beginning_after(0) }
    }

    pub(super) fn beginning_after(position: u64) -> Self {
        Self {
            events: BTreeMap::new(),
            position,
            standing: Standing::In,
            receipts: BTreeMap::new(),
            asked: BTreeMap::new(),
            group: None,
            joined: None,
            unseen: false,
        }
    }

    pub(super) fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// What follows begins after `to`; what is from `from` on, and not here, is to be had by `history`. Whether it can be.
    pub(super) fn leave_out(&mut self, from: u64, to: u64) -> bool {
        let is_first_heard = std::mem::take(&mut self.unseen);
        let fits = from > self.position && to >= from;
        if from > self.position + 1 && !is_first_heard {
            // They have come back with what is left out.
            self.begin_anew(from);
        }
        self.position = self.position.max(to);
        fits
    }

    /// It begins at the head, as for a device that is new.
    pub(super) fn begin_at(&mut self, head: u64) {
        self.unseen = false;
        self.position = head;
    }

    pub(super) fn take(&mut self, event: Event, user: u64) -> Result<(), Wrong> {
        let seq = event.seq;
        let is_first_heard = std::mem::take(&mut self.unseen);
        if self.joined.is_some_and(|joined| seq < joined) {
            return Err((Kind::BeforeJoin, format!("nothing from before the join at {:?}", self.joined)));
        }
        if seq <= self.position {
            let kind = if self.standing == Standing::In { Kind::Twice } else { Kind::AfterRemoval };
            return Err((kind, format!("what follows {}", self.position)));
        }
        let introduces = event.introduces(user);
        // Who comes back goes on with that event; of a deleted chat that event is all that is left.
        let begins_anew = introduces || event.change() == Some(&Change::Deleted) || is_first_heard;
        let wrong = match self.standing {
            Standing::In if !begins_anew && seq != self.position + 1 => {
                Some((Kind::Missing, format!("seq {}", self.position + 1)))
            }
            Standing::Left | Standing::Gone if !introduces && event.change() != Some(&Change::Deleted) => {
                Some((Kind::AfterRemoval, format!("nothing after the end at {}", self.position)))
            }
            _ => None,
        };
        if introduces {
            self.begin_anew(seq);
        }
        self.position = seq;
        self.follow(&event, user);
        self.events.insert(seq, event);
        wrong.map_or(Ok(()), Err)
    }

    /// What was before is not the user's to see any more.
    fn begin_anew(&mut self, joined: u64) {
        self.events.clear();
        self.group = None;
        self.standing = Standing::In;
        self.joined = Some(joined);
    }

    fn follow(&mut self, event: &Event, user: u64) {
        let Some(change) = event.change() else { return };
        match change {
            Change::Removed(users) if users.contains(&user) => self.standing = Standing::Left,
            Change::Deleted => {
                self.standing = Standing::Gone;
                self.events.clear();
                self.joined = Some(event.seq);
            }
            _ => {}
        }
        if let Some((title, roster)) = &mut self.group {
            follow(title, roster, change);
        }
    }

    /// Takes a page of a `history`: what is missing here is taken from it. What lies above the position is to come yet.
    /// `is_last`: there is nothing before it; `is_asked_back`: it was asked for before the first event that is here.
    pub(super) fn take_page(
        &mut self,
        events: Vec<Event>,
        is_last: bool,
        is_asked_back: bool,
    ) -> Vec<(Kind, String, String)> {
        let mut wrong = Vec::new();
        if self.standing == Standing::Gone {
            return wrong;
        }
        let first = match events.first() {
            Some(first) => Some(first.seq),
            None if is_asked_back => self.lacks_before(),
            None => None,
        };
        let first = first.filter(|seq| is_last && *seq <= self.position);
        for event in events.into_iter().filter(|event| event.seq <= self.position) {
            let seq = event.seq;
            if let Some(joined) = self.joined.filter(|joined| seq < *joined) {
                let expected = format!("nothing from before the join at {joined}");
                wrong.push((Kind::BeforeJoin, expected, format!("seq {seq} by history")));
                continue;
            }
            match self.events.get(&seq) {
                Some(known) if known.is_same(&event) => {}
                Some(known) => wrong.push((Kind::Differs, format!("{known:?}"), format!("by history {event:?}"))),
                None => drop(self.events.insert(seq, event)),
            }
        }
        if let Some(first) = first.filter(|_| self.joined.is_none()) {
            self.joined = Some(first);
        }
        wrong
    }

    /// The seq before which it has to ask for `history` to have all; none: it has all.
    pub(crate) fn lacks_before(&self) -> Option<u64> {
        if self.standing == Standing::Gone {
            return None;
        }
        let mut lowest = self.position + 1;
        while self.events.contains_key(&(lowest - 1)) {
            lowest -= 1;
        }
        self.joined.is_none_or(|joined| joined < lowest).then_some(lowest)
    }

    pub(super) fn introduced(&mut self, asked_at: u64, mut title: String, mut roster: BTreeMap<u64, Role>) {
        // The answer is of after the question: what came since then is in it or not, and the last event of each decides.
        for event in self.events.range(asked_at + 1..).map(|(_, event)| event) {
            if let Some(change) = event.change() {
                follow(&mut title, &mut roster, change);
            }
        }
        self.group = Some((title, roster));
    }

    /// A user's watermarks, as far as it knows.
    pub(crate) fn marks(&self, user: u64) -> Marks {
        let of = |marks: &BTreeMap<u64, Marks>| marks.get(&user).copied().unwrap_or_default();
        of(&self.receipts).max(of(&self.asked))
    }

    /// As far as it knows.
    pub(crate) fn role(&self, user: u64) -> Option<Role> {
        self.group.as_ref().and_then(|(_, roster)| roster.get(&user).copied())
    }

    /// Each message as it is by the events that name it.
    pub(crate) fn texts(&self) -> BTreeMap<u64, Text> {
        let mut texts = BTreeMap::new();
        for (seq, event) in &self.events {
            match &event.body {
                Body::Message { text } => drop(texts.insert(*seq, Text::of(text.clone()))),
                Body::Edited { target, text } => {
                    // What was deleted stays so: it may have been read after its deletion.
                    if let Some(known) = texts.get_mut(target).filter(|known| **known != Text::Deleted) {
                        *known = text.clone().map_or(Text::Outdated, Text::Said);
                    }
                }
                Body::Deleted { target } => drop(texts.get_mut(target).map(|known| *known = Text::Deleted)),
                _ => {}
            }
        }
        texts
    }
}

/// What a change makes of a title and of members.
pub(crate) fn follow(title: &mut String, roster: &mut BTreeMap<u64, Role>, change: &Change) {
    match change {
        Change::Created { title: given } | Change::Renamed(given) => title.clone_from(given),
        Change::Added(users) => roster.extend(users.iter().map(|user| (*user, Role::Member))),
        Change::Removed(users) => roster.retain(|user, _| !users.contains(user)),
        Change::Role(users, role) => roster.extend(users.iter().map(|user| (*user, *role))),
        Change::Deleted => roster.clear(),
    }
}
