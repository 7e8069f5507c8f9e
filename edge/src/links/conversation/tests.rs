//! The link between two instances of message-svc in this process, whose chats move.

mod instance;

use std::sync::Arc;
use std::time::Duration;

use confab_ids::UserId;
use confab_mesh::{Member, Members, Pool};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Mark, Send, reply};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::instance::Cluster;
use super::{Conversation, link};
use crate::mailbox::{Item, Mailbox};
use crate::registry::Registry;

const SESSION: u64 = 7;

/// How long anything may take.
const BOUND: Duration = Duration::from_secs(10);

struct Edge {
    conversation: Conversation,
    mailbox: Arc<Mailbox>,
    calls: u64,
    /// What has been answered, in that order.
    answers: Vec<(u64, String)>,
    link: AbortHandle,
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.link.abort();
    }
}

impl Edge {
    fn start(cluster: &Cluster) -> Self {
        Self::among(Pool::fixed(cluster.peers()))
    }

    fn among(pool: Pool) -> Self {
        let registry = Registry::default();
        let mailbox = Arc::new(Mailbox::plain(SESSION, UserId(1), (8, 1 << 20)));
        registry.add(&mailbox);
        let (conversation, run) = link(pool, registry);
        let link = tokio::spawn(run).abort_handle();
        Self { conversation, mailbox, calls: 0, answers: Vec::new(), link }
    }

    async fn say(&mut self, action: Action) {
        self.calls += 1;
        if let Some(wait) = self.conversation.send(SESSION, self.calls, action) {
            wait.await;
        }
    }

    async fn send(&mut self, chat_id: u64, count: u64) {
        for _ in 0..count {
            let message_id = u128::from(self.calls + 1).to_be_bytes().to_vec().into();
            self.say(Action::Send(Send { chat_id, user_id: 1, message_id, ..Send::default() })).await;
        }
    }

    async fn mark(&mut self, chat_id: u64, delivered: u64) {
        self.say(Action::Mark(Mark { chat_id, user_id: 1, delivered, ..Mark::default() })).await;
    }

    /// Waits until so many sends have been answered.
    async fn answered(&mut self, count: usize) {
        let all = async {
            while self.answers.len() < count {
                self.mailbox.ready().await;
                for item in self.mailbox.take() {
                    let Item::Reply(reply) = item else { panic!("{item:?}") };
                    let answer = match reply.outcome.expect("an outcome") {
                        reply::Outcome::Accepted(_) => "accepted".to_owned(),
                        reply::Outcome::Refused(refused) => refused.code,
                    };
                    self.answers.push((reply.call, answer));
                }
            }
        };
        tokio::time::timeout(BOUND, all).await.expect("all are answered in time");
        assert_eq!(self.answers.len(), count);
    }
}

fn accepted(calls: impl Iterator<Item = u64>) -> Vec<(u64, String)> {
    calls.map(|call| (call, "accepted".to_owned())).collect()
}

#[tokio::test]
async fn what_a_chats_old_owner_refuses_the_new_one_takes_in_order() {
    let cluster = Cluster::new(&["a", "b"]);
    let mut edge = Edge::start(&cluster);
    edge.send(1, 5).await;
    edge.send(2, 1).await;
    edge.mark(1, 3).await;
    edge.answered(6).await;
    cluster.owner_is("b");
    edge.send(1, 5).await;
    cluster.wait_for("a refusal", |told| told.refused_by("a", 1)).await;
    assert_eq!(edge.answers.len(), 6, "refusals that pass are nobody's answer");
    cluster.tell("b");
    edge.send(1, 100).await;
    edge.answered(111).await;
    assert_eq!(edge.answers, accepted((1..=6).chain(8..=112)));
    cluster.wait_for("the mark", |told| told.marks("b").contains(&(1, 3))).await;
    cluster.wait_for("a touch", |told| told.marks("b").contains(&(2, 0))).await;
    let told = cluster.told();
    let of = |chat| told.log.iter().filter(move |(_, of, _)| *of == chat).map(|(by, _, call)| (*by, *call));
    let expected = (1..=5).map(|call| ("a", call)).chain((8..=112).map(|call| ("b", call)));
    assert!(of(1).eq(expected), "{:?}", told.log);
}

#[tokio::test]
async fn what_was_on_a_stream_that_broke_is_sent_again() {
    let cluster = Cluster::new(&["a"]);
    let mut edge = Edge::start(&cluster);
    edge.send(1, 1).await;
    edge.answered(1).await;
    cluster.freeze("a", true);
    edge.send(1, 40).await;
    cluster.wait_for("commands", |told| told.swallowed > 0).await;
    cluster.freeze("a", false);
    cluster.cut("a");
    edge.answered(41).await;
    assert_eq!(edge.answers, accepted(1..=41));
    assert!(cluster.told().log.iter().map(|(_, _, call)| *call).eq(1..=41));
}

#[tokio::test]
async fn an_instance_that_takes_nothing_holds_up_no_other() {
    let cluster = Cluster::new(&["a", "b"]);
    let (of_a, of_b) = cluster.split();
    let mut edge = Edge::start(&cluster);
    cluster.stall("a");
    edge.send(of_a, 10_000).await;
    edge.send(of_b, 100).await;
    edge.answered(100).await;
    assert_eq!(edge.answers, accepted(10_001..=10_100));
}

#[tokio::test]
async fn alone_an_instance_has_all_and_says_so() {
    let cluster = Cluster::new(&["local"]);
    cluster.tell_nothing();
    let mut edge = Edge::start(&cluster);
    edge.send(1, 3).await;
    edge.send(2, 3).await;
    edge.answered(6).await;
    assert_eq!(edge.answers, accepted(1..=6));
}

#[tokio::test]
async fn an_owner_that_only_this_edge_cannot_reach_is_reached_by_another_instance() {
    let cluster = Cluster::new(&["a", "b"]);
    let up = |a: bool| -> Members {
        let member = |(name, peer): (&str, _)| Member { id: name.into(), peer, up: a || name != "a" };
        cluster.peers().into_iter().map(member).collect()
    };
    let (members, listed) = watch::channel(up(true));
    let mut edge = Edge::among(Pool::new(listed));
    edge.send(1, 5).await;
    edge.answered(5).await;
    assert_eq!(cluster.told().relayed, []);

    cluster.freeze("a", true);
    edge.send(1, 5).await;
    cluster.wait_for("commands that are lost", |told| told.swallowed > 0).await;
    members.send_replace(up(false));
    cluster.cut("a");
    cluster.freeze("a", false);
    edge.send(1, 5).await;
    edge.answered(15).await;
    assert_eq!(cluster.told().relayed, [("b", "a")]);

    // Back to the straight way when there is one.
    members.send_replace(up(true));
    edge.send(1, 20).await;
    edge.answered(35).await;
    assert_eq!(edge.answers, accepted(1..=35));
    assert!(cluster.told().log.iter().map(|(by, _, call)| (*by, *call)).eq((1..=35).map(|call| ("a", call))));
    assert_eq!(cluster.told().relayed, [("b", "a")]);
}
