//! What a new owner does with a chat's log before it goes on: the rows that another owner left are cut to what is certain,
//! and written again as its own. See `docs/design/0004-ownership.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use confab_ids::{ChatId, Seq, UserId};
use confab_proto::message::v1::{Event, MembershipKind};
use prost::Message as _;

use super::body::{as_expired, changed_rows};
use super::maps::HashMap;
use super::marks::Marks;
use super::owner::key_and_sent;
use super::ownership::rules::{self, Rule};
use super::roster::{self, membership};
use super::sends::Sent;
use super::tail::EVENTS_MAX;
use crate::store::{BUCKET, Certain, ChatRecord, MemberRow, Roster, Row, SendKey, bucket_of};

impl Certain {
    /// How many rows there may be beyond `upto` that are not of this recovery, or not yet certain.
    pub(crate) fn span(&self) -> usize {
        let stale = usize::try_from(self.stale_upto.0.saturating_sub(self.upto.0)).unwrap_or(usize::MAX);
        stale.max(self.window as usize)
    }

    /// What a recovery says that has found the log to end at `upto`.
    pub(crate) fn next(&self, epoch: i64, upto: Seq, window: u32) -> Self {
        let of_last = Seq(upto.0.saturating_add(self.window.into()));
        let stale_upto = if rules::holds(Rule::StaleUpto) { self.stale_upto.max(of_last) } else { upto };
        Self { epoch, upto, window, stale_upto }
    }
}

/// One row of a log as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRow {
    pub seq: Seq,
    /// The recovery that it was written after.
    pub epoch: i64,
    /// An encoded event; empty at seq 0.
    pub bytes: Bytes,
}

/// A chat's log on its way into memory.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The chat's row as it was read last.
    pub record: ChatRecord,
    to_read: VecDeque<u32>,
    /// Rows at the log's end that are looked at: twice the span. A recovery that did not end may have found more than is there
    /// now, by up to a window; then as many rows lie beyond the certain end as the span says, and that window.
    tail: usize,
    rows: Vec<LogRow>,
    sends: Vec<(SendKey, Sent)>,
    rewrites: VecDeque<Vec<Row>>,
}

/// A recovery's end.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The chat as it was read, without its log.
    pub record: ChatRecord,
    /// The log's last event; the default one, if it has none.
    pub last: Event,
    /// Those among the rows that were looked at.
    pub sends: Vec<(SendKey, Sent)>,
    /// The events among those rows, encoded.
    pub newest: Vec<Bytes>,
}

impl Recovery {
    pub(crate) fn new(record: ChatRecord) -> Self {
        let upper = upper_bucket(&record);
        let mut to_read: VecDeque<u32> = upper.checked_sub(1).into_iter().chain([upper]).collect();
        if !rules::holds(Rule::LowerBeforeUpper) {
            to_read.make_contiguous().reverse();
        }
        let tail = record.certain.span().saturating_mul(2).max(2);
        Self { record, to_read, tail, rows: Vec::new(), sends: Vec::new(), rewrites: VecDeque::new() }
    }

    /// A chat's row that was read again, with the watermarks and the blocks of the first time: who owned it before writes no marks any
    /// more, or none that are worth another read, and who has blocked since then waits to tell of it.
    pub(crate) fn with_marks(&self, mut record: ChatRecord) -> ChatRecord {
        let known: HashMap<UserId, &Marks> =
            self.record.members.iter().map(|(member, marks)| (member.user, marks)).collect();
        for (member, marks) in &mut record.members {
            if let Some(known) = known.get(&member.user) {
                marks.clone_from(known);
            }
        }
        record.blocks.clone_from(&self.record.blocks);
        record
    }

    /// Whether the rows that were read are of the log's last buckets, and enough, by the chat's row as it was read again after
    /// them. If not, all is to be read again.
    pub(crate) fn confirmed(&self, record: &ChatRecord) -> bool {
        let enough = record.certain.span() <= self.record.certain.span();
        self.to_read.is_empty() && upper_bucket(record) == upper_bucket(&self.record) && enough
    }

    /// The bucket to read next, and how many of its newest rows; after the last one the chat's row, again, and then it is to
    /// be [`cut`](Self::cut).
    pub(crate) fn next(&self) -> Option<(u32, usize)> {
        self.to_read.front().map(|bucket| (*bucket, self.tail))
    }

    /// The rows of the bucket that was to be read, in any order.
    pub(crate) fn read(&mut self, rows: Vec<LogRow>) {
        self.to_read.pop_front();
        self.rows.extend(rows);
    }

    /// Keeps what is certain, and says what to write again as of `epoch`: one batch after another, each durable before the
    /// next. `false`: there is no log, which can't be. `window`: of who goes on with it.
    pub(crate) fn cut(&mut self, chat: ChatId, epoch: i64, window: u32) -> bool {
        self.rows.sort_unstable_by_key(|row| row.seq);
        let upper = upper_bucket(&self.record);
        let excess = self.rows.len().saturating_sub(self.tail);
        self.rows.drain(..excess);
        let first = match self.rows.first() {
            Some(row) if self.rows.len() == self.tail => row.seq,
            _ => Seq(u64::from(upper.saturating_sub(1)) * BUCKET),
        };
        self.rows.truncate(certain(&self.rows, first, self.record.certain));
        let Some(last) = self.rows.last() else { return false };
        let known = self.record.roster_seq;
        let fresh = rules::holds(Rule::RewriteWithFreshEpoch);
        let epoch = if fresh { epoch } else { last.epoch };
        self.record.certain = self.record.certain.next(epoch, last.seq, window);
        for row in &mut self.rows {
            row.epoch = epoch;
        }
        let as_it_was = self.chat_row();
        let mut changed = self.apply_changes();
        self.silence_expired(&mut changed);
        self.sends = self.rows.iter().filter_map(|row| key_and_sent(&decoded(row))).collect();
        if rules::holds(Rule::Rewrite) {
            self.rewrites = self.batches(chat, as_it_was);
        }
        if !changed.is_empty() {
            let row = |(seq, bytes)| Row::Event { chat, seq, epoch, bytes };
            self.rewrites.push_back(changed.into_iter().map(row).collect());
        }
        let changed = self.catch_up();
        if self.record.roster_seq > known {
            let kind = self.record.meta.kind;
            if !changed.is_empty() {
                self.rewrites.push_back(changed.into_iter().map(|member| Row::Member { chat, kind, member }).collect());
            }
            self.rewrites.push_back(vec![self.chat_row()]);
        }
        true
    }

    /// The chat's row was written, and its log not begun: nobody was told of it.
    pub(crate) fn is_unmade(&self) -> bool {
        self.record.roster_seq == Seq::ZERO
    }

    fn chat_row(&self) -> Row {
        let members = self.record.members.iter().map(|(member, _)| member.clone()).collect();
        let ChatRecord { meta, roster_seq, certain, .. } = &self.record;
        Row::Chat { meta: meta.clone(), roster: Some(Roster { seq: *roster_seq, members, certain: *certain }) }
    }

    /// Changes the rows that edits and deletions among them have changed: the owner before may have stored such an event, and no more.
    /// Gives out those that lie below them all.
    fn apply_changes(&mut self) -> BTreeMap<Seq, Bytes> {
        let mut changed = BTreeMap::new();
        if !rules::holds(Rule::RedoChanges) {
            return changed;
        }
        for event in self.rows.iter().map(decoded) {
            // The last one counts.
            let rows =
                changed_rows(&event).iter().filter_map(|row| Some((Seq(Event::decode(&row[..]).ok()?.seq), row)));
            changed.extend(rows.map(|(seq, row)| (seq, row.clone())));
        }
        for row in &mut self.rows {
            if let Some(bytes) = changed.remove(&row.seq) {
                row.bytes = bytes;
            }
        }
        changed
    }

    /// What has expired stays so: the rows may have been read before the owner before wrote them without their words, and an event that
    /// changed one still carries it. `changed`: those below the rows.
    fn silence_expired(&mut self, changed: &mut BTreeMap<Seq, Bytes>) {
        let upto = if rules::holds(Rule::StaySilent) { self.record.meta.expired_upto } else { Seq::ZERO };
        for bytes in self.rows.iter_mut().map(|row| &mut row.bytes).chain(changed.values_mut()) {
            if let Some(silent) = Event::decode(&bytes[..]).ok().and_then(|event| as_expired(&event, upto)) {
                *bytes = silent.encode_to_vec().into();
            }
        }
    }

    /// Brings the chat's row up to the log: the owner before may have stored an event that changes it, and no more. Gives out
    /// whose lists may say something else.
    fn catch_up(&mut self) -> Vec<MemberRow> {
        if !rules::holds(Rule::RedoMembers) {
            return Vec::new();
        }
        let mut members: Vec<MemberRow> = self.record.members.iter().map(|(member, _)| member.clone()).collect();
        let mut changed = BTreeSet::new();
        for event in self.rows.iter().map(decoded) {
            let Some(membership) = membership(&event).filter(|_| event.seq > self.record.roster_seq.0) else {
                continue;
            };
            self.record.roster_seq = Seq(event.seq);
            if membership.kind() == MembershipKind::Created {
                changed.extend(0..members.len());
            }
            changed.extend(roster::apply(&mut members, &event));
            self.record.meta.apply(&event);
        }
        let changed: Vec<MemberRow> = changed.into_iter().map(|slot| members[slot].clone()).collect();
        let known = &mut self.record.members;
        for member in &changed {
            match known.get_mut(member.slot as usize) {
                Some((before, _)) if before.user == member.user => *before = member.clone(),
                Some(before) => *before = (member.clone(), Marks::default()),
                None => known.push((member.clone(), Marks::default())),
            }
        }
        changed
    }

    /// The chat's row, then the upper bucket: were it the lower, a second recovery could take the first one's rows for the log's end.
    fn batches(&self, chat: ChatId, chat_row: Row) -> VecDeque<Vec<Row>> {
        let mut by_bucket: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
        for LogRow { seq, epoch, bytes } in self.rows.iter().cloned() {
            by_bucket.entry(bucket_of(seq)).or_default().push(Row::Event { chat, seq, epoch, bytes });
        }
        for (key, sent) in self.sends.iter().cloned() {
            by_bucket.entry(bucket_of(sent.seq)).or_default().push(Row::Send { chat, key, sent });
        }
        let mut batches: VecDeque<Vec<Row>> = by_bucket.into_values().rev().collect();
        if !rules::holds(Rule::RewriteUpperFirst) {
            batches.make_contiguous().reverse();
        }
        if rules::holds(Rule::RosterBeforeRewrite) {
            // Alone, and before the log is changed: else the owner before could yet add a member whose event is cut.
            batches.push_front(vec![chat_row]);
        } else if let Some(batch) = batches.front_mut() {
            batch.push(chat_row);
        }
        batches
    }

    /// The next batch to write.
    pub(crate) fn next_batch(&mut self) -> Option<Vec<Row>> {
        self.rewrites.pop_front()
    }

    /// Its end, once all batches are stored.
    pub(crate) fn done(self) -> Recovered {
        let last = self.rows.last().map(decoded).unwrap_or_default();
        // Copied: a row may be a part of all that was read with it.
        let newest = self.rows[self.rows.len().saturating_sub(EVENTS_MAX)..].iter().filter(|row| row.seq > Seq::ZERO);
        let newest = newest.map(|row| Bytes::copy_from_slice(&row.bytes)).collect();
        Recovered { record: self.record, last, sends: self.sends, newest }
    }
}

/// The bucket that was opened last: the log ends in it or in the one before.
fn upper_bucket(record: &ChatRecord) -> u32 {
    record.meta.openings.last().map_or(0, |opening| opening.bucket)
}

fn decoded(row: &LogRow) -> Event {
    Event::decode(&row.bytes[..]).unwrap_or_default()
}

/// How many of these ascending rows are certain: up to the first hole, and beyond the last recovery's end up to the first
/// row that is not of it.
fn certain(rows: &[LogRow], first: Seq, last: Certain) -> usize {
    let mut expected = first;
    for (at, row) in rows.iter().enumerate() {
        let hole = row.seq != expected && rules::holds(Rule::CutAtHole);
        let other = row.seq > last.upto && row.epoch != last.epoch && rules::holds(Rule::CutOtherEpochs);
        if hole || other {
            return at;
        }
        expected = row.seq.next();
    }
    rows.len()
}

#[cfg(test)]
mod tests {
    use confab_proto::message::v1::{ChatKind, Content, Edit};

    use super::*;
    use crate::core::body::Body;
    use crate::store::Meta;

    fn rows(rows: &[(u64, i64)]) -> Vec<LogRow> {
        rows.iter().map(|(seq, epoch)| LogRow { seq: Seq(*seq), epoch: *epoch, bytes: Bytes::new() }).collect()
    }

    #[test]
    fn a_log_is_certain_up_to_its_first_hole_and_beyond_the_last_recovery_in_its_epoch() {
        let at = |epoch, upto| Certain { epoch, upto: Seq(upto), window: 4, stale_upto: Seq(upto) };
        assert_eq!(certain(&rows(&[(0, 1), (1, 1), (3, 1)]), Seq(0), at(1, 0)), 2);
        assert_eq!(certain(&rows(&[(0, 1), (1, 2), (2, 2), (3, 1)]), Seq(0), at(2, 0)), 3);
        // The recovery's rows are not all there yet.
        assert_eq!(certain(&rows(&[(0, 1), (1, 2), (2, 1), (3, 1)]), Seq(0), at(2, 2)), 3);
        assert_eq!(certain(&rows(&[(1, 1)]), Seq(0), at(1, 0)), 0);
        assert_eq!(certain(&[], Seq(0), at(1, 0)), 0);
    }

    #[test]
    fn what_has_expired_is_not_written_again_as_it_was_before() {
        let event = |seq, body| Event { seq, body: Some(body), ..Event::default() };
        let text = |text: &str| Content { text: text.into(), ..Content::default() };
        let said = |seq| event(seq, Body::Content(text("old words")));
        // The last edit of an old message, which carries its row; and one of a message that hasn't expired.
        let edit = |seq, target| {
            let rows = vec![Bytes::from(said(target).encode_to_vec())];
            event(seq, Body::Edit(Edit { target, text: "old words".into(), rows }))
        };
        let log = [said(1), said(2), said(3), edit(4, 2), edit(5, 3)];
        let log = log.iter().map(|event| (event.seq, Bytes::from(event.encode_to_vec())));
        let rows = [(0, Bytes::new())].into_iter().chain(log);
        let rows = rows.map(|(seq, bytes)| LogRow { seq: Seq(seq), epoch: 1, bytes }).collect();
        let record = ChatRecord {
            meta: Meta {
                chat: ChatId(7),
                kind: ChatKind::Direct,
                title: String::new(),
                created_by: UserId(1),
                created_at_ms: 0,
                openings: Vec::new(),
                expired_upto: Seq(2),
            },
            members: Vec::new(),
            roster_seq: Seq(1),
            certain: Certain { epoch: 1, upto: Seq(5), window: 4, stale_upto: Seq(9) },
            head: Seq::ZERO,
            count: 0,
            last_at_ms: 0,
            blocks: Vec::new(),
        };
        let mut recovery = Recovery::new(record);
        recovery.read(rows);
        assert!(recovery.cut(ChatId(7), 2, 4));
        let written = std::iter::from_fn(|| recovery.next_batch()).flatten();
        let speaking = written.filter_map(|row| match row {
            Row::Event { seq, bytes, .. } => bytes.windows(9).any(|part| part == b"old words").then_some(seq.0),
            _ => None,
        });
        assert_eq!(speaking.collect::<BTreeSet<_>>(), BTreeSet::from([3, 5]));
    }
}
