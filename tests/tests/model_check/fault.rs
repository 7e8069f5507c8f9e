//! What stands between the server's frames and what a device takes: nothing, or one seeded bug, by which the checker is checked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::replica::Id;

/// A bug that a server, or the way to a device, could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An `edited` frame is not given.
    DroppedEdit,
    /// An `edited` frame is given without its words, as if another edit had come since.
    SilencedEdit,
    /// A receipt with lower watermarks comes after one with higher ones.
    ReceiptGoesBack,
    /// Who is added again is shown a message from before.
    OldHistory,
}

#[derive(Debug)]
pub(crate) struct Interposer {
    bug: Option<Bug>,
    /// Whom it has struck; once is enough, but for edits.
    struck: Option<Id>,
    /// By device and chat, the last message that was given.
    last: BTreeMap<(Id, u64), Value>,
}

impl Interposer {
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        Self { bug, struck: None, last: BTreeMap::new() }
    }

    /// It has done what it is there for.
    pub(crate) fn is_done(&self) -> bool {
        self.bug.is_none() || self.struck.is_some()
    }

    pub(crate) fn struck(&self) -> Option<&Id> {
        self.struck.as_ref()
    }

    /// What a device takes in the place of a frame.
    pub(crate) fn pass(&mut self, id: &Id, mut frame: Value) -> Vec<Value> {
        // One edit alone may be overwritten, or come again to who connects anew: all of a device's are meant.
        let of_edits = |bug: &Bug| matches!(bug, Bug::DroppedEdit | Bug::SilencedEdit);
        let goes_on = |bug: &Bug| of_edits(bug) && self.struck.as_ref() == Some(id);
        let Some(bug) = self.bug.filter(|bug| self.struck.is_none() || goes_on(bug)) else { return vec![frame] };
        let kind = frame["type"].as_str().unwrap_or_default();
        match bug {
            Bug::DroppedEdit if kind == "edited" => self.strike(id, Vec::new()),
            Bug::SilencedEdit if kind == "edited" && frame["content"].is_string() => {
                frame["content"] = Value::Null;
                self.strike(id, vec![frame])
            }
            Bug::ReceiptGoesBack if kind == "receipt" && frame["delivered"].as_u64() > Some(2) => {
                let mut lower = frame.clone();
                (lower["delivered"], lower["read"]) = (json!(1), json!(0));
                self.strike(id, vec![frame, lower])
            }
            Bug::OldHistory => self.show_what_was(id, frame),
            _ => vec![frame],
        }
    }

    fn show_what_was(&mut self, id: &Id, frame: Value) -> Vec<Value> {
        let place = (id.clone(), frame["chat_id"].as_u64().unwrap_or_default());
        if frame["type"] == "message" {
            self.last.insert(place, frame.clone());
            return vec![frame];
        }
        let names = |user: &Value| *user == id.user;
        let is_added =
            frame["event"] == "added" && frame["user_ids"].as_array().is_some_and(|users| users.iter().any(names));
        match self.last.get(&place).filter(|_| is_added).cloned() {
            Some(old) => self.strike(id, vec![frame, old]),
            None => vec![frame],
        }
    }

    fn strike(&mut self, id: &Id, frames: Vec<Value>) -> Vec<Value> {
        self.struck = Some(id.clone());
        frames
    }
}
