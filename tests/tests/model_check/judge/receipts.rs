//! Watermarks: what the server has of each user, what it says of them, and what devices were told.

use std::collections::BTreeMap;

use super::Logs;
use crate::device::Device;
use crate::finding::{Finding, Kind};
use crate::log::Log;
use crate::replica::{Id, Marks};
use crate::server::Listed;

/// What the server says to each user of their own chats.
pub(crate) type Truth = BTreeMap<u64, BTreeMap<u64, (Listed, Marks)>>;

fn truth_of(truth: &Truth, user: u64, chat: u64) -> Option<Marks> {
    truth.get(&user)?.get(&chat).map(|(_, marks)| *marks)
}

/// Whether the server has of each user what their devices said: at least what it must have got, at most what it may have.
pub(crate) fn watermarks(devices: &[Device], truth: &Truth) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (user, chats) in truth {
        let own = || devices.iter().filter(|device| device.id().user == *user);
        for (chat, (listed, marks)) in chats {
            let highest =
                |of: &dyn Fn(&Device) -> Option<Marks>| own().filter_map(of).fold(Marks::default(), Marks::max);
            let least = highest(&|device| device.said.certain.get(chat).copied());
            let most = highest(&|device| device.said.possible.get(chat).copied());
            // What a poll has given is confirmed by the next one: so up to the end.
            let fits = (least.delivered..=listed.head).contains(&marks.delivered)
                && (least.read..=most.read.max(least.read)).contains(&marks.read);
            if !fits {
                let how: Vec<_> = own()
                    .map(|device| (device.id().to_string(), device.said.certain.get(chat), device.said.how.get(chat)))
                    .collect();
                let expected =
                    format!("from {least:?} to delivered {} and read {}, by {how:?}", listed.head, most.read);
                findings.push(Finding::new(
                    Kind::Receipt,
                    *chat,
                    &format!("user {user}"),
                    expected,
                    format!("{marks:?}"),
                ));
            }
        }
    }
    findings
}

/// Whether devices that were there all the time were told of everyone's watermarks what they are to be told: what covers their user's
/// last message; and whether nobody was told more than there is.
pub(crate) fn receipts(devices: &[Device], logs: &Logs, truth: &Truth) -> Vec<Finding> {
    let mut findings = Vec::new();
    for device in devices {
        for log in logs.values() {
            let Some(known) = device.replica.chats.get(&log.chat) else { continue };
            for user in log.now().members.keys() {
                let Some(marks) = truth_of(truth, *user, log.chat) else { continue };
                let told = known.marks(*user);
                findings.extend(told_of(device, log, *user, told, marks));
            }
        }
    }
    findings
}

fn told_of(device: &Device, log: &Log, user: u64, told: Marks, marks: Marks) -> Option<Finding> {
    let id: &Id = device.id();
    let find =
        |expected: String| Some(Finding::new(Kind::Receipt, log.chat, id, expected, format!("{told:?} of {user}")));
    if told.delivered > marks.delivered || told.read > marks.read {
        return find(format!("at most {marks:?} of user {user}"));
    }
    if !device.replica.stayed || !log.now().members.contains_key(&id.user) {
        return None;
    }
    if user == id.user {
        // "…and to own devices … of what is read".
        return (told.read < marks.read).then(|| find(format!("{marks:?} of its own user"))).flatten();
    }
    let last = log.last_message_of(id.user, user)?;
    let covers = |marks: Marks| (marks.delivered >= last, marks.read >= last);
    (covers(told) != covers(marks))
        .then(|| find(format!("what covers message {last}: {marks:?} of user {user}")))
        .flatten()
}
