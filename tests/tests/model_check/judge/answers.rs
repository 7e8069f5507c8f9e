//! What was acked is there, once, as it was said; and what was refused was to be refused.

use std::collections::BTreeMap;

use super::Logs;
use crate::device::{Answered, Outcome};
use crate::event::Body;
use crate::finding::{Finding, Kind};
use crate::log::Log;

/// What was acked.
#[derive(Default)]
pub(crate) struct Ledger {
    /// By chat and seq: its words, if it has any.
    said: BTreeMap<(u64, u64), Option<String>>,
    /// By device, chat and key: the seq.
    keys: BTreeMap<(String, u64, String), u64>,
}

impl Ledger {
    /// What a message said after the event `upto`; none: it was deleted.
    pub(crate) fn text(&self, log: &Log, message: u64, upto: u64) -> Option<String> {
        let last = log.changes_of(message).iter().rev().find(|change| **change <= upto);
        let seq = match last {
            None => message,
            Some(change) => match log.event(*change)?.body {
                Body::Edited { .. } => *change,
                _ => return None,
            },
        };
        self.said.get(&(log.chat, seq)).cloned().flatten()
    }

    /// Takes answers, and says which nothing explains.
    pub(crate) fn take(&mut self, answered: Vec<Answered>, logs: &Logs) -> Vec<Finding> {
        let mut findings = Vec::new();
        for answer in answered {
            // Of a chat that is deleted nothing is there to compare with.
            let Some(log) = logs.get(&answer.chat) else { continue };
            let wrong = match &answer.outcome {
                Outcome::Acked { seq, id, .. } => self.take_ack(&answer, *seq, id, log),
                Outcome::Done => explained(log, &answer, None),
                Outcome::Refused(code) => explained(log, &answer, Some(code)),
            };
            findings.extend(wrong.map(|(kind, expected)| {
                let found = format!("{:?} to {:?}, asked after seq {}", answer.outcome, answer.asked, answer.known);
                Finding::new(kind, answer.chat, &answer.id, expected, found)
            }));
        }
        findings
    }

    fn take_ack(&mut self, answer: &Answered, seq: u64, id: &str, log: &Log) -> Option<(Kind, String)> {
        let Some(event) = log.event(seq) else {
            return Some((Kind::Missing, "what was acked in the log".into()));
        };
        let key = (answer.id.to_string(), answer.chat, answer.client_id.clone().unwrap_or_default());
        let first = *self.keys.entry(key).or_insert(seq);
        if first != seq {
            return Some((Kind::Twice, format!("seq {first}, as it was acked before")));
        }
        if event.id != id || event.by != answer.id.user || !log.is_of(seq, &answer.asked) {
            return Some((Kind::Answer, format!("an ack of {event:?}")));
        }
        self.said.entry((answer.chat, seq)).or_insert_with(|| answer.text.clone());
        None
    }

    /// Everything in a log that was said was acked to somebody: all wait for their answers. So nothing is there twice.
    pub(crate) fn whole(&self, log: &Log) -> Vec<Finding> {
        let said = log.events.iter().filter(|event| !matches!(event.body, Body::Chat { .. }));
        let unknown = said.filter(|event| !self.said.contains_key(&(log.chat, event.seq)));
        let find =
            |event| Finding::new(Kind::Twice, log.chat, &"the log", "what was acked, once", format!("{event:?}"));
        unknown.map(find).collect()
    }
}

fn explained(log: &Log, answer: &Answered, code: Option<&str>) -> Option<(Kind, String)> {
    if log.explains(answer.id.user, &answer.asked, answer.known.max(1), code) {
        return None;
    }
    let then = log.verdict(answer.known.max(1), answer.id.user, &answer.asked);
    let now = log.verdict(log.head(), answer.id.user, &answer.asked);
    let (known, head, story) = (answer.known, log.head(), log.story(&answer.asked));
    Some((Kind::Answer, format!("what holds somewhere from seq {known}, {then:?}, to {head}, {now:?}, of{story}")))
}
