//! The stored form of rows: protobuf, so that fields can be added.

use confab_ids::{ChatId, MessageId, Seq, UserId};
use confab_proto::message::v1::{ChatKind, Role};
use prost::Message;

use super::{Certain, MemberRow, Meta, Opening, Roster};
use crate::core::marks::Marks;
use crate::core::owner::WINDOW_MAX;
use crate::core::sends::Sent;
use crate::core::user::{Erasure, QuietHours, UserRecord};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChatValue {
    #[prost(enumeration = "ChatKind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(uint64, tag = "3")]
    created_by: u64,
    #[prost(int64, tag = "4")]
    created_at_ms: i64,
    #[prost(message, repeated, tag = "5")]
    openings: Vec<OpeningValue>,
    #[prost(uint64, tag = "6")]
    expired_upto: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OpeningValue {
    #[prost(uint32, tag = "1")]
    bucket: u32,
    #[prost(int64, tag = "2")]
    at_ms: i64,
}

impl ChatValue {
    pub(super) fn of(meta: &Meta) -> Self {
        let openings = meta.openings.iter().map(|o| OpeningValue { bucket: o.bucket, at_ms: o.at_ms });
        Self {
            kind: meta.kind.into(),
            title: meta.title.clone(),
            created_by: meta.created_by.0,
            created_at_ms: meta.created_at_ms,
            openings: openings.collect(),
            expired_upto: meta.expired_upto.0,
        }
    }

    pub(super) fn meta(self, chat: ChatId) -> Meta {
        Meta {
            chat,
            kind: self.kind(),
            created_by: UserId(self.created_by),
            created_at_ms: self.created_at_ms,
            openings: self.openings.iter().map(|o| Opening { bucket: o.bucket, at_ms: o.at_ms }).collect(),
            expired_upto: Seq(self.expired_upto),
            title: self.title,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MemberValue {
    #[prost(uint32, tag = "1")]
    slot: u32,
    #[prost(enumeration = "Role", tag = "2")]
    role: i32,
    #[prost(int64, tag = "3")]
    joined_at_ms: i64,
    #[prost(uint64, tag = "4")]
    joined_seq: u64,
    #[prost(uint64, tag = "5")]
    left_seq: u64,
}

impl MemberValue {
    pub(super) fn of(member: &MemberRow) -> Self {
        Self {
            slot: member.slot,
            role: member.role.into(),
            joined_at_ms: member.joined_at_ms,
            joined_seq: member.joined_seq.0,
            left_seq: member.left_seq.0,
        }
    }

    pub(super) fn member(&self, user: UserId) -> MemberRow {
        MemberRow {
            user,
            slot: self.slot,
            role: self.role(),
            joined_at_ms: self.joined_at_ms,
            joined_seq: Seq(self.joined_seq),
            left_seq: Seq(self.left_seq),
        }
    }
}

/// A chat's members in one value, by their places.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RosterValue {
    #[prost(message, repeated, tag = "1")]
    members: Vec<RosterMemberValue>,
    #[prost(sint64, tag = "2")]
    epoch: i64,
    #[prost(uint64, tag = "3")]
    upto: u64,
    /// 0: of a version that wrote none, and had [`WINDOW_MAX`].
    #[prost(uint32, tag = "4")]
    window: u32,
    #[prost(uint64, tag = "5")]
    stale_upto: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RosterMemberValue {
    #[prost(uint64, tag = "1")]
    user: u64,
    #[prost(message, optional, tag = "2")]
    member: Option<MemberValue>,
}

impl RosterValue {
    pub(super) fn of(roster: &Roster) -> Self {
        let Roster { members, certain: Certain { epoch, upto, window, stale_upto }, .. } = roster;
        let member =
            |member: &MemberRow| RosterMemberValue { user: member.user.0, member: Some(MemberValue::of(member)) };
        Self {
            members: members.iter().map(member).collect(),
            epoch: *epoch,
            upto: upto.0,
            window: *window,
            stale_upto: stale_upto.0,
        }
    }

    pub(super) fn roster(self, seq: Seq) -> Roster {
        let member = |value: RosterMemberValue| value.member.unwrap_or_default().member(UserId(value.user));
        let (window, stale_upto) = match self.window {
            0 => (WINDOW_MAX, self.upto.saturating_add(WINDOW_MAX.into())),
            window => (window, self.stale_upto),
        };
        let certain = Certain { epoch: self.epoch, upto: Seq(self.upto), window, stale_upto: Seq(stale_upto) };
        Roster { seq, members: self.members.into_iter().map(member).collect(), certain }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SendValue {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "vec", tag = "2")]
    message_id: Vec<u8>,
    #[prost(int64, tag = "3")]
    created_at_ms: i64,
    #[prost(fixed64, tag = "4")]
    body_hash: u64,
}

impl SendValue {
    pub(super) fn of(sent: &Sent) -> Self {
        Self {
            seq: sent.seq.0,
            message_id: sent.message_id.0.to_vec(),
            created_at_ms: sent.created_at_ms,
            body_hash: sent.body_hash,
        }
    }

    /// `None`: the row is damaged.
    pub(super) fn sent(&self) -> Option<Sent> {
        Some(Sent {
            seq: Seq(self.seq),
            message_id: MessageId::from_slice(&self.message_id)?,
            created_at_ms: self.created_at_ms,
            body_hash: self.body_hash,
        })
    }
}

/// A chat of a user, under `chats_by_user`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChatOfUserValue {
    #[prost(enumeration = "ChatKind", tag = "1")]
    pub(super) kind: i32,
}

/// Up to 128 members' watermarks.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MarksValue {
    #[prost(message, repeated, tag = "1")]
    members: Vec<MemberMarksValue>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberMarksValue {
    #[prost(uint64, tag = "1")]
    user: u64,
    #[prost(uint64, tag = "2")]
    read: u64,
    #[prost(uint64, tag = "3")]
    own: u64,
    #[prost(message, repeated, tag = "4")]
    devices: Vec<DeviceMarkValue>,
}

#[derive(Clone, PartialEq, Message)]
struct DeviceMarkValue {
    #[prost(string, tag = "1")]
    device: String,
    #[prost(uint64, tag = "2")]
    delivered: u64,
}

impl MarksValue {
    pub(super) fn of(marks: &[(UserId, Marks)]) -> Self {
        let members = marks.iter().map(|(user, marks)| MemberMarksValue {
            user: user.0,
            read: marks.read.0,
            own: marks.own.0,
            devices: marks
                .devices
                .iter()
                .map(|(device, delivered)| DeviceMarkValue { device: device.clone(), delivered: delivered.0 })
                .collect(),
        });
        Self { members: members.collect() }
    }

    pub(super) fn marks(self) -> impl Iterator<Item = (UserId, Marks)> {
        self.members.into_iter().map(|member| {
            let devices = member.devices.into_iter().map(|mark| (mark.device, Seq(mark.delivered)));
            let marks = Marks { read: Seq(member.read), own: Seq(member.own), devices: devices.collect() };
            (UserId(member.user), marks)
        })
    }
}

/// What a user has set; its version is beside it where it is compared by the store.
#[derive(Clone, PartialEq, Message)]
pub(super) struct UserValue {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(bool, tag = "2")]
    hides_last_seen: bool,
    #[prost(bool, tag = "3")]
    hides_preview: bool,
    #[prost(message, optional, tag = "4")]
    quiet_hours: Option<QuietHoursValue>,
    #[prost(message, repeated, tag = "5")]
    mutes: Vec<MuteValue>,
    #[prost(uint64, repeated, tag = "6")]
    blocks: Vec<u64>,
    #[prost(message, optional, tag = "7")]
    erasure: Option<ErasureValue>,
}

#[derive(Clone, PartialEq, Message)]
struct QuietHoursValue {
    #[prost(uint32, tag = "1")]
    from_minute: u32,
    #[prost(uint32, tag = "2")]
    to_minute: u32,
    #[prost(string, tag = "3")]
    time_zone: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct MuteValue {
    #[prost(uint64, tag = "1")]
    chat: u64,
    #[prost(int64, tag = "2")]
    until_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct ErasureValue {
    #[prost(int64, tag = "1")]
    asked_at_ms: i64,
    #[prost(int64, tag = "2")]
    done_at_ms: i64,
}

impl UserValue {
    pub(super) fn of(record: &UserRecord) -> Self {
        let quiet_hours = |quiet: &QuietHours| QuietHoursValue {
            from_minute: quiet.from_minute.into(),
            to_minute: quiet.to_minute.into(),
            time_zone: quiet.time_zone.clone(),
        };
        let mute = |(chat, until_ms): (&ChatId, &i64)| MuteValue { chat: chat.0, until_ms: *until_ms };
        let erasure = |Erasure { asked_at_ms, done_at_ms }| ErasureValue { asked_at_ms, done_at_ms };
        Self {
            version: record.version,
            hides_last_seen: record.hides_last_seen,
            hides_preview: record.hides_preview,
            quiet_hours: record.quiet_hours.as_ref().map(quiet_hours),
            mutes: record.mutes.iter().map(mute).collect(),
            blocks: record.blocks.iter().map(|user| user.0).collect(),
            erasure: record.erasure.map(erasure),
        }
    }

    pub(super) fn record(self) -> UserRecord {
        let minute = |minute: u32| u16::try_from(minute).unwrap_or_default();
        let quiet_hours = |quiet: QuietHoursValue| QuietHours {
            from_minute: minute(quiet.from_minute),
            to_minute: minute(quiet.to_minute),
            time_zone: quiet.time_zone,
        };
        let erasure = |ErasureValue { asked_at_ms, done_at_ms }| Erasure { asked_at_ms, done_at_ms };
        UserRecord {
            version: self.version,
            hides_last_seen: self.hides_last_seen,
            hides_preview: self.hides_preview,
            quiet_hours: self.quiet_hours.map(quiet_hours),
            mutes: self.mutes.into_iter().map(|mute| (ChatId(mute.chat), mute.until_ms)).collect(),
            blocks: self.blocks.into_iter().map(UserId).collect(),
            erasure: self.erasure.map(erasure),
        }
    }
}
