//! Old events: what is written, in which order, and who waits for it.

use bytes::Bytes;
use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Content, Deletion, Edit, Event};
use prost::Message as _;

use super::{Limits, Owner, Write};
use crate::core::body::Body;
use crate::core::{Command, Create, Effects, Expire, Now, Origin, Outcome, Send};
use crate::error::ChatError;
use crate::store::{CreationKey, Row};

const LIMITS: Limits = Limits { hot_chats: 10, in_flight: 1_000, window: 4 };
const CHAT: ChatId = ChatId(1);
const NOW: Now = Now { wall_ms: 1_700_000_000_000, mono_ms: 1_000_000 };

/// An owner of a direct chat, and writes that the test stores when it likes.
struct World {
    owner: Owner,
    fx: Effects,
    ids: u128,
}

impl World {
    fn new() -> Self {
        let mut world = Self { owner: Owner::sole(LIMITS, 1), fx: Effects::default(), ids: 0 };
        let create = Create {
            key: CreationKey::Direct(UserId(1), UserId(2)),
            kind: ChatKind::Direct,
            title: String::new(),
            by: UserId(1),
            device: "d".into(),
            members: vec![UserId(1), UserId(2)],
            message_id: world.message_id(),
        };
        world.owner.create(NOW, Origin::Call(0), create, &mut world.fx);
        world.store_all();
        world
    }

    fn message_id(&mut self) -> MessageId {
        self.ids += 1;
        MessageId(self.ids.to_be_bytes())
    }

    fn send(&mut self, call: u64, body: Body) {
        let (user, device, client_id) = (UserId(1), "d".to_owned(), call.to_string());
        let send = Send { user, device, message_id: self.message_id(), client_id, body, erases: false };
        self.owner.command(NOW, CHAT, Origin::Call(call), Command::Send(send), &mut self.fx);
    }

    fn say(&mut self, call: u64) {
        self.send(call, Body::Content(Content { text: "words".into(), ..Content::default() }));
    }

    fn expire(&mut self, upto: u64, as_of: u64) {
        let row = Event { seq: upto, body: Some(Body::Content(Content::default())), ..Event::default() };
        let rows = [(Seq(upto), Bytes::from(row.encode_to_vec()))].into();
        let expire = Command::Expire(Expire { rows, upto: Seq(upto), as_of: Seq(as_of) });
        self.owner.command(NOW, CHAT, Origin::Call(90), expire, &mut self.fx);
    }

    fn writes(&mut self) -> Vec<Write> {
        self.owner.seal(NOW, &mut self.fx)
    }

    fn store(&mut self, writes: &[Write]) {
        writes.iter().for_each(|write| self.owner.committed(NOW, write.number, &mut self.fx));
    }

    /// Stores what there is until there is no more, and takes the answers.
    fn store_all(&mut self) -> Vec<Outcome> {
        loop {
            for publication in std::mem::take(&mut self.fx.publications) {
                self.owner.fanout_accepted(publication.id, &mut self.fx);
            }
            let writes = self.writes();
            if writes.is_empty() && self.fx.publications.is_empty() {
                return self.answers();
            }
            self.store(&writes);
        }
    }

    fn answers(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.fx.replies).into_iter().map(|(_, outcome)| outcome).collect()
    }
}

fn expired_upto(writes: &[Write]) -> Option<Seq> {
    writes.iter().flat_map(|write| &write.rows).find_map(|row| match row {
        Row::Chat { meta, .. } => Some(meta.expired_upto),
        _ => None,
    })
}

#[test]
fn the_rows_are_stored_before_the_chat_says_so_and_nothing_is_appended_meanwhile() {
    let mut world = World::new();
    world.say(1);
    world.say(2);
    world.store_all();
    world.expire(2, 3);
    world.say(3);
    assert_eq!(world.answers(), [Outcome::Expired { upto: Seq(2) }]);
    let rows = world.writes();
    assert!(matches!(rows[..], [Write { ref rows, .. }] if matches!(rows[..], [Row::Event { seq: Seq(2), .. }])));
    assert_eq!(world.writes().len(), 0, "what was sent waits");
    world.store(&rows);
    let chat = world.writes();
    assert_eq!(expired_upto(&chat), Some(Seq(2)));
    assert_eq!(world.writes().len(), 0, "it still waits");
    world.store(&chat);
    assert!(matches!(world.store_all()[..], [Outcome::Accepted(accepted)] if accepted.seq == Seq(4)));
    world.expire(2, 4);
    assert_eq!((world.answers(), world.writes().len()), (vec![Outcome::Expired { upto: Seq(2) }], 0), "it is done");
}

#[test]
fn it_waits_for_what_is_under_way_and_goes_no_further_than_the_head() {
    let mut world = World::new();
    world.say(1);
    world.expire(9, 9);
    assert!(world.answers().is_empty(), "the message may be of one of them");
    let answers = world.store_all();
    assert!(answers.contains(&Outcome::Expired { upto: Seq(2) }), "{answers:?}");
    // What has lost its words is no message any more.
    world.send(5, Body::Deletion(Deletion { target: 1, rows: Vec::new() }));
    assert!(matches!(world.store_all()[..], [Outcome::SendRefused(_)]));
}

#[test]
fn what_was_read_before_a_message_was_changed_is_not_written_over_it() {
    let mut world = World::new();
    world.say(1);
    world.store_all();
    world.send(2, Body::Edit(Edit { target: 2, text: "others".into(), rows: Vec::new() }));
    world.store_all();
    world.expire(2, 2);
    assert_eq!((world.answers(), world.writes().len()), (vec![Outcome::ChatRefused(ChatError::Unavailable)], 0));
    world.expire(2, 3);
    assert_eq!((world.answers(), world.writes().len()), (vec![Outcome::Expired { upto: Seq(2) }], 1));
}
