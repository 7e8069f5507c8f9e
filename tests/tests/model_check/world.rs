//! A run: rounds in which all devices do what is drawn for them at once, and after each of them a rest, at which all must agree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use confab_tests::harness::Stage;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::device::Device;
use crate::event::Change;
use crate::fault::Bug;
use crate::field::Field;
use crate::finding::{Finding, Kind};
use crate::judge::{self, Ledger, Logs, Truth};
use crate::log::Log;
use crate::replica::{Id, Standing};
use crate::server::{self, Listed};

/// Until a device has all that it is to have.
const REST: Duration = Duration::from_secs(20);

/// Until all are told of receipts: one per 5 s of each member.
const RECEIPTS: Duration = Duration::from_secs(12);

/// Requests at once, at rest.
const AT_ONCE: usize = 8;

/// Findings that are shown.
const SHOWN_MAX: usize = 25;

const DEVICES: [&str; 2] = ["phone", "tablet"];

pub(crate) struct World {
    pub field: Arc<Field>,
    devices: Vec<Device>,
    ledger: Ledger,
    pub findings: Vec<Finding>,
    pub operations: u64,
    rests: u64,
    begun: Instant,
}

impl World {
    pub(crate) fn new(stage: &Stage, users: Vec<u64>, seed: u64, bug: Option<Bug>) -> Self {
        let field = Arc::new(Field::new(stage.edges().to_vec(), stage.minter().clone(), users, seed, bug));
        let ids =
            field.users.iter().flat_map(|user| DEVICES.map(|device| Id { user: *user, device: device.to_owned() }));
        let devices = ids.map(|id| Device::new(&field, id)).collect();
        let (ledger, findings) = (Ledger::default(), Vec::new());
        Self { field, devices, ledger, findings, operations: 0, rests: 0, begun: Instant::now() }
    }

    /// So many operations, and a rest. Whether all agree.
    pub(crate) async fn round(&mut self, operations: u64) -> anyhow::Result<bool> {
        self.devices.iter_mut().for_each(Device::draw_steadiness);
        self.field.allot(operations);
        self.operations += operations;
        self.each(async |device| device.play().await).await?;
        self.rest().await?;
        self.rests += 1;
        Ok(self.findings.is_empty())
    }

    /// Has all devices do something at once.
    async fn each(&mut self, what: impl AsyncFn(&mut Device) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let all = self.devices.iter_mut().map(|device| what(device));
        let ended: anyhow::Result<Vec<()>> = futures_util::future::try_join_all(all).await;
        for device in &mut self.devices {
            self.findings.extend(device.replica.take_findings());
        }
        ended.map(drop)
    }

    async fn rest(&mut self) -> anyhow::Result<()> {
        let (logs, gone) = self.logs().await?;
        let until = Instant::now() + REST;
        let field = Arc::clone(&self.field);
        let ends = |device: &Device| -> BTreeMap<u64, u64> {
            let user = device.id().user;
            let seen = |(chat, log): (&u64, &Log)| {
                let seen = log.seen_by(user)?;
                // Who was away when the user came and went need not hear of it.
                let is_due = seen.standing == Standing::In || device.replica.position(*chat) > 0;
                is_due.then_some((*chat, seen.upto))
            };
            let is_due = |chat: u64| user == field.witness() && device.replica.position(chat) > 0;
            let gone = gone.iter().map(|(chat, seq)| (*chat, *seq)).filter(|(chat, _)| is_due(*chat));
            logs.iter().filter_map(seen).chain(gone).collect()
        };
        self.each(async |device| {
            let ends = ends(device);
            device.come_to_rest(&ends, until).await
        })
        .await?;
        for log in logs.values() {
            self.findings.extend(log.findings.iter().cloned());
        }
        for device in &mut self.devices {
            let answered = std::mem::take(&mut device.answered);
            self.findings.extend(self.ledger.take(answered, &logs));
        }
        for log in logs.values() {
            self.findings.extend(self.ledger.whole(log));
            for device in &self.devices {
                self.findings.extend(judge::device(&device.replica, log, &self.ledger));
            }
        }
        for device in self.devices.iter().filter(|device| device.id().user == field.witness()) {
            self.findings.extend(judge::gone(&device.replica, &gone));
        }
        let truth = self.agree_on_receipts(&logs).await?;
        self.findings.extend(lists(&field, &logs, &truth).await?);
        self.findings.extend(pages(&field, &logs, &self.ledger).await?);
        self.findings.extend(members(&field, &logs).await?);
        self.ask_for_receipts(&logs, &truth).await
    }

    /// By somebody who was there from the beginning; and of deleted chats the seq of that, which is all that is left.
    async fn logs(&self) -> anyhow::Result<(Logs, BTreeMap<u64, u64>)> {
        let field = &self.field;
        let logs = stream::iter(field.made()).map(async |(chat, made)| {
            let reader = if made.is_direct { made.by } else { field.witness() };
            anyhow::Ok((chat, made, server::log(field, reader, chat).await?))
        });
        let read: Vec<_> = logs.buffer_unordered(AT_ONCE).try_collect().await?;
        let (mut logs, mut gone) = (Logs::new(), BTreeMap::new());
        for (chat, made, events) in read {
            match &events[..] {
                [only] if only.change() == Some(&Change::Deleted) => drop(gone.insert(chat, only.seq)),
                _ => drop(logs.insert(chat, Log::new(chat, made, events))),
            }
        }
        Ok((logs, gone))
    }

    async fn truth(&self) -> anyhow::Result<Truth> {
        let chats = async |user: u64| anyhow::Ok((user, server::chats(&self.field, user).await?));
        stream::iter(self.field.users.clone()).map(chats).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Watermarks are told within 5 s: waits for it, and gives out what they are.
    async fn agree_on_receipts(&mut self, logs: &Logs) -> anyhow::Result<Truth> {
        let until = Instant::now() + RECEIPTS;
        loop {
            let truth = self.truth().await?;
            let mut findings = judge::receipts(&self.devices, logs, &truth);
            findings.extend(judge::watermarks(&self.devices, &truth));
            if findings.is_empty() || Instant::now() > until {
                self.findings.extend(findings);
                return Ok(truth);
            }
            self.each(async |device| device.listen().await).await?;
        }
    }

    /// Who was away asks for receipts: it has been told nothing since. Everyone does, and all is as it was told.
    async fn ask_for_receipts(&mut self, logs: &Logs, truth: &Truth) -> anyhow::Result<()> {
        let field = Arc::clone(&self.field);
        let asked = logs.values().flat_map(|log| log.now().members.keys().map(move |user| (log, *user)));
        let asked = asked.filter_map(|(log, user)| Some((log, user, log.last_message_of(user, user)?)));
        let answers = stream::iter(asked.collect::<Vec<_>>()).map(async |(log, user, last)| {
            anyhow::Ok((log, user, last, server::receipts(&field, user, log.chat, last).await?))
        });
        let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).try_collect().await?;
        for (log, user, last, told) in answers {
            let others = log.now().members.iter().filter(|(other, member)| **other != user && member.joined <= last);
            let covers = |other: &u64| {
                let (_, marks) = truth.get(other)?.get(&log.chat)?;
                Some((*other, (marks.delivered >= last, marks.read >= last)))
            };
            let expected: BTreeMap<u64, (bool, bool)> = others.filter_map(|(other, _)| covers(other)).collect();
            if told != expected {
                let who = format!("GET receipts of {last} by user {user}");
                let (expected, found) = (format!("{expected:?}"), format!("{told:?}"));
                self.findings.push(Finding::new(Kind::Receipt, log.chat, &who, expected, found));
            }
            for device in self.devices.iter_mut().filter(|device| device.id().user == user) {
                device.replica.asked_for_receipts(log.chat, last, &told);
            }
        }
        for device in &mut self.devices {
            let user = device.id().user;
            for (chat, (_, marks)) in truth.get(&user).into_iter().flatten() {
                device.replica.told_own_marks(*chat, *marks);
            }
            device.replica.stayed = true;
        }
        Ok(())
    }

    /// How many operations of each kind there were, and what came of the run.
    pub(crate) fn report(&self, name: &str) -> String {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for device in &self.devices {
            device.counts.iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let (operations, seed, devices) = (self.operations, self.field.seed, self.devices.len());
        let mut text = format!("{name}: {operations} operations by {devices} devices in {seconds:.1} s, seed {seed}\n");
        for (what, count) in counts {
            // A report that can't be written to a string is none.
            let _written = writeln!(text, "  {what:<26}{count:>6}");
        }
        text
    }

    /// What was found, with what it takes to find it again.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if self.findings.is_empty() {
            return Ok(());
        }
        let mut text = format!(
            "{} findings after {} operations and {} rests; CONFAB_SEED={} repeats what is drawn:\n",
            self.findings.len(),
            self.operations,
            self.rests,
            self.field.seed
        );
        for finding in self.findings.iter().take(SHOWN_MAX) {
            let _written = writeln!(text, "{finding}");
        }
        Err(text)
    }
}

/// Each user's list of chats.
async fn lists(field: &Field, logs: &Logs, truth: &Truth) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for user in &field.users {
        let listed = truth.get(user).with_context(|| format!("nothing of user {user}"))?;
        let find = |chat: u64, expected: String, found: String| {
            Finding::new(Kind::Listed, chat, &format!("GET chats of user {user}"), expected, found)
        };
        let theirs: Vec<u64> =
            logs.values().filter(|log| log.now().members.contains_key(user)).map(|log| log.chat).collect();
        let found: Vec<u64> = listed.keys().copied().collect();
        if theirs != found {
            findings.push(find(0, format!("{theirs:?}"), format!("{found:?}")));
        }
        for (chat, (found, marks)) in listed {
            let Some(log) = logs.get(chat) else { continue };
            let state = log.now();
            let role = state.members.get(user).map(|member| member.role).filter(|_| !log.made.is_direct);
            let (members, unread) = (state.members.len() as u64, log.unread(*user, *marks));
            let expected = Listed { title: state.title.clone(), members, head: log.head(), unread, role };
            if *found != expected {
                findings.push(find(*chat, format!("{expected:?}"), format!("{found:?}")));
            }
        }
    }
    Ok(findings)
}

/// What each user is shown of each chat that they are in, or have been.
async fn pages(field: &Field, logs: &Logs, ledger: &Ledger) -> anyhow::Result<Vec<Finding>> {
    let asked = logs.values().flat_map(|log| field.users.iter().map(move |user| (log, *user)));
    let asked = asked.filter(|(log, user)| log.seen_by(*user).is_some()).collect::<Vec<_>>();
    let pages = stream::iter(asked).map(async |(log, user)| {
        let page = server::newest(field, user, log.chat).await?;
        anyhow::Ok(judge::page(user, &page, log, ledger))
    });
    let found: Vec<Vec<Finding>> = pages.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Each group's members, asked for by each of them.
async fn members(field: &Field, logs: &Logs) -> anyhow::Result<Vec<Finding>> {
    let asked = logs.values().flat_map(|log| log.now().members.keys().map(move |user| (log, *user)));
    let asked = asked.filter(|(log, _)| !log.made.is_direct).collect::<Vec<_>>();
    let lists = stream::iter(asked).map(async |(log, user)| {
        let found = server::members(field, user, log.chat).await?;
        let expected = &log.now().members;
        let who = format!("GET members of user {user}");
        let finding = || Finding::new(Kind::Listed, log.chat, &who, format!("{expected:?}"), format!("{found:?}"));
        anyhow::Ok((found != *expected).then(finding))
    });
    let found: Vec<Option<Finding>> = lists.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}
