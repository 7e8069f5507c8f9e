//! Who has to get what, pure and synchronous: publications wait for the whereabouts of their recipients, become one
//! delivery per edge, and settle when every edge has said that it has it.
//!
//! An edge whose stream is missing or breaks settles at once what was meant for it: when it attaches again, it catches all
//! of its sessions up from the log. So nothing has to be kept for it here.

use std::collections::{HashMap, VecDeque};

use confab_proto::fanout::v1::{Delivery, Publication, delivery, publication};
use confab_proto::presence::v1::{LocateRequest, Location, UserSet};

/// A publisher's stream.
pub(crate) type Publisher = u64;

/// An edge's stream.
pub(crate) type Attachment = u64;

/// What a publisher is told: these of its publications have settled.
pub(crate) type Settled = Vec<(Publisher, u64)>;

/// Deliveries that an edge may leave unacknowledged. Beyond it its stream is cut, so that a frozen edge holds up nobody.
pub(crate) const UNACKED_MAX: usize = 65_536;

#[derive(Debug)]
struct Edge {
    attachment: Attachment,
    last_id: u64,
    /// Sent and not acknowledged: delivery id, publication.
    unacked: VecDeque<(u64, (Publisher, u64))>,
}

/// What comes of one located batch.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    pub deliveries: Vec<(Attachment, Vec<Delivery>)>,
    pub settled: Settled,
    /// Streams to cut: their edges are too far behind.
    pub cut: Vec<Attachment>,
}

#[derive(Debug, Default)]
pub(crate) struct Router {
    edges: HashMap<String, Edge>,
    /// Batches whose recipients are being located, in the order of the questions.
    locating: VecDeque<(Publisher, Vec<Publication>)>,
    /// How many edges still have to acknowledge a publication.
    open: HashMap<(Publisher, u64), u32>,
}

impl Router {
    /// Takes a batch; the question about it has to be asked before the next one's.
    pub(crate) fn publish(&mut self, publisher: Publisher, batch: Vec<Publication>) -> LocateRequest {
        let question = question(&batch);
        self.locating.push_back((publisher, batch));
        question
    }

    /// The questions that were not answered, for a new stream to presence.
    pub(crate) fn unanswered(&self) -> Vec<LocateRequest> {
        self.locating.iter().map(|(_, batch)| question(batch)).collect()
    }

    /// Batches that wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.locating.len()
    }

    /// The answer to the oldest question.
    pub(crate) fn located(&mut self, locations: Vec<Location>) -> Routed {
        let mut routed = Routed::default();
        let Some((publisher, batch)) = self.locating.pop_front() else { return routed };
        for (publication, location) in batch.into_iter().zip(locations) {
            self.route(publisher, publication, location, &mut routed);
        }
        let full = |edge: &Edge| (edge.unacked.len() > UNACKED_MAX).then_some(edge.attachment);
        routed.cut = self.edges.values().filter_map(full).collect();
        for attachment in routed.cut.clone() {
            routed.settled.extend(self.detach(attachment));
        }
        routed
    }

    fn route(&mut self, publisher: Publisher, publication: Publication, location: Location, routed: &mut Routed) {
        let ticket = (publisher, publication.id);
        let mut edges = 0;
        for users in location.edges {
            let Some(edge) = self.edges.get_mut(&users.edge_id) else { continue };
            edges += 1;
            edge.last_id += 1;
            edge.unacked.push_back((edge.last_id, ticket));
            let delivery = Delivery {
                id: edge.last_id,
                chat_id: publication.chat_id,
                seq: publication.seq,
                settled: publication.settled,
                user_ids: users.user_ids,
                payload: publication.payload.clone().map(payload),
            };
            match routed.deliveries.iter_mut().find(|(attachment, _)| *attachment == edge.attachment) {
                Some((_, deliveries)) => deliveries.push(delivery),
                None => routed.deliveries.push((edge.attachment, vec![delivery])),
            }
        }
        if edges == 0 {
            routed.settled.push(ticket);
        } else {
            self.open.insert(ticket, edges);
        }
    }

    /// An edge's stream begins; an older one of the same edge is over.
    pub(crate) fn attach(&mut self, name: &str, attachment: Attachment) -> Settled {
        let edge = Edge { attachment, last_id: 0, unacked: VecDeque::new() };
        let older = self.edges.insert(name.to_owned(), edge);
        older.map(|edge| self.settle_all(edge)).unwrap_or_default()
    }

    /// An edge's stream has ended.
    pub(crate) fn detach(&mut self, attachment: Attachment) -> Settled {
        let Some(name) =
            self.edges.iter().find(|(_, edge)| edge.attachment == attachment).map(|(name, _)| name.clone())
        else {
            return Settled::new();
        };
        self.edges.remove(&name).map(|edge| self.settle_all(edge)).unwrap_or_default()
    }

    fn settle_all(&mut self, edge: Edge) -> Settled {
        edge.unacked.into_iter().filter_map(|(_, ticket)| self.settle(ticket)).collect()
    }

    /// An edge has handed all deliveries up to `id` to their sessions.
    pub(crate) fn delivered(&mut self, attachment: Attachment, id: u64) -> Settled {
        let mut settled = Settled::new();
        let Some(edge) = self.edges.values_mut().find(|edge| edge.attachment == attachment) else { return settled };
        let mut tickets = Vec::new();
        while let Some((_, ticket)) = edge.unacked.pop_front_if(|(unacked, _)| *unacked <= id) {
            tickets.push(ticket);
        }
        settled.extend(tickets.into_iter().filter_map(|ticket| self.settle(ticket)));
        settled
    }

    fn settle(&mut self, ticket: (Publisher, u64)) -> Option<(Publisher, u64)> {
        let edges = self.open.get_mut(&ticket)?;
        *edges -= 1;
        if *edges > 0 {
            return None;
        }
        self.open.remove(&ticket);
        Some(ticket)
    }
}

fn question(batch: &[Publication]) -> LocateRequest {
    LocateRequest { sets: batch.iter().map(|publication| UserSet { user_ids: publication.user_ids.clone() }).collect() }
}

fn payload(payload: publication::Payload) -> delivery::Payload {
    match payload {
        publication::Payload::Event(event) => delivery::Payload::Event(event),
        publication::Payload::Receipt(receipt) => delivery::Payload::Receipt(receipt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::presence::v1::EdgeUsers;

    fn publication(id: u64) -> Publication {
        Publication { id, chat_id: 1, seq: id, user_ids: vec![1, 2], ..Publication::default() }
    }

    fn on(edges: &[(&str, &[u64])]) -> Location {
        let users = |(edge, users): &(&str, &[u64])| EdgeUsers { edge_id: (*edge).into(), user_ids: users.to_vec() };
        Location { edges: edges.iter().map(users).collect() }
    }

    #[test]
    fn a_publication_settles_when_the_last_of_its_edges_has_it() {
        let mut router = Router::default();
        router.attach("a", 10);
        router.attach("b", 11);
        let question = router.publish(5, vec![publication(1), publication(2)]);
        assert_eq!(question.sets.len(), 2);
        let routed = router.located(vec![on(&[("a", &[1]), ("b", &[2])]), on(&[("b", &[1, 2])])]);
        assert!(routed.settled.is_empty());
        let shape: Vec<_> =
            routed.deliveries.iter().map(|(edge, all)| (*edge, all.iter().map(|d| d.seq).collect())).collect();
        assert_eq!(shape, [(10, vec![1]), (11, vec![1, 2])]);
        assert!(router.delivered(10, 1).is_empty());
        assert_eq!(router.delivered(11, 2), [(5, 1), (5, 2)]);
        assert!(router.open.is_empty());
    }

    #[test]
    fn nobody_there_and_a_lost_edge_both_settle() {
        let mut router = Router::default();
        router.attach("a", 10);
        for id in 1..=3 {
            router.publish(5, vec![publication(id)]);
        }
        assert_eq!(router.waiting(), 3);
        assert_eq!(router.located(vec![on(&[])]).settled, [(5, 1)]);
        assert_eq!(router.located(vec![on(&[("gone", &[1])])]).settled, [(5, 2)]);
        assert!(router.located(vec![on(&[("a", &[1])])]).settled.is_empty());
        assert_eq!(router.attach("a", 12), [(5, 3)]);
        assert!(router.detach(10).is_empty());
    }

    #[test]
    fn an_edge_that_acknowledges_nothing_is_cut_at_the_bound() {
        let mut router = Router::default();
        router.attach("a", 10);
        let batch = |ids: std::ops::Range<u64>| ids.map(publication).collect::<Vec<_>>();
        let everywhere = |count: usize| vec![on(&[("a", &[1])]); count];
        router.publish(5, batch(0..UNACKED_MAX as u64));
        assert!(router.located(everywhere(UNACKED_MAX)).cut.is_empty());
        router.publish(5, batch(0..1));
        let routed = router.located(everywhere(1));
        assert_eq!(routed.cut, [10]);
        assert_eq!(routed.settled.len(), UNACKED_MAX);
    }
}
