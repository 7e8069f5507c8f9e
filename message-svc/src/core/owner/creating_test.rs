//! Who asks for a chat that is being made waits until it is there.

use confab_ids::{ChatId, MessageId, UserId};
use confab_proto::message::v1::ChatKind;

use super::{Limits, Owner};
use crate::core::{Command, Create, Effects, Now, Origin, Outcome};
use crate::store::CreationKey;

fn direct(by: u64) -> Create {
    Create {
        key: CreationKey::Direct(UserId(1), UserId(2)),
        kind: ChatKind::Direct,
        title: String::new(),
        by: UserId(by),
        device: "d".into(),
        members: vec![UserId(1), UserId(2)],
        message_id: MessageId([1; 16]),
    }
}

#[test]
fn nobody_is_told_of_a_chat_before_its_first_event_is_durable() {
    let now = Now { wall_ms: 1_700_000_000_000, mono_ms: 1_000_000 };
    let mut owner = Owner::sole(Limits { hot_chats: 10, in_flight: 100, window: 4 }, 1);
    let mut fx = Effects::default();
    owner.create(now, Origin::Call(1), direct(1), &mut fx);
    let writes = owner.seal(now, &mut fx);
    // By its key, and by who has found that on the disk.
    owner.create(now, Origin::Call(2), direct(2), &mut fx);
    owner.command(now, ChatId(1), Origin::Call(3), Command::Create(Box::new(direct(2))), &mut fx);
    assert!(fx.replies.is_empty(), "{:?}", fx.replies);
    writes.iter().for_each(|write| owner.committed(now, write.number, &mut fx));
    let told = fx.replies.iter().map(|(_, outcome)| match outcome {
        Outcome::Created { chat: ChatId(1), existed } => *existed,
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [false, true, true]);
    owner.command(now, ChatId(1), Origin::Call(4), Command::Create(Box::new(direct(2))), &mut fx);
    assert_eq!(fx.replies.len(), 4, "at once");
}
