use std::collections::HashSet;

use super::*;

const ANN: UserId = UserId(1);
const BEN: UserId = UserId(2);
const TIMES: Times = Times { grace_ms: 10_000, warm_up_ms: 0 };

fn at(ms: u64) -> Now {
    Now { wall_ms: i64::try_from(ms).expect("small") + 1_000_000, mono_ms: ms }
}

fn status(roster: &Roster, user: UserId) -> PresenceStatus {
    roster.presence(user).status()
}

fn edges(roster: &Roster, users: &[u64]) -> Vec<(String, Vec<u64>)> {
    roster.location(users).edges.into_iter().map(|edge| (edge.edge_id, edge.user_ids)).collect()
}

#[test]
fn only_transitions_are_told_and_offline_comes_after_the_grace() {
    let mut roster = Roster::new(TIMES);
    let edge = roster.attach(at(0), "e");
    assert_eq!(roster.watch(7, ANN).status(), PresenceStatus::Offline);
    assert_eq!(roster.open(edge, 1, ANN).len(), 1);
    assert!(roster.open(edge, 2, ANN).is_empty());
    roster.close(at(0), edge, 1, ANN);
    roster.close(at(5), edge, 2, ANN);
    assert_eq!(status(&roster, ANN), PresenceStatus::Online);
    assert!(roster.tick(at(10_004)).is_empty());
    let told = roster.tick(at(10_005));
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].1.status(), told[0].1.last_seen_ms), (PresenceStatus::Offline, 1_000_005));
}

#[test]
fn who_comes_back_within_the_grace_was_never_away() {
    let mut roster = Roster::new(TIMES);
    let edge = roster.attach(at(0), "e");
    roster.watch(7, ANN);
    roster.open(edge, 1, ANN);
    roster.close(at(0), edge, 1, ANN);
    assert!(roster.open(edge, 2, ANN).is_empty());
    assert!(roster.tick(at(13_000)).is_empty());
    // A late close of the old session harms nothing.
    roster.close(at(13_000), edge, 1, ANN);
    assert!(roster.heard(at(13_000), edge) && roster.tick(at(26_000)).is_empty());
}

#[test]
fn users_are_located_once_per_edge_and_not_after_their_last_session() {
    let mut roster = Roster::new(TIMES);
    let (one, two) = (roster.attach(at(0), "one"), roster.attach(at(0), "two"));
    roster.open(one, 1, ANN);
    roster.open(one, 2, ANN);
    roster.open(two, 3, ANN);
    roster.open(two, 4, BEN);
    assert_eq!(edges(&roster, &[1, 2, 3]), [("one".into(), vec![1]), ("two".into(), vec![1, 2])]);
    roster.leave(at(0), two);
    assert_eq!(edges(&roster, &[1, 2, 3]), [("one".into(), vec![1])]);
    roster.tick(at(10_000));
    assert_eq!((status(&roster, BEN), status(&roster, ANN)), (PresenceStatus::Offline, PresenceStatus::Online));
}

#[test]
fn a_broken_stream_ends_nothing_and_silence_ends_all_without_a_grace() {
    let mut roster = Roster::new(TIMES);
    let old = roster.attach(at(0), "e");
    roster.open(old, 1, ANN);
    roster.open(old, 2, BEN);
    // Meanwhile BEN's session closed: the new stream doesn't tell it.
    let new = roster.attach(at(14_000), "e");
    assert!(!roster.heard(at(14_001), old));
    roster.close(at(14_001), old, 1, ANN);
    roster.open(new, 1, ANN);
    assert_eq!(edges(&roster, &[1, 2]), [("e".into(), vec![1, 2])]);
    roster.snapshot_done(at(14_002), new);
    assert_eq!(edges(&roster, &[1, 2]), [("e".into(), vec![1])]);
    assert!(roster.heard(at(14_003), new));
    roster.watch(7, ANN);
    let over = 14_003 + EDGE_LIFE_MS;
    assert!(roster.tick(at(over - 1)).is_empty());
    let told = roster.tick(at(over));
    assert_eq!((told[0].1.status(), told[0].1.last_seen_ms), (PresenceStatus::Offline, 1_014_003));
    assert!(!roster.heard(at(over + 1), new) && roster.open(new, 3, ANN).is_empty());
}

#[test]
fn a_fresh_instance_says_that_it_may_not_know_and_tells_offline_when_it_does() {
    let mut roster = Roster::new(Times { warm_up_ms: 15_000, ..TIMES });
    let edge = roster.attach(at(0), "e");
    assert_eq!(roster.watch(7, ANN).status(), PresenceStatus::Unspecified);
    roster.open(edge, 1, BEN);
    assert_eq!(status(&roster, BEN), PresenceStatus::Online);
    let asked = LocateRequest { edge_ids: vec!["e".into(), "f".into()], ..LocateRequest::default() };
    let answer = roster.locate(&asked);
    assert_eq!((answer.live_edge_ids, answer.partial), (vec!["e".to_owned()], true));
    roster.heard(at(14_999), edge);
    assert!(roster.tick(at(14_999)).is_empty());
    assert_eq!(roster.tick(at(15_000))[0].1.status(), PresenceStatus::Offline);
    assert!(!roster.locate(&asked).partial);
}

#[test]
fn who_goes_offline_while_an_instance_is_fresh_is_told_to_be_when_it_is_not() {
    let mut roster = Roster::new(Times { warm_up_ms: 15_000, ..TIMES });
    let edge = roster.attach(at(0), "e");
    roster.watch(7, ANN);
    roster.open(edge, 1, ANN);
    roster.close(at(1_000), edge, 1, ANN);
    roster.heard(at(11_000), edge);
    assert_eq!(roster.tick(at(11_000))[0].1.status(), PresenceStatus::Unspecified);
    let told = roster.tick(at(15_000));
    assert_eq!((told[0].1.status(), told[0].1.last_seen_ms), (PresenceStatus::Offline, 1_001_000));
}

#[test]
fn what_moves_elsewhere_is_forgotten_in_silence() {
    let mut roster = Roster::new(TIMES);
    let edge = roster.attach(at(0), "e");
    roster.open(edge, 1, ANN);
    roster.watch(7, ANN);
    roster.moved(edge, 1, ANN);
    assert!(edges(&roster, &[1]).is_empty());
    roster.heard(at(14_000), edge);
    assert!(roster.tick(at(14_000)).is_empty());
}

/// What Redis makes of notes.
#[derive(Default)]
struct Kept {
    users: HashMap<UserId, Recalled>,
    edges: HashMap<String, i64>,
}

impl Kept {
    fn keep(&mut self, notes: Vec<Note>) {
        for note in notes {
            match note {
                Note::Opened { user, session } => {
                    let sessions = &mut self.users.entry(user).or_default().sessions;
                    sessions.retain(|known| *known != session);
                    sessions.push(session);
                }
                Note::Closed { user, session } => {
                    self.users.entry(user).or_default().sessions.retain(|known| *known != session);
                }
                Note::Seen { user, at_ms } => self.users.entry(user).or_default().last_seen_ms = at_ms,
                Note::Heard { edge, at_ms } => drop(self.edges.insert(edge, at_ms)),
                Note::Left { edge } => drop(self.edges.remove(&edge)),
            }
        }
    }

    /// As the shell does it. Whether anything was asked.
    fn tell(&self, now: Now, roster: &mut Roster, users: HashSet<UserId>) -> bool {
        let asked = !users.is_empty();
        let recalled: HashMap<UserId, Recalled> =
            users.into_iter().map(|user| (user, self.users.get(&user).cloned().unwrap_or_default())).collect();
        let lives =
            |edge: &String| self.edges.get(edge).filter(|at| **at + EDGE_LIFE_MS.cast_signed() > now.wall_ms).copied();
        let unheard = roster.unheard(&recalled).into_iter();
        let heard = unheard.filter_map(|edge| Some((edge.clone(), lives(&edge)?))).collect();
        roster.recalled(now, recalled, &heard);
        asked
    }

    fn locate(&self, now: Now, roster: &mut Roster, users: &[u64]) -> Vec<(String, Vec<u64>)> {
        let asked = roster.to_locate(now, users.iter().copied().map(UserId));
        self.tell(now, roster, asked);
        edges(roster, users)
    }
}

fn noting(warm_up_ms: u64) -> Roster {
    let mut roster = Roster::new(Times { warm_up_ms, ..TIMES });
    roster.keep_notes();
    roster
}

fn session(edge: &str, number: u64) -> Session {
    Session { edge: edge.into(), number }
}

#[test]
fn it_notes_who_comes_and_goes_and_that_edges_live() {
    let mut roster = noting(0);
    let edge = roster.attach(at(0), "e");
    roster.open(edge, 1, ANN);
    roster.open(edge, 2, ANN);
    let opened = |number| Note::Opened { user: ANN, session: session("e", number) };
    let closed = |number| Note::Closed { user: ANN, session: session("e", number) };
    let heard = |at: i64| Note::Heard { edge: "e".into(), at_ms: 1_000_000 + at };
    assert_eq!(roster.take_notes(), [heard(0), opened(1), opened(2)]);
    // Each heartbeat, and not each request.
    roster.heard(at(100), edge);
    roster.heard(at(5_000), edge);
    roster.close(at(5_000), edge, 1, ANN);
    assert_eq!(roster.take_notes(), [heard(5_000), closed(1)]);
    // A late close of a session that is gone says nothing; what goes on elsewhere is not closed.
    roster.close(at(5_001), edge, 1, ANN);
    roster.open(edge, 3, BEN);
    roster.moved(edge, 3, BEN);
    assert_eq!(roster.take_notes(), [Note::Opened { user: BEN, session: session("e", 3) }]);
    roster.close(at(5_002), edge, 2, ANN);
    assert_eq!(roster.take_notes(), [closed(2), Note::Seen { user: ANN, at_ms: 1_005_002 }]);
    // A new stream tells all again, and so it is noted again.
    roster.open(edge, 4, ANN);
    let new = roster.attach(at(6_000), "e");
    roster.take_notes();
    roster.open(new, 4, ANN);
    assert_eq!(roster.take_notes(), [opened(4)]);
    // It falls silent: whether its sessions live shows by its own note, which ends.
    roster.tick(at(30_000));
    assert_eq!(roster.take_notes(), [Note::Seen { user: ANN, at_ms: 1_006_000 }]);
    let edge = roster.attach(at(31_000), "e");
    roster.open(edge, 4, ANN);
    roster.take_notes();
    roster.leave(at(32_000), edge);
    let left = Note::Left { edge: "e".into() };
    assert_eq!(roster.take_notes(), [left, closed(4), Note::Seen { user: ANN, at_ms: 1_032_000 }]);
}

#[test]
fn a_fresh_instance_finds_whom_others_have_noted_and_says_nobody_is_offline() {
    let (mut kept, mut first) = (Kept::default(), noting(0));
    let (one, two) = (first.attach(at(0), "one"), first.attach(at(0), "two"));
    first.open(one, 1, ANN);
    first.open(two, 2, BEN);
    first.heard(at(20_000), one);
    let cat = UserId(3);
    first.open(one, 3, cat);
    first.close(at(21_000), one, 3, cat);
    kept.keep(first.take_notes());

    // All of them die; "two" does, too, and is not heard of for longer than an edge lives. The clock of the new one begins anew.
    let later = |ms: u64| Now { wall_ms: 1_022_000 + i64::try_from(ms).expect("small"), mono_ms: ms };
    let mut fresh = noting(15_000);
    assert_eq!(kept.locate(later(0), &mut fresh, &[1, 2, 3]), [("one".to_owned(), vec![1])]);
    assert_eq!(status(&fresh, ANN), PresenceStatus::Online);
    assert_eq!(status(&fresh, BEN), PresenceStatus::Unspecified);
    let seen = fresh.presence(cat);
    assert_eq!((seen.status(), seen.last_seen_ms), (PresenceStatus::Unspecified, 1_021_000));
    assert!(fresh.locate(&LocateRequest::default()).partial, "edges may know more");
    // The same is not asked for again and again.
    assert!(fresh.to_locate(later(500), [ANN, BEN].into_iter()).is_empty());
    assert_eq!(fresh.to_locate(later(1_000), [ANN, BEN].into_iter()).len(), 2);
    // An edge that nobody hears of any more is gone so long after it was heard of, not after this was read.
    fresh.watch(7, ANN);
    assert!(fresh.tick(later(13_000)).iter().all(|(_, presence)| presence.status() != PresenceStatus::Offline));
    assert_eq!(status(&fresh, ANN), PresenceStatus::Online);
    fresh.tick(later(15_000));
    assert_eq!((status(&fresh, ANN), fresh.presence(cat).last_seen_ms), (PresenceStatus::Offline, 1_021_000));
}

#[test]
fn what_an_edge_tells_ends_what_was_recalled_of_it_and_its_notes_stay() {
    let (mut kept, mut first) = (Kept::default(), noting(0));
    let edge = first.attach(at(0), "e");
    first.open(edge, 1, ANN);
    first.open(edge, 2, BEN);
    kept.keep(first.take_notes());

    let mut fresh = noting(15_000);
    kept.locate(at(1_000), &mut fresh, &[1, 2]);
    fresh.take_notes();
    let edge = fresh.attach(at(1_100), "e");
    assert_eq!(kept.locate(at(2_100), &mut fresh, &[1, 2]), [("e".to_owned(), vec![1, 2])]);
    fresh.open(edge, 1, ANN);
    fresh.snapshot_done(at(2_200), edge);
    // BEN's has closed, or belongs to other instances: nobody is told that it has.
    let notes = fresh.take_notes();
    assert!(!notes.iter().any(|note| matches!(note, Note::Closed { .. } | Note::Seen { .. })), "{notes:?}");
    assert_eq!(kept.locate(at(4_000), &mut fresh, &[1, 2]), [("e".to_owned(), vec![1])]);
    // And a session that opened before, and is told twice, closes once.
    fresh.close(at(4_100), edge, 1, ANN);
    assert!(edges(&fresh, &[1, 2]).is_empty());
}

#[test]
fn a_warm_instance_asks_for_nothing_but_when_strangers_were_seen() {
    let mut kept = Kept::default();
    kept.keep(vec![
        Note::Seen { user: ANN, at_ms: 5 },
        Note::Heard { edge: "e".into(), at_ms: 1_000_000 },
        Note::Opened { user: ANN, session: session("e", 1) },
    ]);
    let mut roster = noting(0);
    assert!(roster.to_locate(at(0), [ANN].into_iter()).is_empty());
    let asked = roster.to_tell(at(0), [ANN, BEN].into_iter());
    assert!(kept.tell(at(0), &mut roster, asked));
    let presence = roster.presence(ANN);
    assert_eq!((presence.status(), presence.last_seen_ms), (PresenceStatus::Offline, 5));
    assert!(edges(&roster, &[1]).is_empty());
    // It is known now; of BEN nothing is.
    assert_eq!(roster.to_tell(at(0), [ANN, BEN].into_iter()), HashSet::from([BEN]));
    // And without Redis nobody is asked at all.
    let mut roster = Roster::new(Times { warm_up_ms: 15_000, ..TIMES });
    assert!(
        roster.to_tell(at(0), [ANN].into_iter()).is_empty() && roster.to_locate(at(0), [ANN].into_iter()).is_empty()
    );
    roster.attach(at(0), "e");
    assert!(roster.take_notes().is_empty());
}

#[test]
fn sessions_of_dead_edges_are_cleared_away_where_they_are_many() {
    let mut kept = Kept::default();
    let opened = |edge: u64| Note::Opened { user: ANN, session: session(&format!("e{edge}"), 1) };
    kept.keep((0..40).map(opened).collect());
    kept.keep(vec![Note::Heard { edge: "e7".into(), at_ms: 1_000_000 }]);
    let mut fresh = noting(15_000);
    assert_eq!(kept.locate(at(0), &mut fresh, &[1]), [("e7".to_owned(), vec![1])]);
    kept.keep(fresh.take_notes());
    assert_eq!(kept.users[&ANN].sessions, [session("e7", 1)]);
}
