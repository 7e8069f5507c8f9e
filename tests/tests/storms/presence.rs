//! One user whom five thousand watch, and edges that are killed or stand still.

use std::time::{Duration, Instant};

use confab_tests::harness::{Collector, Mesh, Shape, Signal, wait_for};
use serde_json::json;

use crate::ALONE;
use crate::crowd::{Crowd, Seen};

/// Watched by all others.
const STAR: u64 = 1;
const WATCHERS: u64 = 5_000;
/// Who watch at the same moment: whether they may, message-svc is asked for each, and it takes as many calls at once as it can answer soon.
const ASKING: usize = 200;
/// In a group, beside the one who is watched.
const OTHERS: usize = 999;

/// Watched by [`STAR`], half of them on an edge that is killed, and half on one that stands still: as many as one may watch.
const STRUCK: u64 = 200;
const KILLED: std::ops::RangeInclusive<u64> = 10_001..=10_000 + STRUCK / 2;
const FROZEN: std::ops::RangeInclusive<u64> = 10_001 + STRUCK / 2..=10_000 + STRUCK;
/// Of the killed ones, who is on another edge, too.
const ELSEWHERE: u64 = *KILLED.start();

const KILLED_WITHIN: Duration = Duration::from_secs(15);
const FROZEN_WITHIN: Duration = Duration::from_secs(20);

/// How long thousands of frames may take, in the build that tests use.
const SPREAD: Duration = Duration::from_secs(30);
/// And a change of a number that each process tells four times a second.
const TOLD: Duration = Duration::from_secs(5);
const STAYS: Duration = Duration::from_secs(1);
/// Of presence-svc.
const INSTANCES: usize = 2;

/// When `watcher` was first told that `user` is in this state, after `since`.
fn told(seen: &Seen, watcher: u64, user: u64, status: &str, since: Instant) -> Option<Instant> {
    let states = seen.presence.get(&(watcher, user))?;
    states.iter().find(|(at, state)| state == status && *at > since).map(|(at, _)| *at)
}

async fn subscriptions(collector: &Collector, count: u64) {
    let is = || std::future::ready((collector.sum("confab.presence.watched") == Some(count)).then_some(()));
    let reached = wait_for(&format!("{count} subscriptions"), TOLD, is).await;
    assert!(reached.is_ok(), "{:?} subscriptions in place of {count}", collector.sum("confab.presence.watched"));
    // It stays so, and of both instances.
    tokio::time::sleep(STAYS).await;
    let now = (collector.processes("confab.presence.watched"), collector.sum("confab.presence.watched"));
    assert_eq!(now, (INSTANCES, Some(count)));
    println!("subscriptions at presence-svc: {count}");
}

/// Five thousand on the first edge watch one user.
async fn watch_the_star(mesh: &Mesh, collector: &Collector) -> Crowd {
    let watchers: Vec<u64> = (STAR + 1..=STAR + WATCHERS).collect();
    for others in watchers.chunks(OTHERS) {
        mesh.group(0, STAR, others).await.unwrap();
    }
    let at = Instant::now();
    let crowd = Crowd::connect(mesh, watchers.iter().copied(), |_| 0).await;
    println!("{WATCHERS} watchers are connected after {:.1} s", at.elapsed().as_secs_f64());
    subscriptions(collector, 0).await;
    let watch = json!({"type": "watch", "user_ids": [STAR]});
    let at = Instant::now();
    let all_told = |seen: &Seen, watchers: &[u64], status: &str, since| {
        watchers.iter().all(|watcher| told(seen, *watcher, STAR, status, since).is_some())
    };
    for some in watchers.chunks(ASKING) {
        some.iter().for_each(|watcher| crowd.say(*watcher, &watch));
        crowd.until("all are told the state", SPREAD, |seen| all_told(seen, some, "offline", at)).await;
    }
    subscriptions(collector, 1).await;

    // From another edge it is another one.
    let mut other = Crowd::connect(mesh, std::iter::once(STAR + 1), |_| 1).await;
    other.say(STAR + 1, &watch);
    subscriptions(collector, 2).await;
    let at = Instant::now();
    let mut star = mesh.connect(1, STAR).await.unwrap();
    star.sync(&[]).await.unwrap();
    other.add(star);
    crowd.until("all are told that it is online", SPREAD, |seen| all_told(seen, &watchers, "online", at)).await;
    println!("all {WATCHERS} are told that it is online after {:.2} s", at.elapsed().as_secs_f64());
    drop(other);
    subscriptions(collector, 1).await;
    crowd
}

/// Their edges end or stand still right after they have been heard of: that is when it takes the longest to notice.
async fn strike(mesh: &mut Mesh) {
    let users: Vec<u64> = KILLED.chain(FROZEN).collect();
    mesh.group(0, STAR, &users).await.unwrap();
    let star = Crowd::connect(mesh, std::iter::once(STAR), |_| 0).await;
    let elsewhere = Crowd::connect(mesh, std::iter::once(ELSEWHERE), |_| 0).await;
    let but_last = |user: &u64| user != KILLED.end() && user != FROZEN.end();
    let edge = |user| if KILLED.contains(&user) { 1 } else { 2 };
    let early = Crowd::connect(mesh, users.iter().copied().filter(but_last), edge).await;
    let at = Instant::now();
    star.say(STAR, &json!({"type": "watch", "user_ids": users}));
    let is = |seen: &Seen, user, status, since| told(seen, STAR, user, status, since).is_some();
    let early_online =
        |seen: &Seen| users.iter().filter(|user| but_last(user)).all(|user| is(seen, *user, "online", at));
    star.until("all are online", SPREAD, early_online).await;

    let late = Crowd::connect(mesh, [*KILLED.end(), *FROZEN.end()].into_iter(), edge).await;
    star.until("the last are online", SPREAD, |seen| users.iter().all(|user| is(seen, *user, "online", at))).await;
    let struck = Instant::now();
    mesh.process("edge-1").kill9().unwrap();
    mesh.process("edge-2").signal(Signal::Stop).unwrap();
    let gone: Vec<u64> = users.iter().copied().filter(|user| *user != ELSEWHERE).collect();
    let all_offline = |seen: &Seen| gone.iter().all(|user| is(seen, *user, "offline", struck));
    star.until("all are offline", 2 * FROZEN_WITHIN, all_offline).await;
    {
        let seen = star.seen();
        let last = |users: std::ops::RangeInclusive<u64>| {
            let times = users.filter_map(|user| told(&seen, STAR, user, "offline", struck));
            times.max().unwrap().duration_since(struck)
        };
        let (killed, frozen) = (last(KILLED), last(FROZEN));
        println!("the last is offline {killed:.2?} after their edge was killed, {frozen:.2?} after it was frozen");
        assert!(killed <= KILLED_WITHIN, "{killed:?}");
        assert!(frozen <= FROZEN_WITHIN, "{frozen:?}");
        assert_eq!(told(&seen, STAR, ELSEWHERE, "offline", struck), None, "they have another connection");
    }
    // The control: it was not dead, and its clients are there again as soon as it goes on.
    let thawed = Instant::now();
    mesh.process("edge-2").signal(Signal::Cont).unwrap();
    let online = |seen: &Seen| FROZEN.into_iter().all(|user| is(seen, user, "online", thawed));
    star.until("the frozen are online again", SPREAD, online).await;
    println!("all are online {:.2?} after it goes on", thawed.elapsed());
    drop((early, late, elsewhere));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_watchers_are_one_subscription_and_who_is_on_a_lost_edge_is_offline_in_time() {
    let _alone = ALONE.lock().await;
    let collector = Collector::start().await.unwrap();
    let mut mesh =
        Mesh::start(Shape { edge: 3, presence: INSTANCES, env: collector.env(), ..Shape::default() }).await.unwrap();
    let crowd = watch_the_star(&mesh, &collector).await;
    drop(crowd);
    strike(&mut mesh).await;
}
