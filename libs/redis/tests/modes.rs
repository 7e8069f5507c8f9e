//! Against real servers, alone, as a cluster and behind sentinels: what is there, what stands still, what is killed, and
//! what comes back.

#![allow(clippy::print_stdout, reason = "its figures are what one wants to see of it")]

use std::time::Duration;

use confab_redis::{Behind, Command, Failure, Redis, Reply, Weighed};
use confab_test_servers::{Mode, Redis as Server};
use tokio::time::{Instant, sleep, timeout};

const MODES: [Mode; 3] = [Mode::Standalone, Mode::Cluster, Mode::Sentinel];
const SOON: Duration = Duration::from_millis(50);
const BOUND: Duration = Duration::from_secs(20);

async fn started(mode: Mode) -> (Server, Redis) {
    let server = tokio::task::spawn_blocking(move || Server::start(mode)).await.expect("no panic").expect("started");
    let redis = Redis::connect(&server.url().parse().expect("an address"), None).expect("an address");
    (server, redis)
}

/// Keys of all nodes of a cluster.
fn set(value: &str) -> Vec<Command> {
    (0..100).map(|key| Command::new("SET", format!("key:{key}")).text(format!("{value}{key}"))).collect()
}

fn get() -> Vec<Command> {
    (0..100).map(|key| Command::new("GET", format!("key:{key}"))).collect()
}

fn values(value: &str) -> Vec<Reply> {
    (0..100).map(|key| Reply::Bytes(format!("{value}{key}").into())).collect()
}

/// Asks until it is answered; its failures until then.
async fn answered(redis: &Redis, ask: impl Fn() -> Vec<Command>) -> (Vec<Reply>, Vec<Failure>) {
    let mut failures = Vec::new();
    let asked = async {
        loop {
            match redis.ask(ask(), SOON * 10).await {
                Ok(replies) => return replies,
                Err(failure) => failures.push(failure),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let replies = timeout(BOUND, asked).await;
    (replies.unwrap_or_else(|_| panic!("no answer in {BOUND:?}")), failures)
}

#[tokio::test]
async fn replies_are_in_the_order_of_the_commands_wherever_the_keys_are() {
    for mode in MODES {
        let (_server, redis) = started(mode).await;
        answered(&redis, || set("v")).await;
        assert_eq!(answered(&redis, get).await.0, values("v"), "{mode:?}");
        let wrong = redis.ask(vec![Command::new("LPUSH", "key:1").text("x")], SOON).await;
        assert!(matches!(wrong, Err(Failure::Refused(_))), "{mode:?}: {wrong:?}");
    }
}

#[tokio::test]
async fn what_stands_still_is_late_within_the_bound_then_not_asked_and_asked_again_when_it_goes_on() {
    for mode in MODES {
        let (server, redis) = started(mode).await;
        answered(&redis, || set("v")).await;
        server.signal_all("STOP").expect("stopped");
        let began = Instant::now();
        for _ in 0..5 {
            let at = Instant::now();
            redis.ask(get(), SOON).await.expect_err("it stands still");
            assert!(at.elapsed() < 5 * SOON, "{mode:?}: {:?}", at.elapsed());
        }
        assert_eq!(redis.ask(get(), SOON).await, Err(Failure::Unasked), "{mode:?} after {:?}", began.elapsed());
        // The sentinels choose another meanwhile, or not: each is right.
        sleep(Duration::from_secs(3)).await;
        server.signal_all("CONT").expect("it goes on");
        let (replies, failures) = answered(&redis, get).await;
        assert_eq!(replies, values("v"), "{mode:?}");
        println!("{mode:?}: answered {} failures after it went on", failures.len());
    }
}

#[tokio::test]
async fn what_is_killed_fails_at_once_and_is_found_again_when_it_is_back() {
    for mode in MODES {
        let (server, redis) = started(mode).await;
        answered(&redis, || set("v")).await;
        server.kill_primary().expect("killed");
        let at = Instant::now();
        redis.ask(get(), SOON).await.expect_err("it is gone");
        assert!(at.elapsed() < 5 * SOON, "{mode:?}: {:?}", at.elapsed());
        // Behind sentinels the replica takes over by itself.
        if mode != Mode::Sentinel {
            server.up().expect("up again");
        }
        answered(&redis, || set("w")).await;
        assert_eq!(answered(&redis, get).await.0, values("w"), "{mode:?}");
        println!("{mode:?}: {:?} from the kill to an answer", at.elapsed());
    }
}

struct Piece(usize);

impl Weighed for Piece {
    fn weight(&self) -> usize {
        self.0
    }
}

#[tokio::test]
async fn what_is_written_behind_arrives_and_beyond_the_bound_is_dropped() {
    let (_server, redis) = started(Mode::Standalone).await;
    answered(&redis, || set("v")).await;
    let count = |pieces: Vec<Piece>| pieces.iter().map(|_| Command::new("INCR", "pieces")).collect();
    let behind = Behind::start(redis.clone(), "test", count);
    (0..1_000).for_each(|_| behind.push(Piece(1)));
    let read = || vec![Command::new("GET", "pieces")];
    let until = |wanted: &'static str| {
        let redis = redis.clone();
        async move {
            let reached = async {
                while answered(&redis, read).await.0 != [Reply::Bytes(wanted.into())] {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(BOUND, reached).await.unwrap_or_else(|_| panic!("not {wanted} in {BOUND:?}"));
        }
    };
    until("1000").await;
    // On this one thread nothing is written between these: there is room for four of this weight, and for nothing after them.
    (0..8).for_each(|_| behind.push(Piece(4 << 20)));
    behind.push(Piece(1));
    until("1004").await;
}
