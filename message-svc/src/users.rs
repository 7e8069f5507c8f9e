//! What users set for themselves, by any instance: it is changed by compare-and-set. Whom it concerns is told when it is stored: a
//! direct chat's owner of a block, presence-svc of what may be seen of somebody.
//!
//! ```text
//! erasing.rs   everything of a user's goes
//! ```

mod erasing;

use confab_ids::{ChatId, Shard, UserId};
use confab_mesh::{ClientConfig, Drain, Homes, Member, Peer, Pool, client};
use confab_proto::message::v1 as pb;
use confab_proto::presence::v1::NoticeVisibilityRequest;
use confab_proto::presence::v1::presence_service_client::PresenceServiceClient;
use tonic::{Code, Status};

use self::erasing::Erasing;
use crate::convert;
use crate::core::user::{Block, QuietHours, Update, UserRecord, blocks_between};
use crate::core::{Command, Outcome};
use crate::error::{ChatError, Invalid};
use crate::hop::{Tries, passed_on};
use crate::others::Client;
use crate::owner::now_ms;
use crate::reads::Reader;
use crate::store::{CreationKey, Store, StoreError};

/// Tries at a change: each that fails means that another has changed the same user's row.
const CHANGE_TRIES: usize = 16;

const MINUTES: u32 = 24 * 60;

/// The one who keeps what users have set.
pub(crate) struct Users<S> {
    reader: Reader<S>,
    presence: Homes<PresenceServiceClient<Peer>>,
    erasing: Erasing,
}

impl<S: Store> Users<S> {
    /// Goes on with erasures that are not done, too.
    pub(crate) fn start(reader: Reader<S>, presence: Pool, drain: &Drain) -> Self {
        let presence = Homes::new(presence, presence_client);
        let erasing = Erasing::start(reader.clone(), drain);
        Self { reader, presence, erasing }
    }

    pub(crate) async fn of(&self, user: UserId) -> Result<UserRecord, StoreError> {
        Ok(self.reader.store.users(vec![user]).await?.pop().unwrap_or_default())
    }

    pub(crate) async fn update(&self, request: pb::UpdateSettingsRequest) -> Result<pb::Settings, Status> {
        let user = convert::user_id("user_id", request.user_id)?;
        let update = update(request)?;
        let record = change(&self.reader.store, user, |record| {
            record.update(&update);
            Ok(())
        });
        let record = record.await?;
        // Also where it was so: who asks again, because it could not be told, has it told.
        if update.last_seen.is_some() {
            self.notice(&[user]).await?;
        }
        Ok(settings(&record))
    }

    pub(crate) async fn list_blocks(
        &self,
        user: UserId,
        after: UserId,
        limit: usize,
    ) -> Result<pb::ListBlocksResponse, Status> {
        let record = self.of(user).await?;
        let mut blocks = record.blocks.range(UserId(after.0.saturating_add(1))..);
        let user_ids = blocks.by_ref().take(limit).map(|user| user.0).collect();
        Ok(pb::ListBlocksResponse { user_ids, more: blocks.next().is_some() })
    }

    /// `tries`: of the call, for the hop to the chat's owner.
    pub(crate) async fn set_block(&self, tries: Tries, request: pb::SetBlockRequest) -> Result<(), Status> {
        let (user, peer) = (convert::user_id("user_id", request.user_id)?, convert::user_id("peer", request.peer)?);
        if user == peer {
            return Err(Invalid::new("user_id", "is yourself").into());
        }
        let blocked = request.blocked;
        let record = change(&self.reader.store, user, |record| record.set_block(peer, blocked)).await?;
        let key = CreationKey::Direct(user.min(peer), user.max(peer));
        if let Some(made) = self.reader.store.creation(key).await? {
            self.apply_at_owner(tries, made.chat, Block { by: user, version: record.version, blocked }).await?;
        }
        self.notice(&[user, peer]).await
    }

    async fn apply_at_owner(&self, tries: Tries, chat: ChatId, block: Block) -> Result<(), Status> {
        let Block { by, version, blocked } = block;
        let request = pb::ApplyBlockRequest { chat_id: chat.0, user_id: by.0, version, blocked };
        let there = |mut owner: Client| async move { owner.apply_block(passed_on(request)).await.map(drop) };
        tries.call(Shard::of_chat(chat), || self.apply_here(chat, block), there).await
    }

    /// At the chat's owner.
    pub(crate) async fn apply_here(&self, chat: ChatId, block: Block) -> Result<(), Status> {
        apply_here(&self.reader, chat, block).await
    }

    /// What two say of each other.
    pub(crate) async fn blocks_between(&self, one: UserId, other: UserId) -> Result<Vec<Block>, StoreError> {
        let records = self.reader.store.users(vec![one, other]).await?;
        let [of_one, of_other] = &records[..] else { return Ok(Vec::new()) };
        Ok(blocks_between((one, of_one), (other, of_other)))
    }

    /// Those of some users whom one has not blocked, and who have not blocked that one.
    pub(crate) async fn unblocked(&self, user: UserId, others: Vec<UserId>) -> Result<Vec<UserId>, StoreError> {
        if others.is_empty() {
            return Ok(others);
        }
        let all = others.iter().copied().chain([user]).collect();
        let mut records = self.reader.store.users(all).await?;
        let own = records.pop().unwrap_or_default().blocks;
        let apart = |other: &UserId, record: &UserRecord| own.contains(other) || record.blocks.contains(&user);
        let each = others.into_iter().zip(&records);
        Ok(each.filter(|(other, record)| !apart(other, record)).map(|(other, _)| other).collect())
    }

    pub(crate) async fn set_mute(&self, request: pb::SetMuteRequest) -> Result<(), Status> {
        let (chat, user) = (convert::chat_id(request.chat_id)?, convert::user_id("user_id", request.user_id)?);
        if request.until_ms < 0 {
            return Err(Invalid::new("until", "is before 1970").into());
        }
        if request.muted {
            // Who has left may end it.
            self.reader.member_view(chat, user).await?;
        }
        let until_ms = request.muted.then_some(request.until_ms);
        change(&self.reader.store, user, |record| record.set_mute(now_ms(), chat, until_ms)).await?;
        Ok(())
    }

    /// Notes until when a user has muted each of some chats.
    pub(crate) async fn with_mutes(&self, user: UserId, mut chats: Vec<pb::Chat>) -> Result<Vec<pb::Chat>, StoreError> {
        let (record, now_ms) = (self.of(user).await?, now_ms());
        chats.iter_mut().for_each(|chat| chat.muted_until_ms = record.muted_until(now_ms, ChatId(chat.chat_id)));
        Ok(chats)
    }

    pub(crate) async fn visible(&self, users: Vec<UserId>) -> Result<Vec<u64>, StoreError> {
        let records = self.reader.store.users(users.clone()).await?;
        let shown = users.iter().zip(&records).filter(|(_, record)| !record.hides_last_seen);
        Ok(shown.map(|(user, _)| user.0).collect())
    }

    /// At the owner of the user's shard: begins it, unless it goes on.
    pub(crate) async fn erase_here(&self, user: UserId, look_only: bool) -> Result<pb::EraseUserResponse, Status> {
        let record = match look_only {
            true => self.of(user).await?,
            false => self.erasing.begin(&self.reader.store, user).await?,
        };
        let erasure = record.erasure;
        Ok(pb::EraseUserResponse {
            asked_at_ms: erasure.map_or(0, |erasure| erasure.asked_at_ms),
            done_at_ms: erasure.map_or(0, |erasure| erasure.done_at_ms),
        })
    }

    /// At a chat's owner: erases the next part of what a user has sent to it.
    pub(crate) async fn erase_in_chat(
        &self,
        request: pb::EraseInChatRequest,
    ) -> Result<pb::EraseInChatResponse, Status> {
        let (chat, user) = (convert::chat_id(request.chat_id)?, convert::user_id("user_id", request.user_id)?);
        erasing::erase_part(&self.reader, chat, user, convert::seq("after", request.after)?).await
    }

    /// Has the watchers of some users look up again what they may be told: what they were told before would stay.
    async fn notice(&self, users: &[UserId]) -> Result<(), Status> {
        for user in users {
            for mut home in self.presence.all(user.0) {
                let request = NoticeVisibilityRequest { user_ids: vec![user.0] };
                match home.notice_visibility(request).await {
                    // An older program: its watchers find out when they connect anew.
                    Err(status) if status.code() != Code::Unimplemented => return Err(ChatError::Unavailable.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

async fn apply_here<S: Store>(reader: &Reader<S>, chat: ChatId, block: Block) -> Result<(), Status> {
    match reader.owner.call(chat, Command::Block(block)).await {
        // Its key is taken, and the chat is yet to be made: by whoever looks at the blocks then.
        Outcome::Blocked | Outcome::ChatRefused(ChatError::NotMember) => Ok(()),
        Outcome::ChatRefused(error) => Err(error.into()),
        _ => Err(ChatError::Unavailable.into()),
    }
}

fn presence_client(member: &Member) -> PresenceServiceClient<Peer> {
    let to_presence = ClientConfig::new("message-svc", "presence-svc").idempotent(&["NoticeVisibility"]);
    PresenceServiceClient::new(client(to_presence, member.peer.clone()))
}

/// Changes a user's row; it is not written where that changes nothing.
async fn change<S: Store>(
    store: &S,
    user: UserId,
    what: impl Fn(&mut UserRecord) -> Result<(), ChatError>,
) -> Result<UserRecord, Status> {
    for _ in 0..CHANGE_TRIES {
        let before = store.users(vec![user]).await?.pop().unwrap_or_default();
        let mut record = before.clone();
        what(&mut record)?;
        if record == before {
            return Ok(before);
        }
        record.version += 1;
        if store.swap_user(user, record.clone()).await? {
            return Ok(record);
        }
    }
    Err(ChatError::Unavailable.into())
}

pub(crate) fn settings(record: &UserRecord) -> pb::Settings {
    let quiet_hours = |quiet: &QuietHours| pb::QuietHours {
        from_minute: quiet.from_minute.into(),
        to_minute: quiet.to_minute.into(),
        time_zone: quiet.time_zone.clone(),
    };
    pb::Settings {
        last_seen: !record.hides_last_seen,
        preview: !record.hides_preview,
        quiet_hours: record.quiet_hours.as_ref().map(quiet_hours),
    }
}

fn update(request: pb::UpdateSettingsRequest) -> Result<Update, Invalid> {
    use pb::update_settings_request::Quiet;
    let quiet_hours = match request.quiet {
        None | Some(Quiet::NoQuietHours(false)) => None,
        Some(Quiet::NoQuietHours(true)) => Some(None),
        Some(Quiet::QuietHours(quiet)) => Some(Some(quiet_hours(quiet)?)),
    };
    Ok(Update { last_seen: request.last_seen, preview: request.preview, quiet_hours })
}

fn quiet_hours(quiet: pb::QuietHours) -> Result<QuietHours, Invalid> {
    let minute = |field, minute: u32| {
        let minute = u16::try_from(minute).ok().filter(|minute| u32::from(*minute) < MINUTES);
        minute.ok_or_else(|| Invalid::new(field, "is a time of the day"))
    };
    let (from_minute, to_minute) =
        (minute("quiet_hours.from", quiet.from_minute)?, minute("quiet_hours.to", quiet.to_minute)?);
    if from_minute == to_minute {
        return Err(Invalid::new("quiet_hours.to", "is when they begin"));
    }
    if jiff::tz::TimeZone::get(&quiet.time_zone).is_err() {
        return Err(Invalid::new("quiet_hours.time_zone", "is a name like Europe/Berlin"));
    }
    Ok(QuietHours { from_minute, to_minute, time_zone: quiet.time_zone })
}
