//! Where recipients are, asked of presence.
//!
//! A user's sessions are registered at two instances, so both are asked, and what either knows counts: it is found also while
//! one of them is down, has just started, or is not where its edge looks yet. Only when none of them can tell, it is asked again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use confab_mesh::views::{Homes, Names, Views};
use confab_proto::fanout::v1::Publication;
use confab_proto::presence::v1::{EdgeUsers, LocateRequest, LocateResponse, UserSet};

use super::Ticket;

/// How soon it is asked again, milliseconds.
const AGAIN_MS: u64 = 100;

/// How long it is asked again, milliseconds; then what was not found counts as not there, and is counted.
pub(crate) const ASKED_MS: u64 = 5_000;

/// How long an instance may take for an answer, milliseconds. Beyond it its stream is cut and the others' answers count.
pub(crate) const ANSWER_MS: u64 = 1_000;

/// Sets per question.
const SETS_MAX: usize = 64;

/// A publication whose recipients are being looked for.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub ticket: Ticket,
    /// Without its recipients.
    pub publication: Publication,
    /// The edge that has said that they are gone.
    pub gone_from: Option<Arc<str>>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub subject: Subject,
    pub edges: Vec<EdgeUsers>,
    /// Nothing more will be found of it.
    pub is_last: bool,
    pub given_up: bool,
}

/// Users with the same homes.
#[derive(Debug)]
struct Group {
    users: Vec<u64>,
    /// Answers that are still to come in this round.
    asks: u8,
    /// An instance that knows all it should has answered.
    whole: bool,
    done: bool,
    found: Vec<EdgeUsers>,
    /// What was found in earlier rounds, where there were some.
    told: Vec<EdgeUsers>,
}

#[derive(Debug)]
struct Lookup {
    subject: Subject,
    since_ms: u64,
    groups: Vec<Group>,
    /// Groups whose first round is not over; what they find is told together.
    first_rounds: usize,
    given_up: bool,
}

#[derive(Debug)]
struct Ask {
    at_ms: u64,
    groups: Vec<(u64, usize)>,
    edges: Vec<String>,
}

#[derive(Debug, Default)]
struct Check {
    asks: u8,
    whole: bool,
    lives: bool,
}

/// Questions on their way, by instance.
pub(crate) type Questions = Vec<(Arc<str>, LocateRequest)>;

/// What an input led to.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub questions: Questions,
    pub found: Vec<Found>,
    /// Edges that presence knows no longer.
    pub dead: Vec<String>,
}

/// Bounded by the router, which takes no more publications while [`Lookups::len`] is at its limit.
#[derive(Debug)]
pub(crate) struct Lookups {
    views: Views,
    /// Instances with a stream, and what they were asked and have not answered, in order.
    live: HashMap<Arc<str>, VecDeque<Ask>>,
    lookups: HashMap<u64, Lookup>,
    last: u64,
    retries: BTreeSet<(u64, u64, usize)>,
    checks: HashMap<String, Check>,
    /// Being put together, to be sent at the end of the input.
    asking: Vec<(Arc<str>, Ask, LocateRequest)>,
}

impl Lookups {
    pub(crate) fn new(instances: Names) -> Self {
        Self {
            views: Views::new(instances),
            live: HashMap::new(),
            lookups: HashMap::new(),
            last: 0,
            retries: BTreeSet::new(),
            checks: HashMap::new(),
            asking: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lookups.len()
    }

    /// The instances that are listed now.
    pub(crate) fn listed(&mut self, now_ms: u64, instances: Names) {
        self.views.change(now_ms, instances);
    }

    /// Begins to look for some users; [`Lookups::ask`] sends the questions.
    pub(crate) fn begin(&mut self, now_ms: u64, subject: Subject, users: Vec<u64>, results: &mut Results) {
        self.last += 1;
        let id = self.last;
        let groups: Vec<(Homes, Group)> =
            self.grouped(users).into_iter().map(|(homes, users)| (homes, Group::new(users))).collect();
        let (homes, groups): (Vec<Homes>, Vec<Group>) = groups.into_iter().unzip();
        let first_rounds = groups.len();
        if first_rounds == 0 {
            return results.found.push(Found { subject, edges: Vec::new(), is_last: true, given_up: false });
        }
        self.lookups.insert(id, Lookup { subject, since_ms: now_ms, groups, first_rounds, given_up: false });
        for (at, homes) in homes.into_iter().enumerate() {
            self.ask_group(now_ms, id, at, homes, results);
        }
    }

    fn grouped(&self, users: Vec<u64>) -> Vec<(Homes, Vec<u64>)> {
        if users.is_empty() {
            return Vec::new();
        }
        if let Some(homes) = self.views.homes_of_all() {
            return vec![(homes, users)];
        }
        let mut groups: Vec<(Homes, Vec<u64>)> = Vec::new();
        for user in users {
            let homes = self.views.homes(user);
            match groups.iter_mut().find(|(of, _)| *of == homes) {
                Some((_, users)) => users.push(user),
                None => groups.push((homes, vec![user])),
            }
        }
        groups
    }

    fn ask_group(&mut self, now_ms: u64, id: u64, at: usize, homes: Homes, results: &mut Results) {
        let Some(group) = self.lookups.get_mut(&id).and_then(|lookup| lookup.groups.get_mut(at)) else { return };
        (group.asks, group.whole) = (0, false);
        for home in self.views.names(homes).filter(|home| self.live.contains_key(*home)) {
            group.asks += 1;
            let (ask, request) = question(&mut self.asking, home, now_ms);
            ask.groups.push((id, at));
            request.sets.push(UserSet { user_ids: group.users.clone() });
        }
        if group.asks == 0 {
            self.end_round(now_ms, id, at, results);
        }
    }

    /// Asks whether an edge lives.
    pub(crate) fn check(&mut self, now_ms: u64, edge: &str, key: u64) {
        if self.checks.contains_key(edge) {
            return;
        }
        let mut check = Check::default();
        for home in self.views.names(self.views.homes(key)).filter(|home| self.live.contains_key(*home)) {
            check.asks += 1;
            let (ask, request) = question(&mut self.asking, home, now_ms);
            ask.edges.push(edge.to_owned());
            request.edge_ids.push(edge.to_owned());
        }
        if check.asks > 0 {
            self.checks.insert(edge.to_owned(), check);
        }
    }

    /// The questions that were put together.
    pub(crate) fn ask(&mut self, results: &mut Results) {
        for (instance, ask, request) in self.asking.drain(..) {
            if let Some(queue) = self.live.get_mut(&instance) {
                queue.push_back(ask);
                results.questions.push((instance, request));
            }
        }
    }

    /// An instance has a stream.
    pub(crate) fn connected(&mut self, instance: Arc<str>) {
        self.live.insert(instance, VecDeque::new());
    }

    /// An instance's stream is over: what it was asked it will not answer.
    pub(crate) fn lost(&mut self, now_ms: u64, instance: &str, results: &mut Results) {
        for ask in self.live.remove(instance).into_iter().flatten() {
            for (id, at) in ask.groups {
                self.answered_group(now_ms, id, at, None, results);
            }
            for edge in ask.edges {
                self.answered_check(edge, None, results);
            }
        }
    }

    /// An instance's answer to the oldest question that it was asked.
    pub(crate) fn answered(&mut self, now_ms: u64, instance: &str, answer: LocateResponse, results: &mut Results) {
        let Some(ask) = self.live.get_mut(instance).and_then(VecDeque::pop_front) else { return };
        let whole = !answer.partial;
        let mut locations = answer.locations.into_iter();
        for (id, at) in ask.groups {
            let edges = locations.next().map(|location| (whole, location.edges));
            self.answered_group(now_ms, id, at, edges, results);
        }
        for edge in ask.edges {
            let lives = answer.live_edge_ids.contains(&edge);
            self.answered_check(edge, Some((whole, lives)), results);
        }
    }

    fn answered_group(
        &mut self,
        now_ms: u64,
        id: u64,
        at: usize,
        answer: Option<(bool, Vec<EdgeUsers>)>,
        results: &mut Results,
    ) {
        let Some(group) = self.lookups.get_mut(&id).and_then(|lookup| lookup.groups.get_mut(at)) else { return };
        group.asks -= 1;
        if let Some((whole, edges)) = answer {
            group.whole |= whole;
            merge(&mut group.found, edges);
        }
        if group.asks == 0 {
            self.end_round(now_ms, id, at, results);
        }
    }

    fn answered_check(&mut self, edge: String, answer: Option<(bool, bool)>, results: &mut Results) {
        let Some(check) = self.checks.get_mut(&edge) else { return };
        check.asks -= 1;
        let (whole, lives) = answer.unwrap_or_default();
        check.whole |= whole;
        check.lives |= lives;
        if check.asks == 0 {
            let is_dead = check.whole && !check.lives;
            self.checks.remove(&edge);
            results.dead.extend(is_dead.then_some(edge));
        }
    }

    /// All that could be asked about a group has answered.
    fn end_round(&mut self, now_ms: u64, id: u64, at: usize, results: &mut Results) {
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        let is_first = lookup.first_rounds > 0;
        let Some(group) = lookup.groups.get_mut(at) else { return };
        let too_long = lookup.since_ms + ASKED_MS <= now_ms;
        group.done = group.whole || too_long;
        lookup.given_up |= !group.whole && too_long;
        if !group.done {
            self.retries.insert((now_ms + AGAIN_MS, id, at));
        }
        let edges = if is_first {
            lookup.first_rounds -= 1;
            if lookup.first_rounds > 0 {
                return;
            }
            let mut edges = Vec::new();
            lookup.groups.iter_mut().for_each(|group| join(&mut edges, group.take_new()));
            edges
        } else {
            group.take_new()
        };
        let is_last = lookup.groups.iter().all(|group| group.done);
        let given_up = lookup.given_up;
        if !is_last && edges.is_empty() {
            return;
        }
        let subject =
            if is_last { self.lookups.remove(&id).map(|lookup| lookup.subject) } else { Some(lookup.subject.clone()) };
        results.found.extend(subject.map(|subject| Found { subject, edges, is_last, given_up }));
    }

    /// Asks again what is due, and says which instances don't answer.
    pub(crate) fn tick(&mut self, now_ms: u64, results: &mut Results) -> Vec<Arc<str>> {
        self.views.tick(now_ms);
        while let Some((due, id, at)) = self.retries.first().copied()
            && due <= now_ms
        {
            self.retries.pop_first();
            for (at, homes) in self.regroup(id, at) {
                self.ask_group(now_ms, id, at, homes, results);
            }
        }
        let late = |queue: &VecDeque<Ask>| queue.front().is_some_and(|ask| ask.at_ms + ANSWER_MS <= now_ms);
        self.live.iter().filter(|(_, queue)| late(queue)).map(|(instance, _)| instance.clone()).collect()
    }
}

impl Lookups {
    /// A group may have to be asked about at several places by now: as which groups, and where.
    fn regroup(&mut self, id: u64, at: usize) -> Vec<(usize, Homes)> {
        let Some(group) = self.lookups.get_mut(&id).and_then(|lookup| lookup.groups.get_mut(at)) else {
            return Vec::new();
        };
        let users = std::mem::take(&mut group.users);
        let told = group.told.clone();
        let mut groups = self.grouped(users).into_iter();
        let Some(lookup) = self.lookups.get_mut(&id) else { return Vec::new() };
        let mut at_homes = Vec::new();
        if let (Some(group), Some((homes, users))) = (lookup.groups.get_mut(at), groups.next()) {
            group.users = users;
            at_homes.push((at, homes));
        }
        for (homes, users) in groups {
            at_homes.push((lookup.groups.len(), homes));
            lookup.groups.push(Group { told: told.clone(), ..Group::new(users) });
        }
        at_homes
    }
}

/// The question to `instance` that has room.
fn question<'a>(
    asking: &'a mut Vec<(Arc<str>, Ask, LocateRequest)>,
    instance: &Arc<str>,
    now_ms: u64,
) -> (&'a mut Ask, &'a mut LocateRequest) {
    let has_room = |(of, ask, _): &(Arc<str>, Ask, LocateRequest)| {
        of == instance && ask.groups.len() < SETS_MAX && ask.edges.len() < SETS_MAX
    };
    let at = asking.iter().rposition(has_room).unwrap_or_else(|| {
        let ask = Ask { at_ms: now_ms, groups: Vec::new(), edges: Vec::new() };
        asking.push((instance.clone(), ask, LocateRequest::default()));
        asking.len() - 1
    });
    let (_, ask, request) = &mut asking[at];
    (ask, request)
}

impl Group {
    fn new(users: Vec<u64>) -> Self {
        Self { users, asks: 0, whole: false, done: false, found: Vec::new(), told: Vec::new() }
    }

    /// What was found and not told before.
    fn take_new(&mut self) -> Vec<EdgeUsers> {
        let mut fresh = std::mem::take(&mut self.found);
        for edge in &mut fresh {
            if let Some(told) = self.told.iter().find(|told| told.edge_id == edge.edge_id) {
                edge.user_ids.retain(|user| !told.user_ids.contains(user));
            }
        }
        fresh.retain(|edge| !edge.user_ids.is_empty());
        if !self.done {
            join(&mut self.told, fresh.clone());
        }
        fresh
    }
}

/// What two instances say of the same users: each once.
fn merge(found: &mut Vec<EdgeUsers>, edges: Vec<EdgeUsers>) {
    for edge in edges {
        match found.iter_mut().find(|known| known.edge_id == edge.edge_id) {
            Some(known) if known.user_ids == edge.user_ids => {}
            Some(known) => {
                known.user_ids.extend(edge.user_ids);
                known.user_ids.sort_unstable();
                known.user_ids.dedup();
            }
            None => found.push(edge),
        }
    }
}

/// What is said of different users.
fn join(all: &mut Vec<EdgeUsers>, edges: Vec<EdgeUsers>) {
    for edge in edges {
        match all.iter_mut().find(|known| known.edge_id == edge.edge_id) {
            Some(known) => known.user_ids.extend(edge.user_ids),
            None => all.push(edge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use confab_proto::presence::v1::Location;

    fn lookups(instances: &[&str]) -> Lookups {
        let mut lookups = Lookups::new(instances.iter().map(|name| Arc::from(*name)).collect());
        instances.iter().for_each(|name| lookups.connected(Arc::from(*name)));
        lookups
    }

    fn begin(lookups: &mut Lookups, now_ms: u64, users: &[u64]) -> Results {
        let mut results = Results::default();
        let subject = Subject { ticket: (1, 1), publication: Publication::default(), gone_from: None };
        lookups.begin(now_ms, subject, users.to_vec(), &mut results);
        lookups.ask(&mut results);
        results
    }

    fn answer(lookups: &mut Lookups, now_ms: u64, of: &str, edges: &[(&str, &[u64])], partial: bool) -> Results {
        let users = |(edge, users): &(&str, &[u64])| EdgeUsers { edge_id: (*edge).into(), user_ids: users.to_vec() };
        let locations = vec![Location { edges: edges.iter().map(users).collect() }];
        let mut results = Results::default();
        let answer = LocateResponse { locations, partial, ..LocateResponse::default() };
        lookups.answered(now_ms, of, answer, &mut results);
        results
    }

    type Shape<'a> = (Vec<(&'a str, &'a [u64])>, bool);

    fn shape(results: &Results) -> Vec<Shape<'_>> {
        fn edges(found: &Found) -> Vec<(&str, &[u64])> {
            found.edges.iter().map(|edge| (edge.edge_id.as_str(), edge.user_ids.as_slice())).collect()
        }
        results.found.iter().map(|found| (edges(found), found.is_last)).collect()
    }

    #[test]
    fn both_homes_are_asked_and_what_either_knows_counts() {
        let mut lookups = lookups(&["p", "q"]);
        assert_eq!(begin(&mut lookups, 0, &[1, 2]).questions.len(), 2);
        assert!(answer(&mut lookups, 0, "p", &[("a", &[1])], false).found.is_empty());
        let results = answer(&mut lookups, 0, "q", &[("a", &[1, 2]), ("b", &[2])], false);
        assert_eq!(shape(&results), [(vec![("a", &[1, 2][..]), ("b", &[2][..])], true)]);
        assert_eq!(lookups.len(), 0);
    }

    #[test]
    fn one_that_knows_all_is_enough_whether_the_other_is_lost_or_fresh() {
        let mut lookups = lookups(&["p", "q"]);
        begin(&mut lookups, 0, &[1]);
        begin(&mut lookups, 0, &[1]);
        answer(&mut lookups, 0, "p", &[("a", &[1])], false);
        assert_eq!(shape(&answer(&mut lookups, 0, "q", &[], true)), [(vec![("a", &[1][..])], true)]);
        let mut results = Results::default();
        lookups.lost(0, "q", &mut results);
        assert!(results.found.is_empty());
        assert_eq!(shape(&answer(&mut lookups, 0, "p", &[], false)), [(vec![], true)]);
    }

    #[test]
    fn where_nobody_knows_all_what_is_known_goes_and_the_rest_is_asked_again_for_a_while() {
        let mut lookups = lookups(&["p"]);
        begin(&mut lookups, 0, &[1, 2]);
        let known = answer(&mut lookups, 0, "p", &[("a", &[1])], true);
        assert_eq!(shape(&known), [(vec![("a", &[1][..])], false)]);
        let mut results = Results::default();
        lookups.tick(AGAIN_MS - 1, &mut results);
        lookups.ask(&mut results);
        assert!(results.questions.is_empty());
        lookups.tick(AGAIN_MS, &mut results);
        lookups.ask(&mut results);
        assert_eq!(results.questions.len(), 1);
        let more = answer(&mut lookups, AGAIN_MS, "p", &[("a", &[1, 2])], true);
        assert_eq!(shape(&more), [(vec![("a", &[2][..])], false)]);
        lookups.tick(ASKED_MS, &mut results);
        lookups.ask(&mut results);
        let last = answer(&mut lookups, ASKED_MS, "p", &[("a", &[1, 2])], true);
        assert!(last.found[0].is_last && last.found[0].given_up && last.found[0].edges.is_empty());
    }

    #[test]
    fn an_instance_that_does_not_answer_is_late() {
        let mut lookups = lookups(&["p"]);
        begin(&mut lookups, 5, &[1]);
        let mut results = Results::default();
        assert!(lookups.tick(ANSWER_MS + 4, &mut results).is_empty());
        assert_eq!(lookups.tick(ANSWER_MS + 5, &mut results), [Arc::from("p")]);
    }

    #[test]
    fn an_edge_is_dead_when_one_who_should_know_it_does_not_and_nobody_does() {
        for (p, q, dead) in [
            ((true, false), (false, false), true),
            ((true, false), (true, true), false),
            ((false, false), (false, false), false),
        ] {
            let mut lookups = lookups(&["p", "q"]);
            let mut results = Results::default();
            lookups.check(0, "e", 9);
            lookups.ask(&mut results);
            for (instance, (whole, lives)) in [("p", p), ("q", q)] {
                let live_edge_ids = if lives { vec!["e".to_owned()] } else { Vec::new() };
                let answer = LocateResponse { live_edge_ids, partial: !whole, ..LocateResponse::default() };
                lookups.answered(0, instance, answer, &mut results);
            }
            assert_eq!(!results.dead.is_empty(), dead);
        }
    }
}
