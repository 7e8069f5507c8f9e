//! What a send puts into the log, and what of a log's event is only for storage.

use bytes::Bytes;
use confab_ids::Seq;
pub(crate) use confab_proto::message::v1::event::Body;
use confab_proto::message::v1::{Content, Edit, Event};
use prost::Message as _;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The message that it is about.
pub(crate) fn target(body: &Body) -> Option<Seq> {
    match body {
        Body::Content(_) | Body::Membership(_) => None,
        Body::Edit(edit) => Some(Seq(edit.target)),
        Body::Deletion(deletion) => Some(Seq(deletion.target)),
        Body::Reaction(reaction) => Some(Seq(reaction.target)),
    }
}

/// By which a repeat is told from another send under the same key. `None`: nobody sends it.
pub(crate) fn hash(body: &Body) -> Option<u64> {
    Some(match body {
        Body::Content(content) => xxh3_64(&content.encode_to_vec()),
        // Without the rows, which only its event has.
        Body::Edit(edit) => xxh3_64_with_seed(&[&edit.target.to_be_bytes(), edit.text.as_bytes()].concat(), 1),
        Body::Deletion(deletion) => xxh3_64_with_seed(&deletion.target.to_be_bytes(), 2),
        Body::Reaction(reaction) => xxh3_64_with_seed(&reaction.encode_to_vec(), 3),
        Body::Membership(_) => return None,
    })
}

/// [`hash`] of what an event's sender sent; `None`: it was no send.
pub(crate) fn sent_hash(event: &Event) -> Option<u64> {
    let as_it_is = hash(event.body.as_ref()?)?;
    Some(if event.sent_hash == 0 { as_it_is } else { event.sent_hash })
}

/// Whether it is a message that can be changed, or reacted to: one that was deleted can't.
pub(crate) fn is_message(event: &Event) -> bool {
    matches!(&event.body, Some(Body::Content(content)) if !content.deleted)
}

/// The rows that an event has changed, as they are after it.
pub(crate) fn changed_rows(event: &Event) -> &[Bytes] {
    match &event.body {
        Some(Body::Edit(edit)) => &edit.rows,
        Some(Body::Deletion(deletion)) => &deletion.rows,
        _ => &[],
    }
}

/// As others than the store see it.
pub(crate) fn without_rows(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event.body {
        Some(Body::Edit(edit)) => edit.rows = Vec::new(),
        Some(Body::Deletion(deletion)) => deletion.rows = Vec::new(),
        _ => {}
    }
    event
}

/// As one sees it who has left with the event at `left`: what was changed after that they have not seen, and don't see now.
pub(crate) fn as_left(stored: &Bytes, left: Seq) -> Bytes {
    let Ok(event) = Event::decode(&stored[..]) else { return stored.clone() };
    if event.changed_seq <= left.0 {
        return stored.clone();
    }
    let body = match &event.body {
        Some(Body::Content(_)) => Body::Content(deleted()),
        _ => return stored.clone(),
    };
    Event { body: Some(body), ..event }.encode_to_vec().into()
}

/// An event as it is without what it said; `None`: it says nothing.
pub(crate) fn without_words(event: &Event) -> Option<Event> {
    let body = match &event.body {
        Some(Body::Content(content)) if !content.deleted => Body::Content(deleted()),
        Some(Body::Edit(edit)) if !edit.text.is_empty() || !edit.rows.is_empty() => silenced(edit),
        _ => return None,
    };
    Some(with_body(event, body))
}

/// An event as it is where all messages up to `upto` have expired, with what changed them; `None`: as it was.
pub(crate) fn as_expired(event: &Event, upto: Seq) -> Option<Event> {
    let is_of_expired = matches!(&event.body, Some(Body::Edit(edit)) if edit.target <= upto.0);
    if event.seq <= upto.0 || is_of_expired { without_words(event) } else { None }
}

/// What is left of a message's content.
fn deleted() -> Content {
    Content { deleted: true, ..Content::default() }
}

/// What is left of an edit.
fn silenced(edit: &Edit) -> Body {
    Body::Edit(Edit { target: edit.target, ..Edit::default() })
}

/// An event that says something else now: what its sender sent is still known by its hash.
fn with_body(event: &Event, body: Body) -> Event {
    Event { sent_hash: sent_hash(event).unwrap_or_default(), body: Some(body), ..event.clone() }
}

/// What becomes of a message and of its edit before by a change of it, `at` a seq: their rows.
pub(crate) fn rows_after(message: &Event, edit_before: Option<&Event>, body: &Body, at: Seq) -> Vec<Event> {
    let after = match (body, &message.body) {
        (Body::Edit(edit), Some(Body::Content(content))) => Content { text: edit.text.clone(), ..content.clone() },
        (Body::Deletion(_), _) => deleted(),
        _ => return Vec::new(),
    };
    let changed = |event: &Event, body| Event { changed_seq: at.0, ..with_body(event, body) };
    let mut rows = vec![changed(message, Body::Content(after))];
    if let Some(before) = edit_before
        && let Some(Body::Edit(edit)) = &before.body
    {
        rows.push(changed(before, silenced(edit)));
    }
    rows
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
        is(told, stored) || stored.changed_seq > told.changed_seq && is_same(told, stored)
    }

    /// Whatever it says now.
    pub(crate) fn is_same(told: &Event, stored: &Event) -> bool {
        (told.seq, &told.message_id, sent_hash(told)) == (stored.seq, &stored.message_id, sent_hash(stored))
    }

    /// Each row of a log is as the last event that names it left it. What lies above `head` may have changed it, too.
    pub(crate) fn changes(log: &BTreeMap<u64, Event>, head: u64) -> Result<(), String> {
        let mut last: BTreeMap<u64, &Event> = BTreeMap::new();
        for event in log.values() {
            match &event.body {
                Some(Body::Edit(edit)) => drop(last.insert(edit.target, event)),
                Some(Body::Deletion(deletion)) => drop(last.insert(deletion.target, event)),
                _ => {}
            }
        }
        for event in log.values().filter(|event| event.changed_seq <= head) {
            let is_right = match &event.body {
                Some(Body::Content(content)) => {
                    let changed = last.get(&event.seq);
                    let says = match changed.and_then(|changed| changed.body.as_ref()) {
                        Some(Body::Edit(edit)) => content.text == edit.text && !content.deleted,
                        Some(_) => *content == Content { deleted: true, ..Content::default() },
                        None => !content.deleted,
                    };
                    says && event.changed_seq == changed.map_or(0, |changed| changed.seq)
                }
                // What was overwritten is not to be read.
                Some(Body::Edit(edit)) => {
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
    use confab_proto::message::v1::Deletion;

    use super::*;

    fn event(seq: u64, body: Body) -> Event {
        Event { seq, body: Some(body), ..Event::default() }
    }

    fn said(text: &str) -> Body {
        Body::Content(Content { text: text.into(), mentions: vec![7], ..Content::default() })
    }

    fn edit(target: u64, text: &str) -> Body {
        Body::Edit(Edit { target, text: text.into(), ..Edit::default() })
    }

    fn text(event: &Event) -> &str {
        match &event.body {
            Some(Body::Content(content)) => &content.text,
            Some(Body::Edit(edit)) => &edit.text,
            _ => "",
        }
    }

    #[test]
    fn a_changed_row_still_says_how_it_was_sent() {
        let message = event(1, said("one"));
        let rows = rows_after(&message, None, &edit(1, "two"), Seq(2));
        let [after] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((text(after), after.changed_seq), ("two", 2));
        assert_eq!(sent_hash(after), hash(&said("one")));
        let again = rows_after(after, Some(&event(2, edit(1, "two"))), &edit(1, "three"), Seq(3));
        let [after, before] = &again[..] else { panic!("{again:?}") };
        assert_eq!((text(after), after.changed_seq, sent_hash(after)), ("three", 3, hash(&said("one"))));
        assert_eq!((text(before), before.seq, sent_hash(before)), ("", 2, hash(&edit(1, "two"))));
    }

    #[test]
    fn who_has_left_does_not_read_what_was_written_after_that() {
        let stored = |event: &Event| Bytes::from(event.encode_to_vec());
        let message = event(1, said("one"));
        let edited = &rows_after(&message, None, &edit(1, "two"), Seq(5))[0];
        assert_eq!(as_left(&stored(&message), Seq(4)), stored(&message));
        assert_eq!(as_left(&stored(edited), Seq(5)), stored(edited));
        let seen = Event::decode(&as_left(&stored(edited), Seq(4))[..]).expect("an event");
        assert!(text(&seen).is_empty() && !is_message(&seen), "{seen:?}");
    }

    #[test]
    fn nothing_of_a_deleted_message_is_left_and_it_can_not_be_changed_again() {
        let deletion = Body::Deletion(Deletion { target: 1, ..Deletion::default() });
        let rows = rows_after(&event(1, said("one")), Some(&event(2, edit(1, "one"))), &deletion, Seq(3));
        assert!(rows.iter().all(|row| !String::from_utf8_lossy(&row.encode_to_vec()).contains("one")), "{rows:?}");
        let Some(Body::Content(content)) = &rows[0].body else { panic!("{rows:?}") };
        assert!(content.deleted && content.mentions.is_empty());
        assert!(is_message(&event(1, said("one"))));
        assert!(!is_message(&rows[0]));
        assert!(!is_message(&event(2, edit(1, "x"))));
    }

    #[test]
    fn messages_and_edits_lose_their_words_and_keep_their_keys() {
        let content = Content { text: "words".into(), mentions: vec![7], ..Content::default() };
        let said = Event { seq: 3, sender_id: 1, body: Some(Body::Content(content)), ..Event::default() };
        let hash = sent_hash(&said);
        let row = without_words(&said).expect("it said something");
        assert!(matches!(&row.body, Some(Body::Content(content)) if content.deleted && content.text.is_empty()));
        assert_eq!(sent_hash(&row), hash, "a repeat of it is still known");
        assert!(without_words(&row).is_none());
        let edit = Edit { target: 3, text: "other words".into(), rows: vec![Bytes::from_static(b"words")] };
        let edited = Event { seq: 4, body: Some(Body::Edit(edit)), ..Event::default() };
        let row = without_words(&edited).expect("it said something");
        assert!(!row.encode_to_vec().windows(5).any(|part| part == b"words"));
        assert!(without_words(&Event::default()).is_none());
        // An edit goes with its message, however young it is.
        assert_eq!(as_expired(&edited, Seq(3)), Some(row));
        assert_eq!((as_expired(&edited, Seq(2)), as_expired(&said, Seq(2))), (None, None));
        assert_eq!(as_expired(&said, Seq(3)), without_words(&said));
    }
}
