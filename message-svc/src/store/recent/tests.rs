//! On real servers, in front of a real store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::Event;
use confab_test_servers::{Mode, Redis as Server};
use prost::Message as _;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::core::ownership::rules::{self, Rule};
use crate::store::Row;
use crate::store::embedded::{Durability, Embedded};

const CHAT: ChatId = ChatId(7);
const EPOCH: i64 = 1_700_000_000_000_000;
const HEAD: u64 = 70;
const BOUND: Duration = Duration::from_secs(20);
const MODES: [Mode; 3] = [Mode::Standalone, Mode::Cluster, Mode::Sentinel];

/// Where a part was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Redis,
    Store,
}

struct Fixture {
    server: Server,
    recent: Recent,
    store: Embedded,
    _folder: TempDir,
}

fn event(seq: u64) -> Bytes {
    Event { chat_id: CHAT.0, seq, device: "default".into(), ..Event::default() }.encode_to_vec().into()
}

fn kept(epoch: i64, seqs: impl IntoIterator<Item = u64>) -> Vec<Kept> {
    let kept = |seq| Kept { chat: CHAT, epoch, seq: Seq(seq), bytes: event(seq), replaces: false };
    seqs.into_iter().map(kept).collect()
}

/// The newest events down to this one.
fn down_to(seq: u64, epoch: i64) -> Asked {
    let range =
        Range { chat: CHAT, after: Seq(seq - 1), before: Seq(HEAD + 1), limit: 100, bytes: 1 << 20, newest: true };
    Asked { range, as_of: AsOf { epoch, head: Seq(HEAD) } }
}

impl Fixture {
    async fn start(mode: Mode) -> Self {
        let server = tokio::task::spawn_blocking(move || Server::start(mode)).await.expect("no panic").expect("Redis");
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path(), Durability::Buffered).expect("opened");
        let rows = (1..=HEAD).map(|seq| Row::Event { chat: CHAT, seq: Seq(seq), epoch: 0, bytes: event(seq) });
        store.commit(rows.collect(), 0).await.expect("stored");
        let redis = Redis::connect(&server.url().parse().expect("an address"), None).expect("connecting");
        let fixture = Self { server, recent: Recent::start(redis), store, _folder: folder };
        fixture.until("connected", async |fixture| fixture.ping().await).await;
        fixture
    }

    async fn ping(&self) -> bool {
        let inner = self.recent.0.as_ref().expect("Redis");
        let asked: Vec<Command> = (0..100).map(|key| Command::new("EXISTS", format!("{{{key}}}"))).collect();
        inner.redis.ask(asked, Duration::from_secs(1)).await.is_ok()
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let polled = async {
            while !holds(self).await {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(BOUND, polled).await.unwrap_or_else(|_| panic!("not in {BOUND:?}: {what}"));
    }

    fn hits(&self) -> usize {
        self.recent.0.as_ref().expect("Redis").hits.load(Ordering::Relaxed)
    }

    /// Which seqs, and where they were read from.
    async fn read(&self, asked: Asked) -> (Vec<u64>, From) {
        let before = self.hits();
        let page = self.recent.events(&self.store, vec![asked]).await.expect("read").pop().expect("a page");
        let from = if self.hits() > before { From::Redis } else { From::Store };
        (page.events.iter().map(|bytes| Event::decode(&bytes[..]).expect("an event").seq).collect(), from)
    }

    /// Whether it was from there. It is right, wherever it was from.
    async fn reads(&self, asked: Asked, from: From) -> bool {
        let (seqs, place) = self.read(asked).await;
        assert_eq!(seqs, (asked.range.after.0 + 1..=HEAD).collect::<Vec<_>>(), "from {place:?}");
        place == from
    }

    /// Keeps them, and waits until they are: the last of them can be read.
    async fn keep(&self, events: Vec<Kept>) {
        let last = events.last().expect("some").clone();
        self.recent.keep(events);
        let wanted = move |fixture: &Self| {
            let redis = fixture.recent.0.as_ref().expect("Redis").redis.clone();
            let key = key(last.chat, last.epoch);
            let score = last.seq.0.to_string();
            async move {
                let asked = Command::new("ZCOUNT", key).text(score.clone()).text(score);
                redis.ask(vec![asked], Duration::from_secs(1)).await.is_ok_and(|replies| replies[0] != Reply::Number(0))
            }
        };
        self.until("kept", async |fixture| wanted(fixture).await).await;
    }
}

#[tokio::test]
async fn the_newest_are_read_from_redis_and_whatever_lacks_there_from_the_store() {
    for mode in MODES {
        let fixture = Fixture::start(mode).await;
        assert!(fixture.reads(down_to(61, EPOCH - 1), From::Store).await, "{mode:?}: nothing is kept");
        // A tenure that has kept all of its newest ones, one by one as they came.
        for seq in 1..=HEAD {
            fixture.recent.keep(kept(EPOCH, [seq]));
        }
        fixture.keep(kept(EPOCH, [HEAD])).await;
        assert!(fixture.reads(down_to(21, EPOCH), From::Redis).await, "{mode:?}: the newest 50");
        assert!(fixture.reads(down_to(70, EPOCH), From::Redis).await, "{mode:?}: the newest");
        assert!(fixture.reads(down_to(20, EPOCH), From::Store).await, "{mode:?}: one more than are kept");
        // Only so many are there, and not for ever.
        let redis = fixture.recent.0.as_ref().expect("Redis").redis.clone();
        let key = key(CHAT, EPOCH);
        let asked = vec![Command::new("ZCARD", key.clone()), Command::new("TTL", key)];
        let replies = redis.ask(asked, Duration::from_secs(1)).await.expect("answered");
        assert_eq!(replies[0], Reply::Number(50), "{mode:?}");
        assert!(matches!(replies[1], Reply::Number(3_500..=3_600)), "{mode:?}: {replies:?}");
        // Several parts at once, some of them kept.
        let before = fixture.hits();
        let both = vec![down_to(61, EPOCH), down_to(1, EPOCH), down_to(66, EPOCH)];
        let pages = fixture.recent.events(&fixture.store, both).await.expect("read");
        let counts: Vec<usize> = pages.iter().map(|page| page.events.len()).collect();
        assert_eq!((counts, fixture.hits() - before), (vec![10, 70, 5], 2), "{mode:?}");
    }
}

#[tokio::test]
async fn what_another_tenure_has_kept_is_not_read() {
    let fixture = Fixture::start(Mode::Standalone).await;
    fixture.keep(kept(EPOCH, 60..=HEAD)).await;
    assert!(fixture.reads(down_to(61, EPOCH), From::Redis).await);
    // The next owner's, whose key is empty; then the deposed one writes late.
    assert!(fixture.reads(down_to(62, EPOCH + 1), From::Store).await);
    fixture.keep(kept(EPOCH, 50..60)).await;
    assert!(fixture.reads(down_to(55, EPOCH + 1), From::Store).await);
    // Of an owner that doesn't tell its epoch, as an older program's.
    assert!(fixture.reads(down_to(61, 0), From::Store).await);
}

#[tokio::test]
async fn what_was_missed_is_kept_for_the_next_one() {
    let fixture = Fixture::start(Mode::Standalone).await;
    assert!(fixture.reads(down_to(61, EPOCH), From::Store).await);
    let redis = fixture.recent.0.as_ref().expect("Redis").redis.clone();
    let count = async || {
        let asked = Command::new("ZCOUNT", key(CHAT, EPOCH)).text("-inf").text("+inf");
        redis.ask(vec![asked], Duration::from_secs(1)).await.expect("answered").remove(0)
    };
    fixture.until("what was read is kept", async |_| count().await == Reply::Number(10)).await;
    // The store is not asked any more: its events are gone.
    let empty = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(empty.path(), Durability::Buffered).expect("opened");
    let pages = fixture.recent.events(&store, vec![down_to(61, EPOCH)]).await.expect("read");
    assert_eq!(pages[0].events.len(), 10);
    // Of a long part only the newest.
    assert!(fixture.reads(down_to(1, EPOCH), From::Store).await);
    fixture.until("the newest are kept", async |_| count().await == Reply::Number(50)).await;
}

#[tokio::test]
async fn a_hole_is_read_from_the_store_and_without_the_rule_it_would_be_missed() {
    let fixture = Fixture::start(Mode::Standalone).await;
    fixture.keep(kept(EPOCH, (40..=HEAD).filter(|seq| *seq != 55))).await;
    assert!(fixture.reads(down_to(56, EPOCH), From::Redis).await, "above the hole");
    // The control, before the store's answer is kept, too.
    rules::cut(Some(Rule::RecentWithoutHole));
    let (seqs, from) = fixture.read(down_to(51, EPOCH)).await;
    rules::cut(None);
    assert_eq!((seqs.len(), from), (19, From::Redis), "without the rule 55 is missed");
    assert!(fixture.reads(down_to(51, EPOCH), From::Store).await);
    // An end that has not come, and one that came too late.
    let fixture = Fixture::start(Mode::Standalone).await;
    fixture.keep(kept(EPOCH, 40..HEAD)).await;
    assert!(fixture.reads(down_to(60, EPOCH), From::Store).await);
}

#[tokio::test]
async fn reads_are_right_while_redis_stands_still_or_is_gone_and_are_from_it_when_it_is_back() {
    for mode in MODES {
        let fixture = Fixture::start(mode).await;
        fixture.keep(kept(EPOCH, 1..=HEAD)).await;
        assert!(fixture.reads(down_to(61, EPOCH), From::Redis).await, "{mode:?}");
        fixture.server.signal_all("STOP").expect("stopped");
        for _ in 0..20 {
            let at = Instant::now();
            assert!(fixture.reads(down_to(61, EPOCH), From::Store).await, "{mode:?}");
            assert!(at.elapsed() < 5 * TIME, "{mode:?}: {:?}", at.elapsed());
        }
        fixture.server.signal_all("CONT").expect("it goes on");
        fixture.until("hits again", async |fixture| fixture.reads(down_to(61, EPOCH), From::Redis).await).await;
        // Killed: what was kept may be lost with it, as behind sentinels what the replica has not got yet.
        fixture.server.kill_primary().expect("killed");
        for _ in 0..20 {
            let at = Instant::now();
            fixture.reads(down_to(61, EPOCH), From::Store).await;
            assert!(at.elapsed() < 5 * TIME, "{mode:?}: {:?}", at.elapsed());
        }
        fixture.server.up().expect("up again");
        let again = async |fixture: &Fixture| {
            fixture.recent.keep(kept(EPOCH + 1, 1..=HEAD));
            fixture.reads(down_to(61, EPOCH + 1), From::Redis).await
        };
        fixture.until("hits again", again).await;
    }
}
