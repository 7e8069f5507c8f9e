//! What happens to a chat, line by line, when somebody asks: `CONFAB_TRACE=<chat>`.

use confab_proto::fanout::v1::{Publication, publication};
use confab_proto::message::v1::{Event, event};
use prost::Message as _;

use super::World;
use crate::core::owner::Write;
use crate::core::recovery::LogRow;
use crate::core::{Load, TailRead};
use crate::store::{Certain, ChatRecord, Row};

impl World {
    fn tell(&self, chat: u64, node: usize, what: impl FnOnce() -> String) {
        if self.traced == Some(chat) {
            println!("{:>7} ms node {node} life {}: {}", self.now_ms, self.nodes[node].life, what());
        }
    }

    pub(super) fn trace_write(&self, node: usize, write: &Write) {
        for row in &write.rows {
            self.tell(row.chat().0, node, || format!("write {} at {}: {}", write.number, write.stamp, shown(row)));
        }
    }

    pub(super) fn trace_committed(&self, node: usize, number: u64) {
        if let Some(chat) = self.traced {
            self.tell(chat, node, || format!("write {number} is stored"));
        }
    }

    pub(super) fn trace_loaded(&self, node: usize, load: Load, record: &ChatRecord) {
        let Certain { epoch, upto, .. } = record.certain;
        self.tell(load.chat.0, node, || format!("load {} finds the log certain up to {upto}@{epoch}", load.number));
    }

    pub(super) fn trace_tail(&self, node: usize, read: TailRead, rows: &[LogRow]) {
        let rows = || rows.iter().map(|row| format!("{}@{}", row.seq, row.epoch)).collect::<Vec<_>>().join(" ");
        self.tell(read.load.chat.0, node, || format!("bucket {} has {}", read.bucket, rows()));
    }

    pub(super) fn trace_published(&self, node: usize, publication: &Publication) {
        let what = match &publication.payload {
            Some(publication::Payload::Event(_)) => "event",
            _ => "marker",
        };
        self.tell(publication.chat_id, node, || format!("publishes {what} {}", publication.seq));
    }
}

fn shown(row: &Row) -> String {
    match row {
        Row::Event { seq, epoch, bytes, .. } => {
            let event = Event::decode(&bytes[..]).unwrap_or_default();
            match event.body {
                Some(event::Body::Membership(membership)) => format!("{seq}@{epoch} adds {:?}", membership.user_ids),
                _ => format!("{seq}@{epoch} {}/{}", event.sender_id, event.client_id),
            }
        }
        Row::Chat { meta, roster } => {
            let roster = roster.as_ref().map(|roster| (roster.seq.0, roster.members.len()));
            format!("chat, {} buckets, roster {roster:?}", meta.openings.len())
        }
        Row::Send { sent, .. } => format!("key of {}", sent.seq),
        Row::Member { member, .. } => format!("list of {}", member.user),
        Row::Marks { block, .. } => format!("marks {block}"),
        Row::Creation { .. } => "creation".to_owned(),
        Row::DropMember { user, .. } => format!("{user} has no place"),
        Row::DropSends { .. } => "drop".to_owned(),
    }
}
