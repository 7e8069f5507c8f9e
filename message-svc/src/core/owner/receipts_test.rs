//! Who is told what of receipts, how often, and what of it is written.

use std::collections::BTreeMap;

use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::fanout::v1::{Publication, Receipt, publication};
use confab_proto::message::v1::{ChatKind, Content};

use super::{Limits, MARKS_EVERY_MS, Owner};
use crate::core::body::Body;
use crate::core::marks::RECEIPT_EVERY_MS;
use crate::core::{Command, Create, Effects, Mark, Now, Origin, Outcome, Send};
use crate::store::{CreationKey, MEMBERS_MAX, Row};

const LIMITS: Limits = Limits { hot_chats: 10, in_flight: 1_000_000, window: 4 };
const TICK_MS: u64 = 50;
const PERIOD_MS: u64 = RECEIPT_EVERY_MS;

/// An owner whose store and fanout answer at once.
struct World {
    owner: Owner,
    now: Now,
    chat: ChatId,
    ids: u128,
    /// With their times.
    receipts: Vec<(u64, Publication, Receipt)>,
    /// Blocks of watermarks, by the time of their write.
    blocks: BTreeMap<u64, usize>,
}

impl World {
    fn new(members: u64) -> Self {
        let now = Now { wall_ms: 1_700_000_000_000, mono_ms: 1_000_000 };
        let (receipts, blocks) = (Vec::new(), BTreeMap::new());
        let mut world = Self { owner: Owner::sole(LIMITS, 1), now, chat: ChatId(1), ids: 0, receipts, blocks };
        let create = Create {
            key: CreationKey::Group { user: UserId(1), device: "d".into(), client_id: "group".into() },
            kind: ChatKind::Group,
            title: String::new(),
            by: UserId(1),
            device: "d".into(),
            members: (1..=members).map(UserId).collect(),
            message_id: world.message_id(),
        };
        world.act(|owner, now, fx| owner.create(now, Origin::Call(1), create, fx));
        world
    }

    fn message_id(&mut self) -> MessageId {
        self.ids += 1;
        MessageId(self.ids.to_be_bytes())
    }

    fn act(&mut self, input: impl FnOnce(&mut Owner, Now, &mut Effects)) -> Vec<Outcome> {
        let mut fx = Effects::default();
        input(&mut self.owner, self.now, &mut fx);
        let mut outcomes = Vec::new();
        loop {
            for publication in std::mem::take(&mut fx.publications) {
                self.owner.fanout_accepted(publication.id, &mut fx);
                self.owner.fanout_settled(publication.id);
                if let Some(publication::Payload::Receipt(receipt)) = publication.payload.clone() {
                    self.receipts.push((self.now.mono_ms, publication, receipt));
                }
            }
            outcomes.extend(std::mem::take(&mut fx.replies).into_iter().map(|(_, outcome)| outcome));
            let writes = self.owner.seal(self.now, &mut fx);
            if writes.is_empty() && fx.publications.is_empty() && fx.replies.is_empty() {
                return outcomes;
            }
            for write in writes {
                let blocks = write.rows.iter().filter(|row| matches!(row, Row::Marks { .. })).count();
                *self.blocks.entry(self.now.mono_ms).or_default() += blocks;
                self.owner.committed(self.now, write.number, &mut fx);
            }
        }
    }

    /// The message's seq.
    fn say(&mut self, user: u64) -> Seq {
        let message_id = self.message_id();
        let content = Content { text: "x".into(), ..Content::default() };
        let (user, device, client_id) = (UserId(user), "d".to_owned(), String::new());
        let send = Send { user, device, message_id, client_id, body: Body::Content(content), erases: false };
        let chat = self.chat;
        let outcomes = self.act(|owner, now, fx| owner.command(now, chat, Origin::Call(2), Command::Send(send), fx));
        match outcomes[..] {
            [Outcome::Accepted(accepted)] => accepted.seq,
            ref other => panic!("{other:?}"),
        }
    }

    fn mark(&mut self, user: u64, delivered: Seq, read: Seq) {
        self.mark_by("d", user, delivered, read);
    }

    fn mark_by(&mut self, device: &str, user: u64, delivered: Seq, read: Seq) {
        let mark = Mark { user: UserId(user), device: device.into(), delivered, read };
        let chat = self.chat;
        self.act(|owner, now, fx| owner.command(now, chat, Origin::Call(3), Command::Mark(mark), fx));
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while self.now.mono_ms < end {
            self.now.mono_ms += TICK_MS;
            self.now.wall_ms += i64::try_from(TICK_MS).expect("small");
            self.act(|owner, now, fx| owner.tick(now, fx));
        }
    }

    /// (time, receipt) of all that went to `user`.
    fn told(&self, user: u64) -> Vec<(u64, &Receipt)> {
        let to = |publication: &Publication| publication.user_ids.contains(&user);
        self.receipts.iter().filter(|(_, publication, _)| to(publication)).map(|(at, _, told)| (*at, told)).collect()
    }
}

#[test]
fn in_a_small_group_a_receipt_names_its_reader_and_goes_to_whom_it_may_concern() {
    let mut world = World::new(4);
    let first = world.say(1);
    let second = world.say(2);
    world.mark(3, first, Seq::ZERO);
    let told = |world: &World, user| -> Vec<(u64, u64, u64)> {
        world.told(user).into_iter().map(|(_, told)| (told.user_id, told.delivered, told.read)).collect()
    };
    assert_eq!(told(&world, 1), [(3, first.0, 0)]);
    // Who has said nothing isn't concerned.
    assert_eq!(told(&world, 4), []);
    world.mark(3, second, second);
    world.pass(PERIOD_MS);
    assert_eq!(told(&world, 1)[1..], [(3, second.0, second.0)]);
    assert_eq!(told(&world, 2).last(), Some(&(3, second.0, second.0)));
    // One's own devices see what one has read.
    assert_eq!(told(&world, 3).last(), Some(&(3, second.0, second.0)));
    // A message that was covered before is not covered again.
    let third = world.say(2);
    world.pass(PERIOD_MS);
    let before = world.told(1).len();
    world.mark(3, third, third);
    world.pass(PERIOD_MS);
    assert_eq!(told(&world, 2).last(), Some(&(3, third.0, third.0)));
    assert_eq!(world.told(1).len(), before);
}

#[test]
fn a_device_that_says_something_for_the_first_time_hears_what_its_user_has_read() {
    let mut world = World::new(4);
    world.mark_by("phone", 3, Seq(1), Seq(1));
    world.pass(PERIOD_MS);
    assert!(world.told(3).is_empty(), "there is one device, and nobody has said anything");
    world.mark_by("tablet", 3, Seq(1), Seq::ZERO);
    let told: Vec<_> = world.told(3).into_iter().map(|(_, told)| (told.user_id, told.read)).collect();
    assert_eq!(told, [(3, 1)]);
    world.mark_by("tablet", 3, Seq(1), Seq::ZERO);
    world.pass(PERIOD_MS);
    assert_eq!(world.told(3).len(), 1);
}

#[test]
fn in_a_large_group_a_sender_is_told_how_many_and_not_who() {
    let mut world = World::new(40);
    let seq = world.say(1);
    world.mark(2, seq, seq);
    for reader in 3..=10 {
        world.mark(reader, seq, Seq::ZERO);
    }
    world.pass(PERIOD_MS + TICK_MS);
    let told: Vec<_> = world.told(1).into_iter().map(|(_, told)| (told.counts[0], told.members)).collect();
    let counts: Vec<_> = told.iter().map(|(count, members)| (count.delivered_by, count.read_by, *members)).collect();
    assert_eq!(counts, [(1, 1, 40), (9, 1, 40)]);
    assert!(told.iter().all(|(count, _)| (count.user_id, count.seq) == (1, seq.0)));
    // The sender's own mark counts for nothing, and nothing new is told.
    world.mark(1, seq, seq);
    world.pass(2 * PERIOD_MS);
    assert_eq!(world.told(1).len(), 2);
}

/// A hundred messages of ten senders within ten seconds, and a thousand members read each of them at once.
#[test]
#[allow(clippy::print_stdout, reason = "its figures")]
fn a_storm_of_receipts_costs_a_sender_one_frame_and_the_store_eight_blocks_in_five_seconds() {
    const MESSAGES: u64 = 100;
    const SENDERS: u64 = 10;
    let mut world = World::new(MEMBERS_MAX as u64);
    let mut last = Seq::ZERO;
    let start = world.now.mono_ms;
    world.blocks.clear();
    for message in 0..MESSAGES {
        last = world.say(1 + message % SENDERS);
        for reader in 1..=MEMBERS_MAX as u64 {
            world.mark(reader, last, last);
        }
        world.pass(2 * PERIOD_MS / MESSAGES);
    }
    world.pass(2 * PERIOD_MS);
    let periods = (world.now.mono_ms - start).div_ceil(PERIOD_MS);
    let frames: Vec<usize> = (1..=SENDERS).map(|sender| world.told(sender).len()).collect();
    let blocks = world.blocks.values().copied().max().unwrap_or(0);
    println!("{periods} periods of 5 s: frames per sender {frames:?}, at most {blocks} blocks in one");
    for sender in 1..=SENDERS {
        let told = world.told(sender);
        let apart = told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= PERIOD_MS);
        assert!(told.len() >= 2, "sender {sender} is told {} times", told.len());
        assert!(apart, "sender {sender} is told more often: {:?}", told.iter().map(|(at, _)| at).collect::<Vec<_>>());
        let count = told.last().and_then(|(_, told)| told.counts.iter().find(|count| count.user_id == sender));
        let count = count.expect("the sender's own number");
        assert_eq!((count.delivered_by, count.read_by), (999, 999));
        assert!(count.seq <= last.0);
    }
    let written: Vec<u64> = world.blocks.iter().filter(|(_, blocks)| **blocks > 0).map(|(at, _)| *at).collect();
    let apart = written.windows(2).all(|pair| pair[1] - pair[0] >= MARKS_EVERY_MS);
    assert!(blocks == 8 && apart, "{:?}", world.blocks);
}
