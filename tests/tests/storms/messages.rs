//! A storm of receipts, and then all of its members drop and come back: on Cassandra, for what is counted is its reads and writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use confab_test_servers::Cassandra;
use confab_tests::harness::{Client, Collector, Mesh, Shape, Store, cassandra_reads};
use futures_util::{StreamExt as _, stream};
use tokio::time::interval;

use crate::ALONE;
use crate::crowd::{Crowd, Receipt};

const GROUPS: u64 = 5;
const MEMBERS: u64 = 1_000;

/// Everyone in the first group reads each of these, of ten who send.
const MESSAGES: u64 = 100;
const SENDERS: u64 = 10;
const EVERY: Duration = Duration::from_millis(200);

/// One receipt, and so many blocks of watermarks, in each.
const PERIOD: Duration = Duration::from_secs(5);
const BLOCKS: u64 = 8;
/// By how much two cores that are busy may move a frame, or what a process tells of itself.
const SLACK: Duration = Duration::from_secs(1);
/// Until the last is told: a period, and what comes late.
const LAST: Duration = Duration::from_secs(20);

/// What each who comes back has missed.
const MISSED: u64 = 10;
/// Who come back at the same moment. All 5,000 at once take two seconds of a release build, as the load generator measures; what
/// each costs the store is the same.
const AT_ONCE: usize = 500;
/// Read by message-svc for itself.
const LEDGER: [&str; 4] = ["instance_leases", "shard_map", "chat_id_blocks", "erasures"];

fn members(group: u64) -> std::ops::RangeInclusive<u64> {
    group * MEMBERS + 1..=(group + 1) * MEMBERS
}

async fn groups(mesh: &Mesh) -> Vec<u64> {
    let mut chats = Vec::new();
    for group in 0..GROUPS {
        let others: Vec<u64> = members(group).skip(1).collect();
        chats.push(mesh.group(0, group * MEMBERS + 1, &others).await.unwrap());
    }
    chats
}

/// By Cassandra's own counter: mutations of the table, each of all of a chat's blocks that are written together.
async fn mark_writes(cassandra: &Arc<Cassandra>) -> u64 {
    let cassandra = Arc::clone(cassandra);
    let pattern = "type=Table,keyspace=confab,scope=watermarks,name=WriteLatency";
    tokio::task::spawn_blocking(move || cassandra.counts(pattern)).await.unwrap().unwrap()["watermarks"]
}

/// Ten say a hundred messages, and everyone reads them as they come.
async fn receipts(crowd: &Crowd, chat: u64) -> Instant {
    let began = Instant::now();
    let mut pace = interval(EVERY);
    for number in 0..MESSAGES {
        pace.tick().await;
        let text = format!("{number} of {MESSAGES}");
        crowd.say(1 + number % SENDERS, &confab_tests::harness::client::message(chat, &text, &text));
    }
    crowd
        .until("the last receipts", LAST, |seen| {
            (1..=SENDERS).all(|sender| {
                let acks = seen.acks.get(&sender).map_or(&[][..], Vec::as_slice);
                let last = seen.receipts.get(&sender).and_then(|told| told.last());
                acks.len() as u64 == MESSAGES / SENDERS
                    && last
                        .is_some_and(|last| acks.iter().all(|(_, seq)| *seq <= last.seq) && last.read_by == MEMBERS - 1)
            })
        })
        .await;
    began
}

fn check_frames(crowd: &Crowd, began: Instant) {
    let seen = crowd.seen();
    let senders: Vec<u64> = seen.receipts.keys().copied().collect();
    assert_eq!(senders, (1..=SENDERS).collect::<Vec<_>>(), "who has sent nothing is told nothing");
    let frames: Vec<usize> = seen.receipts.values().map(Vec::len).collect();
    println!("frames per sender in {:.1} s: {frames:?}", began.elapsed().as_secs_f64());
    for (sender, told) in &seen.receipts {
        let ([first, .., last] | [first @ last]) = &told[..] else { panic!("nothing was told") };
        let at: Vec<f64> = told.iter().map(|Receipt { at, .. }| at.duration_since(began).as_secs_f64()).collect();
        let periods = u32::try_from(told.len() - 1).unwrap();
        // Whose last message nobody has yet is left out for a period.
        assert!(told.len() >= 2, "sender {sender} is told only at {at:.1?}");
        assert!(PERIOD * periods <= last.at.duration_since(first.at) + SLACK, "sender {sender} is told at {at:.1?}");
    }
    // All wait for the same clock, which the first one starts: they are told at once.
    let first = seen.receipts.values().flatten().min_by_key(|told| told.at).unwrap();
    let said = seen.acks.values().flatten().map(|(at, _)| *at).min().unwrap();
    let after = first.at.saturating_duration_since(said);
    println!("the first receipt, of {} who have read: {after:?} after the first ack", first.read_by);
    assert!(after < SLACK && first.read_by < MEMBERS / 2, "the first receipt is late: {after:?}, {first:?}");
}

async fn check_blocks(collector: &Collector, began: Instant, writes: u64) {
    let steps = collector.steps("confab.marks.written", began);
    let times: Vec<(f64, u64)> = steps.iter().map(|(at, blocks)| (at.as_secs_f64(), *blocks)).collect();
    println!(
        "blocks of watermarks, by when they were told to be written: {times:.1?}; Cassandra's mutations: {writes}"
    );
    for (at, _) in &steps {
        let within = steps.iter().filter(|(other, _)| (*at..*at + PERIOD - SLACK).contains(other));
        let blocks: u64 = within.map(|(_, blocks)| blocks).sum();
        assert!(blocks <= BLOCKS, "{blocks} blocks from {at:?} on: {times:.1?}");
    }
    let all: u64 = steps.iter().map(|(_, blocks)| blocks).sum();
    // Of the whole group several times: everyone's marks were raised all the time.
    assert!(all >= 3 * BLOCKS, "only {all} blocks");
    assert!((all.div_ceil(BLOCKS)..=all).contains(&writes), "{all} blocks by {writes} mutations");
}

/// All come back from where they were, and are done when they have what they missed.
async fn come_back(mesh: &Mesh, chats: &[u64], heads: &BTreeMap<u64, u64>) -> Duration {
    let began = Instant::now();
    let coming = (0..GROUPS).zip(chats).flat_map(|(group, chat)| members(group).map(move |user| (user, *chat)));
    let coming = coming.map(|(user, chat)| async move {
        let before = heads[&chat];
        let mut client = mesh.connect(usize::from(user % 2 == 0), user).await.unwrap();
        client.sync(&[(chat, before)]).await.unwrap();
        for seq in before + 1..=before + MISSED {
            assert_eq!(client.expect_message(chat).await.unwrap()["seq"], seq, "user {user}");
        }
        client
    });
    let back: Vec<Client> = stream::iter(coming).buffer_unordered(AT_ONCE).collect().await;
    assert_eq!(back.len() as u64, GROUPS * MEMBERS);
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_a_thousand_and_five_thousand_who_come_back_cost_the_store_little() {
    let _alone = ALONE.lock().await;
    let cassandra = tokio::task::spawn_blocking(|| Cassandra::start(1)).await.unwrap().unwrap();
    let collector = Collector::start().await.unwrap();
    let store = Store::plain(cassandra.points());
    let shape = Shape { message: 2, cassandra: Some(store), env: collector.env(), ..Shape::default() };
    let mesh = Mesh::start(shape).await.unwrap();
    let cassandra = Arc::new(cassandra);
    let chats = groups(&mesh).await;

    let at = Instant::now();
    let crowd = Crowd::connect(&mesh, members(0), |user| usize::from(user % 2 == 0)).await;
    println!("{MEMBERS} members of a group are connected after {:.1} s", at.elapsed().as_secs_f64());
    let before = mark_writes(&cassandra).await;
    let began = receipts(&crowd, chats[0]).await;
    check_frames(&crowd, began);
    // The last marks are written within a period.
    tokio::time::sleep(PERIOD + SLACK).await;
    check_blocks(&collector, began, mark_writes(&cassandra).await - before).await;
    drop(crowd);

    let mut heads = BTreeMap::new();
    for (group, chat) in (0..GROUPS).zip(&chats) {
        let mut sender = mesh.connect(0, group * MEMBERS + 1).await.unwrap();
        sender.sync(&[]).await.unwrap();
        for number in 0..MISSED {
            let seq = sender.say(*chat, &format!("missed {number}")).await.unwrap()["seq"].as_u64().unwrap();
            heads.entry(*chat).or_insert(seq - 1);
        }
    }
    let before = cassandra_reads(&cassandra).await.unwrap();
    let took = come_back(&mesh, &chats, &heads).await;
    let after = cassandra_reads(&cassandra).await.unwrap();
    let cost = after.iter().map(|(table, count)| (table.as_str(), count - before.get(table).unwrap_or(&0)));
    let cost: BTreeMap<&str, u64> = cost.filter(|(table, count)| *count > 0 && !LEDGER.contains(table)).collect();
    let clients = GROUPS * MEMBERS;
    let reads: u64 = cost.values().sum();
    println!("{clients} come back, {MISSED} messages behind, in {:.1} s: {cost:?}", took.as_secs_f64());
    println!("storage reads per resumed client: {:.3}", reads as f64 / clients as f64);
    assert!(reads > clients / 2, "the counters stand still");
    assert!(reads <= clients, "{reads} reads of the store for {clients} clients that come back");
}
