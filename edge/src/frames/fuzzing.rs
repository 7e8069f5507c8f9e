//! What holds of any frame that is read, whatever a client sends: for the fuzz target (`edge/fuzz`), whose corpus is replayed by
//! the tests.

use confab_ids::NUMBER_LIMIT;
use confab_proto::limits::{CLIENT_ID_CHARS_MAX, EMOJI_BYTES_MAX, MEDIA_URL_BYTES_MAX, MENTIONS_MAX, TEXT_BYTES_MAX};
use confab_proto::message::v1::Send;

use super::client::{self, ClientFrame, Place, Read};
use super::{Code, binary};

/// Reads `bytes` as a frame in each way.
///
/// # Panics
/// If what is read doesn't keep the protocol's bounds.
pub(crate) fn read_frame(bytes: &[u8]) {
    check(&binary::read(bytes));
    if let Ok(text) = std::str::from_utf8(bytes) {
        check(&client::read(text));
    }
}

fn check(read: &Read) {
    assert!(read.reference.as_ref().is_none_or(|reference| reference.chars().count() <= 64), "a long ref");
    assert!(read.trace.as_ref().is_none_or(|trace| trace.len() == 32), "not a trace id");
    match &read.frame {
        Ok(ClientFrame::Send(send)) => check_send(send),
        Ok(ClientFrame::Delivered { chat, at } | ClientFrame::Read { chat, at }) => {
            number(chat.0);
            if let Place::Seq(seq) = at {
                number(seq.0);
            }
        }
        Ok(ClientFrame::Sync { positions }) => {
            positions.iter().for_each(|(chat, seq)| {
                number(*chat);
                assert!(*seq < NUMBER_LIMIT, "a seq beyond the limit");
            });
        }
        Ok(ClientFrame::History { chat, before, limit }) => {
            number(chat.0);
            assert!(before.0 < NUMBER_LIMIT && (1..=200).contains(limit), "a page beyond its bounds");
        }
        Ok(ClientFrame::Watch { users } | ClientFrame::Unwatch { users }) => {
            users.iter().for_each(|user| number(user.0));
        }
        Ok(ClientFrame::Typing { chat }) => number(chat.0),
        Ok(ClientFrame::Ping | ClientFrame::Auth { .. } | ClientFrame::Presence) => {}
        Err(bad) => {
            let codes = [Code::InvalidFrame, Code::UnknownType, Code::TooLarge, Code::Unimplemented];
            assert!(codes.contains(&bad.code) && !bad.message.is_empty(), "{bad:?}");
        }
    }
}

fn check_send(send: &Send) {
    number(send.chat_id);
    assert!(send.client_id.chars().count() <= CLIENT_ID_CHARS_MAX, "a long client_id");
    if let Some(content) = &send.content {
        assert!(content.text.len() <= TEXT_BYTES_MAX && content.media_url.len() <= MEDIA_URL_BYTES_MAX, "too long");
        assert!(content.mentions.len() <= MENTIONS_MAX && content.reply_to < NUMBER_LIMIT, "beyond its bounds");
    }
    if let Some(edit) = &send.edit {
        number(edit.target);
        assert!((1..=TEXT_BYTES_MAX).contains(&edit.text.len()), "an edit that is empty or too long");
    }
    if let Some(deletion) = &send.deletion {
        number(deletion.target);
    }
    if let Some(reaction) = &send.reaction {
        number(reaction.target);
        assert!((1..=EMOJI_BYTES_MAX).contains(&reaction.emoji.len()), "an emoji that is empty or too long");
    }
}

/// An id or a seq.
fn number(number: u64) {
    assert!((1..NUMBER_LIMIT).contains(&number), "{number} is none");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_read_without_harm() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/frames");
        let files = std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path());
        let read = files.map(|file| read_frame(&std::fs::read(file).expect("a file"))).count();
        assert!(read >= 100, "{read} of the corpus");
    }

    #[test]
    #[should_panic(expected = "0 is none")]
    fn a_number_that_is_none_is_noticed() {
        number(0);
    }
}
