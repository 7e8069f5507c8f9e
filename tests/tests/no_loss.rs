//! "No loss, no double, in order": 50 chats of 20 senders each, clients that drop and reconnect at random, a server
//! that is killed with SIGKILL five times under load, and the checker over all that they saw.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use confab_tests::checker::{Device, History};
use confab_tests::harness::{Server, seed};
use confab_tests::roam::{Field, roam};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const USERS: u64 = 200;
const CHATS: u64 = 50;
/// A user is in the chats `user + SHIFTS[i]` (mod 50): five chats a user, twenty users a chat, always other ones.
const SHIFTS: [u64; 5] = [0, 1, 7, 18, 31];
const PER_CHAT: usize = 21;
const KILLS: u64 = 5;
const ACKED_MIN: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(110);

fn chats_of(user: u64) -> impl Iterator<Item = u64> {
    SHIFTS.iter().map(move |shift| (user + shift) % CHATS)
}

fn device(user: u64) -> Device {
    Device { user, name: "default".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn acked_messages_reach_every_member_once_and_in_order() {
    let seed = seed();
    let begun = Instant::now();
    println!("CONFAB_SEED={seed}");
    let mut server = Server::start().await.unwrap();
    let chats = create_chats(&server).await;
    let users = 1000..1000 + USERS;
    let field = Arc::new(Field::new([server.addr()], seed, 60..700, &chats, users.clone().count()));
    let roamers: Vec<_> = users
        .map(|user| {
            let (field, token) = (Arc::clone(&field), server.token(user));
            let mine: Vec<u64> = chats_of(user).map(|at| chats[usize::try_from(at).unwrap()]).collect();
            tokio::spawn(async move { roam(&field, device(user), token, &mine, PER_CHAT, PATIENCE).await })
        })
        .collect();

    kill_under_load(&mut server, &field, seed).await;

    let mut history = History::new(seed);
    for roamer in roamers {
        history.absorb(roamer.await.unwrap().unwrap());
    }
    let report = history.judge();
    println!("{KILLS} kills, {} reconnects, {:.1?} in all", field.reconnects(), begun.elapsed());
    report.assert_clean();
    assert!(report.counts.acked as u64 >= ACKED_MIN, "only {} acked", report.counts.acked);
    assert_eq!(report.counts.chats as u64, CHATS);
    assert!(report.counts.duplicates > 0, "no retry met its first try: the test was too tame");
}

async fn create_chats(server: &Server) -> Vec<u64> {
    let mut chats = Vec::new();
    for at in 0..CHATS {
        let members: Vec<u64> = (1000..1000 + USERS).filter(|user| chats_of(*user).any(|chat| chat == at)).collect();
        assert_eq!(members.len(), 20);
        chats.push(server.create_group(members[0], &members[1..]).await.unwrap());
    }
    chats
}

/// Kills the server at five random moments, each while messages are in flight, and starts it again.
async fn kill_under_load(server: &mut Server, field: &Field, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let share = ACKED_MIN / (KILLS + 1);
    for kill in 0..KILLS {
        let at = kill * share + rng.random_range(share / 4..share);
        field.reaches(at, "acks before a kill", PATIENCE).await.unwrap();
        server.kill9().unwrap();
        let acked = field.acked();
        let down = Instant::now();
        server.restart().await.unwrap();
        println!("kill {} at {acked} acks; ready again after {:.1?}", kill + 1, down.elapsed());
    }
}
