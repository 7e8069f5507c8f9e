//! Who has to get what, pure and synchronous: publications wait for the whereabouts of their recipients, become one
//! delivery per edge, and settle when every edge has said that it has it, or is gone.
//!
//! [`lookups`] finds the edges, [`queue`] keeps what an edge has not acknowledged.

pub(crate) mod lookups;
#[cfg(test)]
mod model_test;
pub(crate) mod queue;

use std::collections::HashMap;
use std::sync::Arc;

use confab_mesh::rendezvous;
use confab_mesh::views::Names;
use confab_proto::fanout::v1::{Delivery, Publication, delivery, publication};
use confab_proto::presence::v1::LocateResponse;

use self::lookups::{Found, Lookups, Questions, Results, Subject};
use self::queue::Queue;

/// A publisher's stream.
pub(crate) type Publisher = u64;

/// An edge's stream.
pub(crate) type Attachment = u64;

/// A publication: whose, and its id there.
pub(crate) type Ticket = (Publisher, u64);

/// How often presence is asked whether an edge lives that something is kept for and that has no stream, milliseconds.
const CHECK_MS: u64 = 1_000;

/// What an input led to.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// For presence, each instance's in this order.
    pub questions: Questions,
    pub deliveries: Vec<(Attachment, Vec<Delivery>)>,
    pub settled: Vec<Ticket>,
    /// Edges' streams to end: they acknowledge nothing, or a newer one has begun.
    pub cut: Vec<Attachment>,
    /// Presence's streams to end: they don't answer.
    pub late: Vec<Arc<str>>,
    /// Publications whose recipients could not all be found out, and that count as settled all the same.
    pub lost: Vec<Ticket>,
    /// Publications that count as settled while an edge has but a marker of them to come.
    pub overdue: usize,
}

#[derive(Debug)]
pub(crate) struct Router {
    lookups: Lookups,
    edges: HashMap<Arc<str>, Queue>,
    attached: HashMap<Attachment, Arc<str>>,
    /// How many edges still have to acknowledge a publication; one more while they are looked for.
    open: HashMap<Ticket, u32>,
}

impl Router {
    /// With presence's instances as they are listed.
    pub(crate) fn new(presences: Names) -> Self {
        Self { lookups: Lookups::new(presences), edges: HashMap::new(), attached: HashMap::new(), open: HashMap::new() }
    }

    /// Publications whose recipients are being looked for.
    pub(crate) fn waiting(&self) -> usize {
        self.lookups.len()
    }

    pub(crate) fn publish(&mut self, now_ms: u64, publisher: Publisher, batch: Vec<Publication>, fx: &mut Effects) {
        let mut results = Results::default();
        for mut publication in batch {
            let ticket = (publisher, publication.id);
            let users = std::mem::take(&mut publication.user_ids);
            self.open.insert(ticket, 1);
            let subject = Subject { ticket, publication, gone_from: None };
            self.lookups.begin(now_ms, subject, users, &mut results);
        }
        self.take(now_ms, results, fx);
    }

    pub(crate) fn presences_listed(&mut self, now_ms: u64, presences: Names) {
        self.lookups.listed(now_ms, presences);
    }

    pub(crate) fn presence_connected(&mut self, presence: Arc<str>) {
        self.lookups.connected(presence);
    }

    pub(crate) fn presence_lost(&mut self, now_ms: u64, presence: &str, fx: &mut Effects) {
        let mut results = Results::default();
        self.lookups.lost(now_ms, presence, &mut results);
        self.take(now_ms, results, fx);
    }

    pub(crate) fn located(&mut self, now_ms: u64, presence: &str, answer: LocateResponse, fx: &mut Effects) {
        let mut results = Results::default();
        self.lookups.answered(now_ms, presence, answer, &mut results);
        self.take(now_ms, results, fx);
    }

    fn take(&mut self, now_ms: u64, mut results: Results, fx: &mut Effects) {
        self.lookups.ask(&mut results);
        fx.questions.append(&mut results.questions);
        for found in results.found {
            self.route(now_ms, found, fx);
        }
        for edge in results.dead {
            if self.edges.get(edge.as_str()).is_some_and(|queue| queue.attachment.is_none()) {
                let queue = self.edges.remove(edge.as_str()).unwrap_or_default();
                queue.into_tickets().for_each(|ticket| self.settle(ticket, fx));
            }
        }
    }

    fn route(&mut self, now_ms: u64, found: Found, fx: &mut Effects) {
        let Found { subject, edges, is_last, given_up } = found;
        for users in edges {
            if subject.gone_from.as_deref() == Some(users.edge_id.as_str()) {
                continue;
            }
            let delivery = Delivery {
                id: 0,
                chat_id: subject.publication.chat_id,
                seq: subject.publication.seq,
                settled: subject.publication.settled,
                user_ids: users.user_ids,
                payload: subject.publication.payload.clone().map(payload),
            };
            self.deliver(now_ms, &users.edge_id, &subject, delivery, fx);
        }
        if is_last {
            if given_up {
                fx.lost.push(subject.ticket);
            }
            self.settle(subject.ticket, fx);
        }
    }

    fn deliver(&mut self, now_ms: u64, edge: &str, subject: &Subject, delivery: Delivery, fx: &mut Effects) {
        if let Some(open) = self.open.get_mut(&subject.ticket) {
            *open += 1;
        }
        if !self.edges.contains_key(edge) {
            self.edges.insert(edge.into(), Queue::new(now_ms));
        }
        let Some(queue) = self.edges.get_mut(edge) else { return };
        let sent = queue.push(now_ms, subject.ticket, subject.gone_from.is_none(), delivery);
        if let Some((attachment, delivery)) = sent {
            match fx.deliveries.iter_mut().find(|(to, _)| *to == attachment) {
                Some((_, deliveries)) => deliveries.push(delivery),
                None => fx.deliveries.push((attachment, vec![delivery])),
            }
        }
    }

    fn settle(&mut self, ticket: Ticket, fx: &mut Effects) {
        let Some(open) = self.open.get_mut(&ticket) else { return };
        *open -= 1;
        if *open == 0 {
            self.open.remove(&ticket);
            fx.settled.push(ticket);
        }
    }

    /// An edge's stream begins: what the edge has not acknowledged goes out on it, in order.
    pub(crate) fn attach(&mut self, edge: &str, attachment: Attachment, fx: &mut Effects) {
        let name: Arc<str> = edge.into();
        let queue = self.edges.entry(name.clone()).or_default();
        let older = queue.attachment.replace(attachment);
        let unacked = queue.unacked();
        if !unacked.is_empty() {
            fx.deliveries.push((attachment, unacked));
        }
        self.attached.insert(attachment, name);
        if let Some(older) = older {
            self.attached.remove(&older);
            fx.cut.push(older);
        }
    }

    /// An edge's stream has ended: what it has not acknowledged is kept for a while.
    pub(crate) fn detach(&mut self, now_ms: u64, attachment: Attachment) {
        let Some(name) = self.attached.remove(&attachment) else { return };
        let Some(queue) = self.edges.get_mut(&name) else { return };
        queue.attachment = None;
        queue.asked_ms = now_ms;
        if queue.is_empty() {
            self.edges.remove(&name);
        }
    }

    fn queue(&mut self, attachment: Attachment) -> Option<(&Arc<str>, &mut Queue)> {
        let name = self.attached.get(&attachment)?;
        Some((name, self.edges.get_mut(name)?))
    }

    /// An edge has handed all deliveries up to `id` to their sessions.
    pub(crate) fn delivered(&mut self, attachment: Attachment, id: u64, fx: &mut Effects) {
        let Some((_, queue)) = self.queue(attachment) else { return };
        queue.acked(id).into_iter().for_each(|ticket| self.settle(ticket, fx));
    }

    /// Some recipients of a delivery have no session at the edge: they are looked for once more.
    pub(crate) fn gone(&mut self, now_ms: u64, attachment: Attachment, id: u64, users: Vec<u64>, fx: &mut Effects) {
        let Some((name, queue)) = self.queue(attachment) else { return };
        let name = name.clone();
        let Some((ticket, delivery)) = queue.first_try(id) else { return };
        let publication = Publication {
            id: ticket.1,
            chat_id: delivery.chat_id,
            seq: delivery.seq,
            settled: delivery.settled,
            user_ids: Vec::new(),
            payload: delivery.payload.clone().map(payload_again),
        };
        let users: Vec<u64> = users.into_iter().filter(|user| delivery.user_ids.contains(user)).collect();
        if let Some(open) = self.open.get_mut(&ticket) {
            *open += 1;
            let mut results = Results::default();
            let subject = Subject { ticket, publication, gone_from: Some(name) };
            self.lookups.begin(now_ms, subject, users, &mut results);
            self.take(now_ms, results, fx);
        }
    }

    /// Does what is due by now.
    pub(crate) fn tick(&mut self, now_ms: u64, fx: &mut Effects) {
        let mut results = Results::default();
        fx.late = self.lookups.tick(now_ms, &mut results);
        let mut tickets = Vec::new();
        for (name, queue) in &mut self.edges {
            if let Some(attachment) = queue.attachment.filter(|_| queue.is_stuck(now_ms)) {
                queue.attachment = None;
                self.attached.remove(&attachment);
                fx.cut.push(attachment);
            }
            if queue.attachment.is_none() {
                tickets.extend(queue.condense(now_ms));
                if queue.asked_ms + CHECK_MS <= now_ms {
                    queue.asked_ms = now_ms;
                    self.lookups.check(now_ms, name, rendezvous::score(0, name));
                }
            }
            let overdue = queue.overdue(now_ms);
            fx.overdue += overdue.len();
            tickets.extend(overdue);
        }
        self.edges.retain(|_, queue| queue.attachment.is_some() || !queue.is_empty());
        tickets.into_iter().for_each(|ticket| self.settle(ticket, fx));
        self.take(now_ms, results, fx);
    }
}

fn payload(payload: publication::Payload) -> delivery::Payload {
    match payload {
        publication::Payload::Event(event) => delivery::Payload::Event(event),
        publication::Payload::Receipt(receipt) => delivery::Payload::Receipt(receipt),
    }
}

fn payload_again(payload: delivery::Payload) -> publication::Payload {
    match payload {
        delivery::Payload::Event(event) => publication::Payload::Event(event),
        delivery::Payload::Receipt(receipt) => publication::Payload::Receipt(receipt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::presence::v1::{EdgeUsers, Location};

    fn router() -> Router {
        let mut router = Router::new([Arc::from("p")].into());
        router.presence_connected("p".into());
        router
    }

    fn publication(id: u64) -> Publication {
        Publication { id, chat_id: 1, seq: id, user_ids: vec![1, 2], ..Publication::default() }
    }

    fn on(edges: &[(&str, &[u64])]) -> Location {
        let users = |(edge, users): &(&str, &[u64])| EdgeUsers { edge_id: (*edge).into(), user_ids: users.to_vec() };
        Location { edges: edges.iter().map(users).collect() }
    }

    fn publish(router: &mut Router, now_ms: u64, ids: impl IntoIterator<Item = u64>) -> Effects {
        let mut fx = Effects::default();
        router.publish(now_ms, 5, ids.into_iter().map(publication).collect(), &mut fx);
        fx
    }

    fn located(router: &mut Router, now_ms: u64, locations: Vec<Location>) -> Effects {
        let mut fx = Effects::default();
        router.located(now_ms, "p", LocateResponse { locations, ..LocateResponse::default() }, &mut fx);
        fx
    }

    fn attach(router: &mut Router, edge: &str, attachment: Attachment) -> Vec<(u64, u64)> {
        let mut fx = Effects::default();
        router.attach(edge, attachment, &mut fx);
        fx.deliveries.into_iter().flat_map(|(_, all)| all).map(|delivery| (delivery.id, delivery.seq)).collect()
    }

    fn delivered(router: &mut Router, attachment: Attachment, id: u64) -> Vec<Ticket> {
        let mut fx = Effects::default();
        router.delivered(attachment, id, &mut fx);
        fx.settled
    }

    fn tick(router: &mut Router, now_ms: u64) -> Effects {
        let mut fx = Effects::default();
        router.tick(now_ms, &mut fx);
        fx
    }

    #[test]
    fn a_publication_settles_when_the_last_of_its_edges_has_it() {
        let mut router = router();
        attach(&mut router, "a", 10);
        attach(&mut router, "b", 11);
        let fx = publish(&mut router, 0, [1, 2]);
        assert_eq!(fx.questions[0].1.sets.len(), 2);
        let fx = located(&mut router, 0, vec![on(&[("a", &[1]), ("b", &[2])]), on(&[("b", &[1, 2])])]);
        assert!(fx.settled.is_empty());
        let shape: Vec<_> =
            fx.deliveries.iter().map(|(edge, all)| (*edge, all.iter().map(|d| d.seq).collect())).collect();
        assert_eq!(shape, [(10, vec![1]), (11, vec![1, 2])]);
        assert!(delivered(&mut router, 10, 1).is_empty());
        assert_eq!(delivered(&mut router, 11, 2), [(5, 1), (5, 2)]);
        assert!(router.open.is_empty());
    }

    #[test]
    fn nobody_there_settles_and_an_edge_without_a_stream_does_not_until_it_has_it() {
        let mut router = router();
        publish(&mut router, 0, 1..=3);
        let fx = located(&mut router, 0, vec![on(&[]), on(&[("a", &[1])]), on(&[("a", &[1])])]);
        assert_eq!((fx.settled, fx.deliveries.len()), (vec![(5, 1)], 0));
        assert_eq!(attach(&mut router, "a", 10), [(1, 2), (2, 3)]);
        assert_eq!(delivered(&mut router, 10, 1), [(5, 2)]);
        router.detach(20, 10);
        assert_eq!(attach(&mut router, "a", 11), [(2, 3)]);
        assert!(delivered(&mut router, 10, 2).is_empty());
        assert_eq!(delivered(&mut router, 11, 2), [(5, 3)]);
    }

    #[test]
    fn what_is_kept_for_an_edge_settles_when_presence_knows_the_edge_no_longer() {
        let mut router = router();
        publish(&mut router, 0, [1]);
        located(&mut router, 0, vec![on(&[("a", &[1])])]);
        assert!(tick(&mut router, CHECK_MS - 1).questions.is_empty());
        assert_eq!(tick(&mut router, CHECK_MS).questions[0].1.edge_ids, ["a"]);
        let mut fx = Effects::default();
        let lives = LocateResponse { live_edge_ids: vec!["a".into()], ..LocateResponse::default() };
        router.located(CHECK_MS, "p", lives, &mut fx);
        assert!(fx.settled.is_empty());
        tick(&mut router, 2 * CHECK_MS);
        assert_eq!(located(&mut router, 2 * CHECK_MS, Vec::new()).settled, [(5, 1)]);
        assert!(router.edges.is_empty());
    }

    #[test]
    fn an_edge_that_acknowledges_nothing_is_cut_and_gets_markers() {
        for (count, at) in [(1, queue::KEPT_MS), (queue::KEPT_MAX as u64 + 1, 0)] {
            let mut router = router();
            attach(&mut router, "a", 10);
            publish(&mut router, 0, 1..=count);
            for _ in 0..count.div_ceil(64) {
                located(&mut router, 0, vec![on(&[("a", &[1])]); 64]);
            }
            let fx = tick(&mut router, at);
            assert_eq!((fx.cut, fx.settled.len()), (vec![10], 0));
            assert_eq!(attach(&mut router, "a", 11), [(count, count)]);
            assert_eq!(delivered(&mut router, 11, count).len() as u64, count);
        }
    }

    #[test]
    fn who_is_gone_is_looked_for_once_more() {
        let mut router = router();
        attach(&mut router, "a", 10);
        attach(&mut router, "b", 11);
        publish(&mut router, 0, [1]);
        located(&mut router, 0, vec![on(&[("a", &[1, 2])])]);
        let mut fx = Effects::default();
        router.gone(0, 10, 1, vec![2, 99], &mut fx);
        assert_eq!(fx.questions[0].1.sets[0].user_ids, [2]);
        assert!(delivered(&mut router, 10, 1).is_empty());
        let fx = located(&mut router, 0, vec![on(&[("a", &[2]), ("b", &[2])])]);
        let (to, deliveries) = &fx.deliveries[0];
        assert_eq!((*to, &deliveries[0].user_ids), (11, &vec![2]));
        let mut again = Effects::default();
        router.gone(0, 11, 1, vec![2], &mut again);
        assert!(again.questions.is_empty());
        assert_eq!(delivered(&mut router, 11, 1), [(5, 1)]);
    }
}
