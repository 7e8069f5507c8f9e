//! Which fanout instance has which publication, pure and synchronous. A chat's publications go to one instance, the best of
//! those that are up, so that they stay in order; when it breaks, what it has not settled goes to the then best one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use confab_mesh::rendezvous::score;
use confab_proto::fanout::v1::{Publication, PublishResponse};

type Name = Arc<str>;

/// Grows with what the owner's outbox holds, and that is bounded.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Instances that may be given something new.
    up: Vec<Name>,
    /// Instances with a stream: what they were given and have not accepted, in the order of the stream.
    live: HashMap<Name, VecDeque<u64>>,
    /// Who has which, until it settles.
    places: HashMap<u64, Name>,
    /// What nobody has accepted yet.
    unaccepted: BTreeSet<u64>,
    last: u64,
    accepted: u64,
}

impl Lanes {
    /// The instances that are up now. What others have been given stays with them, as long as their streams do.
    pub(crate) fn listed(&mut self, up: Vec<Name>) {
        self.up = up;
    }

    /// An instance has a stream. Says whether anything has no place, and needs one: it has to be given again.
    pub(crate) fn connected(&mut self, name: Name) -> bool {
        let had_something = self.lost(&name);
        self.live.insert(name, VecDeque::new());
        had_something || self.unaccepted.iter().any(|id| !self.places.contains_key(id))
    }

    /// An instance's stream has ended. Says whether anything was unsettled there: it has to be given again.
    pub(crate) fn lost(&mut self, name: &str) -> bool {
        self.live.remove(name);
        let before = self.places.len();
        self.places.retain(|_, place| **place != *name);
        self.places.len() < before
    }

    /// Gives each publication that has no place to the best instance for its chat. Where none is there, it waits for one: it
    /// is given again then.
    pub(crate) fn assign(&mut self, publications: Vec<Publication>) -> Vec<(Name, Vec<Publication>)> {
        let mut assigned: Vec<(Name, Vec<Publication>)> = Vec::new();
        for publication in publications {
            let id = publication.id;
            if id > self.last {
                self.last = id;
                self.unaccepted.insert(id);
            }
            if self.places.contains_key(&id) {
                continue;
            }
            let Some(name) = self.best(publication.chat_id).cloned() else { continue };
            self.live.entry(name.clone()).or_default().push_back(id);
            self.places.insert(id, name.clone());
            match assigned.iter_mut().find(|(to, _)| *to == name) {
                Some((_, publications)) => publications.push(publication),
                None => assigned.push((name, vec![publication])),
            }
        }
        assigned
    }

    fn best(&self, chat: u64) -> Option<&Name> {
        let usable = || self.up.iter().filter(|name| self.live.contains_key(*name));
        // One that doesn't say that it is up is better than none.
        let best = usable().max_by_key(|name| (score(chat, name), *name));
        best.or_else(|| self.live.keys().max_by_key(|name| (score(chat, name), *name)))
    }

    /// What an instance says of its stream, as what all say together: all up to `accepted` are accepted, whoever has them.
    pub(crate) fn said(&mut self, name: &str, response: PublishResponse) -> PublishResponse {
        if let Some(given) = self.live.get_mut(name)
            && given.contains(&response.accepted)
        {
            while let Some(id) = given.pop_front() {
                self.unaccepted.remove(&id);
                if id == response.accepted {
                    break;
                }
            }
        }
        for id in &response.settled {
            self.places.remove(id);
            self.unaccepted.remove(id);
        }
        let accepted = self.unaccepted.first().map_or(self.last, |first| first - 1);
        let news = accepted > self.accepted;
        self.accepted = accepted;
        PublishResponse { accepted: if news { accepted } else { 0 }, settled: response.settled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn publication(id: u64) -> Publication {
        Publication { id, chat_id: id % 7, ..Publication::default() }
    }

    fn lanes(names: &[&str]) -> Lanes {
        let mut lanes = Lanes::default();
        lanes.listed(names.iter().map(|name| Arc::from(*name)).collect());
        names.iter().for_each(|name| assert!(!lanes.connected(Arc::from(*name))));
        lanes
    }

    fn given(assigned: &[(Name, Vec<Publication>)], name: &str) -> Vec<u64> {
        let of = assigned.iter().filter(|(to, _)| **to == *name);
        of.flat_map(|(_, all)| all.iter().map(|publication| publication.id)).collect()
    }

    #[test]
    fn a_chats_publications_stay_together_and_move_in_order_when_their_instance_breaks() {
        let mut lanes = lanes(&["a", "b"]);
        let all = || (1..=40).map(publication).collect::<Vec<_>>();
        let assigned = lanes.assign(all());
        let (a, b) = (given(&assigned, "a"), given(&assigned, "b"));
        assert!(!a.is_empty() && !b.is_empty());
        assert!(a.iter().all(|id| b.iter().all(|other| id % 7 != other % 7)));
        assert!(lanes.lost("a"));
        let again = lanes.assign(all());
        assert_eq!((given(&again, "a"), given(&again, "b")), (vec![], a));
    }

    #[test]
    fn accepted_is_what_all_before_it_are_too() {
        let mut lanes = lanes(&["a", "b"]);
        let assigned = lanes.assign((1..=40).map(publication).collect());
        let (a, b) = (given(&assigned, "a"), given(&assigned, "b"));
        let says = |lanes: &mut Lanes, name: &str, accepted| {
            lanes.said(name, PublishResponse { accepted, settled: Vec::new() }).accepted
        };
        let (first, second, first_name, second_name) = if a[0] == 1 { (a, b, "a", "b") } else { (b, a, "b", "a") };
        assert_eq!(says(&mut lanes, second_name, *second.last().expect("some")), 0);
        assert_eq!(says(&mut lanes, first_name, 1), second_after(1, &first));
        assert_eq!(says(&mut lanes, first_name, *first.last().expect("some")), 40);
        assert_eq!(says(&mut lanes, first_name, 1), 0);
    }

    /// The last before the next of `ids` after `id`.
    fn second_after(id: u64, ids: &[u64]) -> u64 {
        ids.iter().find(|next| **next > id).expect("another") - 1
    }

    #[test]
    fn what_nobody_could_take_is_asked_for_when_somebody_can() {
        let mut lanes = Lanes::default();
        lanes.listed(vec!["a".into()]);
        assert!(lanes.assign(vec![publication(1)]).is_empty());
        assert!(lanes.connected("a".into()));
        assert_eq!(given(&lanes.assign(vec![publication(1)]), "a"), [1]);
        lanes.said("a", PublishResponse { accepted: 1, settled: vec![1] });
        assert!(!lanes.lost("a") && lanes.places.is_empty() && lanes.unaccepted.is_empty());
    }

    proptest! {
        /// Streams break and come back while publications come, are accepted and settle: in the end each has settled, each
        /// chat's went out in order on each stream, and nothing was at two live streams at once.
        #[test]
        fn each_publication_has_one_place(steps in prop::collection::vec((0..5_u8, any::<usize>()), 1..80)) {
            let names = ["a", "b", "c"];
            let mut lanes = lanes(&names);
            let mut unsettled: BTreeSet<u64> = BTreeSet::new();
            let mut streams: HashMap<&str, Vec<u64>> = names.iter().map(|name| (*name, Vec::new())).collect();
            let mut published = 0;
            let send = |lanes: &mut Lanes, streams: &mut HashMap<&str, Vec<u64>>, ids: Vec<u64>| {
                for (name, publications) in lanes.assign(ids.into_iter().map(publication).collect()) {
                    let stream = streams.get_mut(&*name).expect("a live stream");
                    stream.extend(publications.iter().map(|publication| publication.id));
                }
            };
            for (step, pick) in steps.into_iter().chain((0..600).map(|pick| (if pick % 2 == 0 { 3 } else { 4 }, pick))) {
                let name = names[pick % 3];
                match step {
                    0 | 1 => {
                        published += 1;
                        unsettled.insert(published);
                        send(&mut lanes, &mut streams, vec![published]);
                    }
                    2 => if streams.remove(name).is_some() && lanes.lost(name) && !streams.is_empty() {
                        send(&mut lanes, &mut streams, unsettled.iter().copied().collect());
                    },
                    3 => if !streams.contains_key(name) {
                        streams.insert(name, Vec::new());
                        if lanes.connected(name.into()) || streams.len() == 1 {
                            send(&mut lanes, &mut streams, unsettled.iter().copied().collect());
                        }
                    },
                    _ => if let Some(stream) = streams.get_mut(name).filter(|stream| !stream.is_empty()) {
                        let id = stream.remove(pick % stream.len());
                        let response = lanes.said(name, PublishResponse { accepted: id, settled: vec![id] });
                        response.settled.iter().for_each(|id| assert!(unsettled.remove(id)));
                    },
                }
                let everywhere: Vec<u64> = streams.values().flatten().copied().collect();
                prop_assert_eq!(everywhere.iter().collect::<BTreeSet<_>>().len(), everywhere.len());
            }
            prop_assert!(unsettled.is_empty(), "{:?}", unsettled);
            prop_assert!(lanes.places.is_empty() && lanes.unaccepted.is_empty());
        }
    }
}
