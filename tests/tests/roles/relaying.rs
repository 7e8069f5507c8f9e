//! An edge that can't reach a chat's owner gets there by way of another instance.

use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::{Command, Content, ConverseRequest, Send, reply};
use confab_proto::metadata::RELAY_TO;
use confab_tests::harness::shards::owner;
use confab_tests::harness::{BOUND, Mesh};
use tokio::time::timeout;
use tonic::{Code, Request};

/// A stream at an instance that doesn't own the chat is passed on if it says to whom, and only then.
pub(crate) async fn a_stream_goes_by_way_of_another_instance(mesh: &Mesh, chat: u64, user: u64) {
    let map = mesh.shard_map().await.unwrap();
    let owner = owner(&map, chat).unwrap();
    let other = map.owners.iter().find(|name| **name != owner).unwrap();
    assert_eq!(say(mesh, other, None, chat, user).await, Ok(Err("NOT_OWNER".to_owned())));
    let Ok(Ok(first)) = say(mesh, other, Some(owner), chat, user).await else { panic!("not passed on") };
    assert_eq!(say(mesh, owner, None, chat, user).await, Ok(Ok(first + 1)));
    // Who is named is who gets it.
    assert_eq!(say(mesh, owner, Some(owner), chat, user).await, Ok(Ok(first + 2)));
    assert_eq!(say(mesh, other, Some("127.0.0.1:1"), chat, user).await, Err(Code::Unavailable));
}

/// What comes of a send on a stream of its own at `at`: a seq or why not.
async fn say(mesh: &Mesh, at: &str, to: Option<&str>, chat: u64, user: u64) -> Result<Result<u64, String>, Code> {
    let send = Send {
        chat_id: chat,
        user_id: user,
        device: "relayed".to_owned(),
        message_id: uuid::Uuid::now_v7().as_bytes().to_vec().into(),
        content: Some(Content { text: "by another way".to_owned(), ..Content::default() }),
        ..Send::default()
    };
    let command = Command { session: 1, call: 1, generation: 1, action: Some(Action::Send(send)) };
    let (commands, queue) = tokio::sync::mpsc::channel(1);
    commands.send(ConverseRequest { commands: vec![command] }).await.unwrap();
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(queue));
    if let Some(to) = to {
        request.metadata_mut().insert(RELAY_TO, to.parse().unwrap());
    }
    let answered = async {
        let mut replies = mesh.messages(at).await.unwrap().converse(request).await.map_err(|status| status.code())?;
        let frame = replies.get_mut().message().await.map_err(|status| status.code())?;
        let outcome = frame.and_then(|mut frame| frame.replies.pop()?.outcome).expect("a reply");
        Ok(match outcome {
            reply::Outcome::Accepted(accepted) => Ok(accepted.seq),
            reply::Outcome::Refused(refused) => Err(refused.code),
        })
    };
    timeout(BOUND, answered).await.expect("in time")
}
