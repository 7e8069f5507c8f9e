//! What a message costs Cassandra, by its own counters: one write of the log however many members hear of it, and no
//! lightweight transaction. And what a client costs that comes back: one read, while the owners of its chats are warm.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its figures")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use confab_test_servers::Cassandra;
use confab_tests::harness::{Client, Mesh, Shape, Store, cassandra_reads, command};

const INSTANCES: u32 = 2;
const MESSAGES: u32 = 200;
/// A look at how many leases are renewed while nobody says anything.
const REST: Duration = Duration::from_secs(10);

/// Of a lease's 6 s each third; the issue allows 2.
const LWTS_A_SECOND: f64 = 2.0;
const BIG_TO_SMALL: f64 = 1.1;

/// Clients that come back, and what each has missed.
const RESUMED: u64 = 50;
const MISSED: u64 = 10;
/// The list of its chats; and a read or two of something else may fall into the time.
const READS_A_CLIENT: f64 = 1.1;
/// Read by message-svc for itself.
const LEDGER: [&str; 2] = ["instance_leases", "shard_map"];

type Counts = BTreeMap<String, u64>;

/// Writes by table, and lightweight transactions as `CASWrite`.
async fn counts(cassandra: &std::sync::Arc<Cassandra>) -> Counts {
    let cassandra = std::sync::Arc::clone(cassandra);
    let counted = tokio::task::spawn_blocking(move || {
        let mut counts = cassandra.counts("type=Table,keyspace=confab,scope=*,name=WriteLatency").unwrap();
        counts.extend(cassandra.counts("type=ClientRequest,scope=CASWrite,name=Latency").unwrap());
        counts
    });
    counted.await.unwrap()
}

fn since(before: &Counts, now: &Counts) -> Counts {
    let more = now.iter().map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0)));
    more.filter(|(_, count)| *count > 0).collect()
}

/// 0 where there was none.
fn count(counts: &Counts, name: &str) -> f64 {
    f64::from(u32::try_from(counts.get(name).copied().unwrap_or(0)).unwrap())
}

/// One after the other, so that no two share a write.
async fn say(client: &mut Client, chat: u64) {
    for number in 0..MESSAGES {
        client.say(chat, &format!("{number} of {MESSAGES}")).await.unwrap();
    }
}

/// Clients come back that lack a chat's last messages.
async fn resume(mesh: &Mesh, cassandra: &std::sync::Arc<Cassandra>, chat: u64, head: u64) {
    let before = cassandra_reads(cassandra).await.unwrap();
    // User 2 is in the other chat, too.
    for user in 3..3 + RESUMED {
        let mut client = mesh.connect(0, user).await.unwrap();
        client.sync(&[(chat, head - MISSED)]).await.unwrap();
        for seq in head - MISSED + 1..=head {
            assert_eq!(client.expect_message(chat).await.unwrap()["seq"], seq);
        }
    }
    let cost = since(&before, &cassandra_reads(cassandra).await.unwrap());
    let of_clients = cost.iter().filter(|(table, _)| !LEDGER.contains(&table.as_str()));
    let a_client = f64::from(u32::try_from(of_clients.map(|(_, count)| count).sum::<u64>()).unwrap()) / RESUMED as f64;
    println!("{RESUMED} clients come back, {MISSED} messages behind: {cost:?}, {a_client:.2} reads each");
    assert!(a_client > 0.5, "the counters stand still");
    assert!(a_client <= READS_A_CLIENT, "{a_client} reads of the store for each client that comes back");
}

/// A node's key and certificate in one file, and its authority's.
fn certificates(folder: &Path) -> (PathBuf, PathBuf) {
    let mut certs = command().unwrap();
    certs.args(["certs", "--host", "127.0.0.1", "--role", "message-svc", "--out"]).arg(folder);
    assert!(certs.output().unwrap().status.success());
    let part = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let keystore = folder.join("node.pem");
    std::fs::write(&keystore, part("message-svc.key") + &part("message-svc.crt")).unwrap();
    (keystore, folder.join("ca.crt"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_thousand_costs_one_write_of_the_log_and_no_lightweight_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let (keystore, ca) = certificates(folder.path());
    let cassandra = tokio::task::spawn_blocking(move || Cassandra::start_tls(1, &keystore)).await.unwrap().unwrap();
    let store = Store { ca: Some(ca), ..Store::plain(cassandra.points()) };
    let shape = Shape { message: INSTANCES as usize, cassandra: Some(store), ..Shape::default() };
    let mesh = Mesh::start(shape).await.unwrap();
    let cassandra = std::sync::Arc::new(cassandra);
    let members: Vec<u64> = (2..=1_000).collect();
    let chats = [mesh.group(0, 1, &members).await.unwrap(), mesh.group(0, 1, &[2]).await.unwrap()];
    let mut one = mesh.connect(0, 1).await.unwrap();
    one.sync(&[]).await.unwrap();
    for chat in chats {
        one.say(chat, "its owner knows it now").await.unwrap();
    }

    let (at, before) = (Instant::now(), counts(&cassandra).await);
    tokio::time::sleep(REST).await;
    let (rest, after) = (at.elapsed().as_secs_f64(), counts(&cassandra).await);
    let at_rest = since(&before, &after);
    println!("at rest, in {rest:.1} s: {at_rest:?}");
    let lwts = |counts: &Counts| count(counts, "CASWrite");
    let a_second = lwts(&at_rest) / rest / f64::from(INSTANCES);
    println!("at rest, lightweight transactions per second and instance: {a_second:.2}");
    // They renew their leases: a counter that stands still would count nothing.
    assert!(a_second > 0.1 && a_second <= LWTS_A_SECOND, "{a_second}");

    let mut writes = Vec::new();
    for chat in chats {
        let (at, before) = (Instant::now(), counts(&cassandra).await);
        say(&mut one, chat).await;
        let (took, after) = (at.elapsed().as_secs_f64(), counts(&cassandra).await);
        let cost = since(&before, &after);
        println!("{MESSAGES} messages to chat {chat} in {took:.1} s: {cost:?}");
        let for_leases = a_second * f64::from(INSTANCES) * took;
        // Of what leases take, two renewals more may fall into the time.
        assert!(lwts(&cost) <= for_leases.mul_add(1.5, 4.0), "lightweight transactions for messages: {cost:?}");
        writes.push(["messages", "sends", "chats"].map(|table| count(&cost, table)).iter().sum::<f64>());
    }
    let [big, small] = writes[..] else { panic!("two chats") };
    let with_tls = cassandra.clients_with_tls().unwrap();
    assert!(!with_tls.is_empty() && with_tls.iter().all(|tls| *tls), "a connection without TLS: {with_tls:?}");
    println!(
        "log writes per message: to 1000 {:.2}, to 2 {:.2}, ratio {:.2}",
        big / f64::from(MESSAGES),
        small / f64::from(MESSAGES),
        big / small
    );
    assert!(small >= f64::from(MESSAGES), "the counters stand still: {small}");
    assert!(big / small <= BIG_TO_SMALL, "{big} writes to 1000 members, {small} to 2");

    let last = one.say(chats[0], "the last").await.unwrap();
    resume(&mesh, &cassandra, chats[0], last["seq"].as_u64().unwrap()).await;
}
