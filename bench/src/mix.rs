//! The load of a mesh: one-to-one pairs and groups at once, spread over several edges, each with an open loop of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::board::Board;
use crate::client::{Connection, Endpoint};
use crate::clock::{instant_at, now_ns};
use crate::frame::MessageMaker;
use crate::http::{Api, direct_chats};
use crate::receiver::Receiver;
use crate::recorder::{Complaints, Latencies, Recorder, SeqGuard, Tally};
use crate::schedule::Schedule;
use crate::sender::{Sender, Steps};
use crate::wait;

/// Of so many messages one goes to a group. With groups of 100 a message has 12 readers in the mean, its sender's own copy
/// among them: the design's fan-out of 10.
pub const GROUP_EVERY: u32 = 10;
/// The p99 of ack and of the last reader up to which a rate holds, milliseconds.
pub const HELD_P99_MS: f64 = 500.0;
/// The part of the messages that are acked within the step for a rate to hold.
pub const HELD_SHARE: f64 = 0.99;
/// Bytes of a message's content.
const CONTENT_BYTES: usize = 128;
/// Handshakes at a time.
const OPENING: usize = 16;
/// How often one is tried again that is told to come again, and after what, times the attempts before.
const ATTEMPTS_MAX: u32 = 8;
const AGAIN: Duration = Duration::from_millis(250);
/// From the order to the first message, so that all senders know their schedule by then.
const LEAD_NS: u64 = 50_000_000;
/// An ack counts as within the step if it comes no later than this after the step's end: the last messages need their time, too.
const GRACE_NS: u64 = 500_000_000;
/// After the schedule's end: how long what is outstanding may take.
const DRAIN: Duration = Duration::from_secs(60);
/// Unanswered messages of a connection.
const IN_FLIGHT_MAX: u32 = 64;

/// Who there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Population {
    /// The first user id; the others follow.
    pub first_user: u64,
    /// Of two users; the first one sends.
    pub pairs: u32,
    pub groups: u32,
    /// Of each group; the first one sends. All are connected.
    pub members: u32,
}

/// Connected users, ready for steps of load. Dropped, they disconnect.
pub struct Mix {
    pairs: Lot,
    groups: Lot,
    recorder: Arc<Recorder>,
    complaints: Arc<Complaints>,
    _tasks: JoinSet<()>,
}

/// The chats of one kind.
struct Lot {
    steps: Steps,
    board: Arc<Board>,
    lanes: u32,
}

impl Lot {
    fn new(readers: u32, lanes: u32) -> Self {
        Self { steps: watch::Sender::new(None), board: Arc::new(Board::new(readers)), lanes }
    }

    fn begin(&self, start_ns: u64, rate: u32, seconds: u32) -> Result<u64> {
        let schedule = Schedule::lasting(start_ns, rate, self.lanes, seconds);
        self.board.begin(u32::try_from(schedule.total)?, start_ns);
        self.steps.send_replace(Some(schedule));
        Ok(schedule.total)
    }
}

impl Mix {
    /// Makes the chats and connects everyone; the users take the endpoints in turn.
    ///
    /// # Errors
    /// If the mesh refuses any of it.
    pub async fn connect(endpoints: &[Endpoint], population: Population) -> Result<Self> {
        let Population { first_user, pairs, groups, members } = population;
        ensure!(!endpoints.is_empty() && pairs > 0 && groups > 0 && members > 1, "nobody to talk: {population:?}");
        let couples: Vec<(u64, u64)> = (first_user..).step_by(2).take(pairs as usize).map(|a| (a, a + 1)).collect();
        let directs = direct_chats(&endpoints[0], &couples).await.context("can't make the direct chats")?;
        let mut parts: Vec<(u64, Vec<u64>)> =
            directs.into_iter().zip(couples).map(|(chat, (a, b))| (chat, vec![a, b])).collect();
        let mut api = Api::connect(&endpoints[0]).await?;
        let first = first_user + u64::from(2 * pairs);
        for at in 0..u64::from(groups) {
            let users: Vec<u64> = (first + at * u64::from(members)..).take(members as usize).collect();
            parts.push((api.create_group(users[0], &users[1..]).await.context("can't make a group")?, users));
        }
        let mut mix = Self {
            pairs: Lot::new(2, pairs),
            groups: Lot::new(members, groups),
            recorder: Arc::default(),
            complaints: Arc::default(),
            _tasks: JoinSet::new(),
        };
        for (at, (chat_id, users)) in (0..).zip(parts) {
            mix.join(endpoints, pairs, at, chat_id, &users).await?;
        }
        Ok(mix)
    }

    /// A chat's users connect. As in a run of [`crate::pairs`] the recipients of a pair say `delivered`; as in one of
    /// [`crate::crowd`] members of groups don't.
    async fn join(&mut self, endpoints: &[Endpoint], pairs: u32, at: u32, chat_id: u64, users: &[u64]) -> Result<()> {
        let is_pair = at < pairs;
        let (lot, lane) = if is_pair { (&self.pairs, at) } else { (&self.groups, at - pairs) };
        let mut opening = stream::iter(users)
            .map(|user| async move {
                let endpoint = &endpoints[usize::try_from(*user)? % endpoints.len()];
                open_synced(endpoint, *user, chat_id).await.with_context(|| format!("user {user}"))
            })
            .buffered(OPENING);
        let (connection, guard) = opening.try_next().await?.context("a chat needs a sender")?;
        let sender = Sender {
            connection,
            lane,
            maker: MessageMaker::new(chat_id, CONTENT_BYTES),
            guard: Some(guard),
            echo: false,
            in_flight_max: IN_FLIGHT_MAX,
            recorder: self.recorder.clone(),
            on_own: lot.board.ticking(),
        };
        self._tasks.spawn(sender.run(lot.steps.subscribe(), self.complaints.clone()));
        let confirm = Arc::new(AtomicBool::new(is_pair));
        while let Some((connection, guard)) = opening.try_next().await? {
            let (guard, confirm) = (Some(guard), confirm.clone());
            let receiver = Receiver { connection, chat_id, guard, confirm, on_message: lot.board.ticking() };
            self._tasks.spawn(receiver.run(self.complaints.clone()));
        }
        Ok(())
    }

    /// Offers `rate` messages/s for `seconds`, one in [`GROUP_EVERY`] of them to a group, and waits until each is answered,
    /// and each that was acked has reached all its readers.
    ///
    /// # Errors
    /// If that takes longer than a minute after the last was due, or anything came twice, out of order or not at all.
    pub async fn step(&self, rate: u32, seconds: u32) -> Result<MixStep> {
        let start_ns = now_ns() + LEAD_NS;
        let end_ns = start_ns + u64::from(seconds) * crate::clock::SECOND;
        let to_groups = (rate / GROUP_EVERY).max(1);
        self.recorder.begin(end_ns + GRACE_NS);
        let total = self.groups.begin(start_ns, to_groups, seconds)?
            + self.pairs.begin(start_ns, rate.saturating_sub(to_groups).max(1), seconds)?;
        let mut backlogs = [0; 2];
        for (backlog, part) in backlogs.iter_mut().zip([2, 1]) {
            let at = start_ns + (end_ns - start_ns) / part;
            sleep_until(instant_at(at)).await;
            let (acked, refused, _) = self.recorder.counts();
            *backlog = (total / part).saturating_sub(acked + refused);
        }
        let reached = || {
            let (acked, refused, _) = self.recorder.counts();
            let complete = self.pairs.board.complete() + self.groups.board.complete();
            acked + refused >= total && u64::from(complete) >= acked
        };
        let unfinished = || {
            let (acked, refused, _) = self.recorder.counts();
            let (pairs, groups) = (self.pairs.board.complete(), self.groups.board.complete());
            format!(
                "at {rate}/s: of {total} messages {acked} acked, {refused} refused; {pairs} of pairs and {groups} of groups reached all"
            )
        };
        wait::until(DRAIN, &self.complaints, reached).await.with_context(unfinished)?;
        let [(_, pairs), (_, groups)] = [&self.pairs, &self.groups].map(|lot| lot.board.latencies());
        Ok(MixStep { rate, total, tally: self.recorder.tally(), pairs, groups, backlogs })
    }
}

/// Comes again a few times where the mesh has too much to do, as it asks for.
async fn open_synced(endpoint: &Endpoint, user: u64, chat_id: u64) -> Result<(Connection, SeqGuard)> {
    let mut attempts = 0;
    loop {
        let connection = Connection::open(endpoint, user).await?;
        attempts += 1;
        match connection.synced(chat_id).await {
            Ok(synced) => return Ok(synced),
            Err(error) if attempts == ATTEMPTS_MAX => return Err(error),
            Err(_) => sleep(AGAIN * attempts).await,
        }
    }
}

/// What one step of load came to.
#[derive(Clone)]
pub struct MixStep {
    /// Offered, in messages/s.
    pub rate: u32,
    /// Messages offered.
    pub total: u64,
    /// Counts, and the latencies of acks.
    pub tally: Tally,
    /// From the intended time to the last reader's socket, of messages to pairs.
    pub pairs: Latencies,
    /// The same, to groups.
    pub groups: Latencies,
    /// Messages that were due and not answered, at half of the step's time and at its end.
    pub backlogs: [u64; 2],
}

impl MixStep {
    /// Acked within the step, of all that was offered.
    pub fn share(&self) -> f64 {
        self.tally.acked_in_time as f64 / self.total.max(1) as f64
    }

    /// The worst p99 of acks, and of last readers in pairs and in groups, in ms.
    pub fn p99_ms(&self) -> f64 {
        [&self.tally.ack, &self.pairs, &self.groups].map(|all| all.ms(0.99)).into_iter().fold(0.0, f64::max)
    }

    /// More waits at the end than at half time, by more than a tenth of a second's messages and a half.
    pub fn backlog_grows(&self) -> bool {
        let [half, end] = self.backlogs;
        end > half + half / 2 + u64::from(self.rate) / 10
    }

    /// Whether the rate held.
    pub fn held(&self) -> bool {
        let whole = self.share() >= HELD_SHARE && self.tally.refused == 0;
        whole && self.p99_ms() <= HELD_P99_MS && !self.backlog_grows()
    }

    /// One line for the progress and the notes.
    pub fn describe(&self) -> String {
        format!(
            "{} /s: {:.1} % acked in time, {} refused, ack p50 {:.0} p99 {:.0} ms; last reader: pairs p50 {:.0} p99 {:.0} ms, \
             groups p50 {:.0} p99 {:.0} ms; waiting at half {}, at the end {}",
            self.rate,
            self.share() * 100.0,
            self.tally.refused,
            self.tally.ack.ms(0.5),
            self.tally.ack.ms(0.99),
            self.pairs.ms(0.5),
            self.pairs.ms(0.99),
            self.groups.ms(0.5),
            self.groups.ms(0.99),
            self.backlogs[0],
            self.backlogs[1],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(in_time: u64, refused: u64, last_ms: u64, backlogs: [u64; 2]) -> MixStep {
        let mut step = MixStep {
            rate: 100,
            total: 1_000,
            tally: Tally { acked_in_time: in_time, refused, ..Tally::default() },
            pairs: Latencies::new(),
            groups: Latencies::new(),
            backlogs,
        };
        step.groups.add(last_ms * 1_000);
        step
    }

    #[test]
    fn a_rate_holds_if_all_is_answered_in_time_and_nothing_piles_up() {
        assert!(step(995, 0, 400, [3, 4]).held());
        assert!(!step(985, 0, 400, [3, 4]).held(), "acked too late");
        assert!(!step(999, 1, 400, [3, 4]).held(), "refused");
        assert!(!step(995, 0, 600, [3, 4]).held(), "a group's last member waited");
        assert!(step(995, 0, 400, [20, 40]).held());
        assert!(!step(995, 0, 400, [20, 41]).held(), "it piles up");
    }
}
