//! What one edge has been given and has not acknowledged. It is kept while the edge's stream is away; what is too old or too
//! much becomes markers, one per chat, by which the edge's sessions read the log.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use confab_proto::fanout::v1::Delivery;

use super::{Attachment, Ticket};

/// Deliveries that are kept for an edge. Beyond it all of them become markers.
pub(crate) const KEPT_MAX: usize = 65_536;

/// How long a delivery is kept, milliseconds.
pub(crate) const KEPT_MS: u64 = 10_000;

/// Chats with a marker per edge. Beyond it one marker stands for all chats.
pub(crate) const MARKERS_MAX: usize = 65_536;

/// How long what a marker stands for counts as unsettled, milliseconds. Then its publishers are let go, for else one edge that
/// can't come here would in the end hold up every chat. The marker stays. Well below the minute for which a connection
/// remembers a chat without traffic: until then a repeat is known as one.
pub(crate) const UNSETTLED_MS: u64 = 20_000;

/// The marker of all chats.
const ALL_CHATS: u64 = 0;

#[derive(Debug)]
struct Kept {
    at_ms: u64,
    ticket: Ticket,
    /// The edge may answer `GONE`.
    first_try: bool,
    delivery: Delivery,
}

#[derive(Debug)]
struct Marker {
    chat: u64,
    head: u64,
    users: BTreeSet<u64>,
    since_ms: u64,
    /// Bounded by what its publishers leave unsettled, and by [`UNSETTLED_MS`].
    tickets: Vec<Ticket>,
}

/// One edge's queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub attachment: Option<Attachment>,
    /// When presence was asked whether the edge lives.
    pub asked_ms: u64,
    last_id: u64,
    /// By ascending id.
    kept: VecDeque<Kept>,
    /// By id; all before the first that is kept.
    markers: BTreeMap<u64, Marker>,
    by_chat: HashMap<u64, u64>,
}

impl Queue {
    /// Of an edge that has no stream now.
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { asked_ms: now_ms, ..Self::default() }
    }

    /// Numbers and keeps a delivery; returns it, if there is a stream to send it on.
    pub(crate) fn push(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        first_try: bool,
        mut delivery: Delivery,
    ) -> Option<(Attachment, Delivery)> {
        self.last_id += 1;
        delivery.id = self.last_id;
        let sent = self.attachment.map(|attachment| (attachment, delivery.clone()));
        self.kept.push_back(Kept { at_ms: now_ms, ticket, first_try, delivery });
        sent
    }

    /// All that is not acknowledged, in order, for a new stream.
    pub(crate) fn unacked(&self) -> Vec<Delivery> {
        let marker = |(id, marker): (&u64, &Marker)| Delivery {
            id: *id,
            chat_id: marker.chat,
            seq: marker.head,
            user_ids: marker.users.iter().copied().collect(),
            ..Delivery::default()
        };
        self.markers.iter().map(marker).chain(self.kept.iter().map(|kept| kept.delivery.clone())).collect()
    }

    /// The edge has all up to `id`: what it was about.
    pub(crate) fn acked(&mut self, id: u64) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while let Some(first) = self.markers.first_entry().filter(|first| *first.key() <= id) {
            let marker = first.remove();
            self.by_chat.remove(&marker.chat);
            tickets.extend(marker.tickets);
        }
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.delivery.id <= id) {
            tickets.push(kept.ticket);
        }
        tickets
    }

    /// The delivery that an edge says some recipients are gone of; `None`: it was acknowledged, is a marker, or a second try.
    pub(crate) fn first_try(&self, id: u64) -> Option<(Ticket, &Delivery)> {
        let at = self.kept.binary_search_by_key(&id, |kept| kept.delivery.id).ok()?;
        let kept = self.kept.get(at)?;
        kept.first_try.then_some((kept.ticket, &kept.delivery))
    }

    /// An edge with a stream has left too much or something for too long.
    pub(crate) fn is_stuck(&self, now_ms: u64) -> bool {
        self.kept.len() > KEPT_MAX || self.kept.front().is_some_and(|kept| kept.at_ms + KEPT_MS <= now_ms)
    }

    /// Makes markers of what is too old, or of all if it is too much. Returns what has nothing more to wait for: receipts,
    /// which are not part of any log.
    pub(crate) fn condense(&mut self, now_ms: u64) -> Vec<Ticket> {
        let all = self.kept.len() > KEPT_MAX;
        let mut receipts = Vec::new();
        while let Some(kept) = self.kept.pop_front_if(|kept| all || kept.at_ms + KEPT_MS <= now_ms) {
            if kept.delivery.seq == 0 {
                receipts.push(kept.ticket);
            } else {
                self.mark(now_ms, kept);
            }
        }
        receipts
    }

    /// What has waited too long as a marker.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> Vec<Ticket> {
        let overdue = self.markers.values_mut().filter(|marker| marker.since_ms + UNSETTLED_MS <= now_ms);
        overdue.flat_map(|marker| std::mem::take(&mut marker.tickets)).collect()
    }

    fn mark(&mut self, now_ms: u64, kept: Kept) {
        let Kept { ticket, delivery, .. } = kept;
        let everything = self.by_chat.contains_key(&ALL_CHATS);
        let chat = if everything { ALL_CHATS } else { delivery.chat_id };
        let older = self.by_chat.insert(chat, delivery.id).and_then(|id| self.markers.remove(&id));
        let fresh = || Marker { chat, head: 0, users: BTreeSet::new(), since_ms: now_ms, tickets: Vec::new() };
        let mut marker = older.unwrap_or_else(fresh);
        if marker.tickets.is_empty() {
            // What it stood for before was given up, if there was any.
            marker.since_ms = now_ms;
        }
        marker.tickets.push(ticket);
        if !everything {
            marker.head = marker.head.max(delivery.seq);
            marker.users.extend(delivery.user_ids);
        }
        self.markers.insert(delivery.id, marker);
        if self.markers.len() > MARKERS_MAX {
            self.mark_everything(now_ms, delivery.id);
        }
    }

    fn mark_everything(&mut self, now_ms: u64, id: u64) {
        let tickets = std::mem::take(&mut self.markers).into_values().flat_map(|marker| marker.tickets).collect();
        let marker = Marker { chat: ALL_CHATS, head: 0, users: BTreeSet::new(), since_ms: now_ms, tickets };
        self.markers.insert(id, marker);
        self.by_chat = HashMap::from([(ALL_CHATS, id)]);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.markers.is_empty()
    }

    /// The edge is gone: what it will never acknowledge.
    pub(crate) fn into_tickets(self) -> impl Iterator<Item = Ticket> {
        let marked = self.markers.into_values().flat_map(|marker| marker.tickets);
        marked.chain(self.kept.into_iter().map(|kept| kept.ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(chat_id: u64, seq: u64, users: &[u64]) -> Delivery {
        Delivery { chat_id, seq, user_ids: users.to_vec(), ..Delivery::default() }
    }

    fn shape(queue: &Queue) -> Vec<(u64, u64, u64, Vec<u64>)> {
        queue.unacked().into_iter().map(|kept| (kept.id, kept.chat_id, kept.seq, kept.user_ids)).collect()
    }

    #[test]
    fn what_is_too_old_becomes_one_marker_per_chat_before_what_is_kept() {
        let mut queue = Queue::default();
        for (at, chat, seq) in [(0, 1, 1), (0, 2, 1), (1, 1, 2), (1, 1, 0), (5_000, 1, 3)] {
            assert!(queue.push(at, (1, seq), true, delivery(chat, seq, &[seq + 10])).is_none());
        }
        assert!(!queue.is_stuck(KEPT_MS - 1) && queue.is_stuck(KEPT_MS));
        assert_eq!(queue.condense(KEPT_MS + 1), [(1, 0)]);
        assert_eq!(shape(&queue), [(2, 2, 1, vec![11]), (3, 1, 2, vec![11, 12]), (5, 1, 3, vec![13])]);
        assert_eq!(queue.acked(3), [(1, 1), (1, 1), (1, 2)]);
        assert_eq!(queue.acked(9), [(1, 3)]);
        assert!(queue.is_empty() && queue.by_chat.is_empty());
    }

    #[test]
    fn what_waits_too_long_as_a_marker_is_let_go_and_its_marker_stays() {
        let mut queue = Queue::default();
        queue.push(0, (1, 1), true, delivery(1, 1, &[1]));
        queue.condense(KEPT_MS);
        assert!(queue.overdue(KEPT_MS + UNSETTLED_MS - 1).is_empty());
        assert_eq!(queue.overdue(KEPT_MS + UNSETTLED_MS), [(1, 1)]);
        assert_eq!(shape(&queue).len(), 1);
        assert!(queue.acked(1).is_empty() && queue.is_empty());
    }

    #[test]
    fn too_much_becomes_markers_at_once_and_too_many_markers_one() {
        let mut queue = Queue::default();
        for chat in 1..=KEPT_MAX as u64 + 1 {
            queue.push(0, (1, chat), true, delivery(chat, 1, &[1]));
        }
        assert!(queue.is_stuck(0));
        queue.condense(0);
        assert_eq!(shape(&queue), [(MARKERS_MAX as u64 + 1, 0, 0, vec![])]);
        queue.push(0, (1, 7), true, delivery(7, 2, &[1]));
        queue.condense(KEPT_MS);
        assert_eq!(shape(&queue), [(MARKERS_MAX as u64 + 2, 0, 0, vec![])]);
        assert_eq!(queue.into_tickets().count(), MARKERS_MAX + 2);
    }
}
