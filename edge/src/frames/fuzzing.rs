//! What holds of any frame that is read, whatever a client sends: for the fuzz target (`edge/fuzz`), whose corpus the tests replay.

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

    /// A frame in hexadecimal digits each line.
    const CORPUS: &str = include_str!("../../fuzz/frames.corpus");

    fn bytes(line: &str) -> Vec<u8> {
        let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal digits");
        (0..line.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn the_corpus_is_read_without_harm() {
        let frames: Vec<Vec<u8>> = CORPUS.lines().map(bytes).collect();
        frames.iter().for_each(|frame| read_frame(frame));
        let good = |frame: &&Vec<u8>| {
            let text = std::str::from_utf8(frame).is_ok_and(|text| client::read(text).frame.is_ok());
            text || binary::read(frame).frame.is_ok()
        };
        let good = frames.iter().filter(good).count();
        assert!(frames.len() > 1_000 && good > 20, "{good} of {} are good frames", frames.len());
    }

    #[test]
    #[should_panic(expected = "0 is none")]
    fn a_number_that_is_none_is_noticed() {
        number(0);
    }
}
