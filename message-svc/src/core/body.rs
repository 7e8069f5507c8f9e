//! What a send puts into the log, and what of a log's event is only for storage.

use bytes::Bytes;
use confab_ids::Seq;
use confab_proto::message::v1::{Content, Deletion, Edit, Event, Reaction, event};
use prost::Message as _;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// One of these is what a member sends.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Content(Content),
    Edit(Edit),
    Deletion(Deletion),
    Reaction(Reaction),
}

impl Body {
    /// The message that it is about.
    pub(crate) fn target(&self) -> Option<Seq> {
        match self {
            Self::Content(_) => None,
            Self::Edit(edit) => Some(Seq(edit.target)),
            Self::Deletion(deletion) => Some(Seq(deletion.target)),
            Self::Reaction(reaction) => Some(Seq(reaction.target)),
        }
    }

    pub(crate) fn into_event(self) -> event::Body {
        match self {
            Self::Content(content) => event::Body::Content(content),
            Self::Edit(edit) => event::Body::Edit(edit),
            Self::Deletion(deletion) => event::Body::Deletion(deletion),
            Self::Reaction(reaction) => event::Body::Reaction(reaction),
        }
    }

    /// By which a repeat is told from another send under the same key.
    pub(crate) fn hash(&self) -> u64 {
        match self {
            Self::Content(content) => xxh3_64(&content.encode_to_vec()),
            Self::Edit(edit) => of_edit(edit.target, &edit.text),
            Self::Deletion(deletion) => of_deletion(deletion.target),
            Self::Reaction(reaction) => xxh3_64_with_seed(&reaction.encode_to_vec(), 3),
        }
    }
}

fn of_edit(target: u64, text: &str) -> u64 {
    xxh3_64_with_seed(&[&target.to_be_bytes(), text.as_bytes()].concat(), 1)
}

fn of_deletion(target: u64) -> u64 {
    xxh3_64_with_seed(&target.to_be_bytes(), 2)
}

/// [`Body::hash`] of what an event's sender sent; `None`: it was no send.
pub(crate) fn sent_hash(event: &Event) -> Option<u64> {
    let as_it_is = match event.body.as_ref()? {
        event::Body::Content(content) => xxh3_64(&content.encode_to_vec()),
        event::Body::Edit(edit) => of_edit(edit.target, &edit.text),
        event::Body::Deletion(deletion) => of_deletion(deletion.target),
        event::Body::Reaction(reaction) => xxh3_64_with_seed(&reaction.encode_to_vec(), 3),
        event::Body::Membership(_) => return None,
    };
    Some(if event.sent_hash == 0 { as_it_is } else { event.sent_hash })
}

/// The rows that an event has changed, as they are after it.
pub(crate) fn changed_rows(event: &Event) -> &[Bytes] {
    match &event.body {
        Some(event::Body::Edit(edit)) => &edit.rows,
        Some(event::Body::Deletion(deletion)) => &deletion.rows,
        _ => &[],
    }
}

/// As others than the store see it.
pub(crate) fn without_rows(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event.body {
        Some(event::Body::Edit(edit)) => edit.rows = Vec::new(),
        Some(event::Body::Deletion(deletion)) => deletion.rows = Vec::new(),
        _ => {}
    }
    event
}

/// What becomes of a message and of its edit before by a change of it, `at` a seq: their rows. `None`: it is no message, or was
/// deleted.
pub(crate) fn rows_after(message: &Event, edit_before: Option<&Event>, body: &Body, at: Seq) -> Option<Vec<Event>> {
    let Some(event::Body::Content(content)) = &message.body else { return None };
    let after = match body {
        _ if content.deleted => return None,
        Body::Edit(edit) => Content { text: edit.text.clone(), ..content.clone() },
        Body::Deletion(_) => Content { deleted: true, ..Content::default() },
        Body::Content(_) | Body::Reaction(_) => return Some(Vec::new()),
    };
    let changed = |event: &Event, body| Event {
        sent_hash: sent_hash(event).unwrap_or_default(),
        body: Some(body),
        changed_seq: at.0,
        ..event.clone()
    };
    let mut rows = vec![changed(message, event::Body::Content(after))];
    if let Some(before) = edit_before
        && let Some(event::Body::Edit(edit)) = &before.body
    {
        let emptied = Edit { target: edit.target, ..Edit::default() };
        rows.push(changed(before, event::Body::Edit(emptied)));
    }
    Some(rows)
}

/// What must hold of rows that were changed.
#[cfg(test)]
pub(crate) mod checks {
    use std::collections::BTreeMap;

    use super::*;

    /// As it is stored, but for the rows that it carries there.
    pub(crate) fn is(told: &Event, stored: &Event) -> bool {
        without_rows(told) == without_rows(stored)
    }

    /// Or as it was stored before it was changed.
    pub(crate) fn is_or_was(told: &Event, stored: &Event) -> bool {
        is(told, stored)
            || stored.changed_seq > told.changed_seq
                && (told.seq, &told.message_id, sent_hash(told)) == (stored.seq, &stored.message_id, sent_hash(stored))
    }

    /// Each row of a log is as the last event that names it left it. What lies above `head` may have changed it, too.
    pub(crate) fn changes(log: &BTreeMap<u64, Event>, head: u64) -> Result<(), String> {
        let mut last: BTreeMap<u64, &Event> = BTreeMap::new();
        for event in log.values() {
            match &event.body {
                Some(event::Body::Edit(edit)) => drop(last.insert(edit.target, event)),
                Some(event::Body::Deletion(deletion)) => drop(last.insert(deletion.target, event)),
                _ => {}
            }
        }
        for event in log.values().filter(|event| event.changed_seq <= head) {
            let is_right = match &event.body {
                Some(event::Body::Content(content)) => {
                    let changed = last.get(&event.seq);
                    let says = match changed.and_then(|changed| changed.body.as_ref()) {
                        Some(event::Body::Edit(edit)) => content.text == edit.text && !content.deleted,
                        Some(_) => *content == Content { deleted: true, ..Content::default() },
                        None => !content.deleted,
                    };
                    says && event.changed_seq == changed.map_or(0, |changed| changed.seq)
                }
                // What was overwritten is not to be read.
                Some(event::Body::Edit(edit)) => {
                    let is_last = last.get(&edit.target).is_some_and(|last| last.seq == event.seq);
                    edit.text.is_empty() != is_last
                }
                _ => true,
            };
            if !is_right {
                return Err(format!("not as it was changed: {:?}", without_rows(event)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, body: Body) -> Event {
        Event { seq, body: Some(body.into_event()), ..Event::default() }
    }

    fn said(text: &str) -> Body {
        Body::Content(Content { text: text.into(), mentions: vec![7], ..Content::default() })
    }

    fn edit(target: u64, text: &str) -> Body {
        Body::Edit(Edit { target, text: text.into(), ..Edit::default() })
    }

    fn text(event: &Event) -> &str {
        match &event.body {
            Some(event::Body::Content(content)) => &content.text,
            Some(event::Body::Edit(edit)) => &edit.text,
            _ => "",
        }
    }

    #[test]
    fn a_changed_row_still_says_how_it_was_sent() {
        let message = event(1, said("one"));
        let rows = rows_after(&message, None, &edit(1, "two"), Seq(2)).expect("it is a message");
        let [after] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((text(after), after.changed_seq), ("two", 2));
        assert_eq!(sent_hash(after), Some(said("one").hash()));
        let again = rows_after(after, Some(&event(2, edit(1, "two"))), &edit(1, "three"), Seq(3)).expect("it still is");
        let [after, before] = &again[..] else { panic!("{again:?}") };
        assert_eq!((text(after), after.changed_seq, sent_hash(after)), ("three", 3, Some(said("one").hash())));
        assert_eq!((text(before), before.seq, sent_hash(before)), ("", 2, Some(edit(1, "two").hash())));
    }

    #[test]
    fn nothing_of_a_deleted_message_is_left_and_it_can_not_be_changed_again() {
        let deletion = Body::Deletion(Deletion { target: 1, ..Deletion::default() });
        let rows = rows_after(&event(1, said("one")), Some(&event(2, edit(1, "one"))), &deletion, Seq(3));
        let rows = rows.expect("it is a message");
        assert!(rows.iter().all(|row| !String::from_utf8_lossy(&row.encode_to_vec()).contains("one")), "{rows:?}");
        let Some(event::Body::Content(content)) = &rows[0].body else { panic!("{rows:?}") };
        assert!(content.deleted && content.mentions.is_empty());
        assert_eq!(rows_after(&rows[0], None, &edit(1, "x"), Seq(4)), None);
        assert_eq!(rows_after(&event(2, edit(1, "x")), None, &edit(2, "y"), Seq(4)), None);
    }
}
