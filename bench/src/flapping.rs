//! Users who come and go all the time, and others who watch them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Connection, Endpoint};
use crate::frame::watch as watch_frame;
use crate::http::Api;
use crate::recorder::Complaints;
use crate::scan::scan;

/// Handshakes at a time, before it begins.
const OPENING: usize = 64;
/// How often it is looked whose turn it is.
const LOOK: Duration = Duration::from_millis(10);

/// Who flaps, and who watches.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Groups of users who flap and of users who watch all of these.
    pub groups: u64,
    /// Of each group: as many as one may watch.
    pub flapping: u64,
    /// Of each group.
    pub watching: u64,
    /// The first user; the others' ids follow.
    pub first_user: u64,
    /// How long each is there, and how long away: more than the grace in which nobody is told that they are away.
    pub half_period: Duration,
}

impl Shape {
    /// Users who flap.
    pub fn users(&self) -> u64 {
        self.groups * self.flapping
    }

    /// Comings and goings a second.
    pub fn changes_per_second(&self) -> f64 {
        self.users() as f64 / self.half_period.as_secs_f64()
    }

    fn flapping_of(&self, group: u64) -> Range<u64> {
        let first = self.first_user + group * (self.flapping + self.watching);
        first..first + self.flapping
    }

    fn watching_of(&self, group: u64) -> Range<u64> {
        let first = self.flapping_of(group).end;
        first..first + self.watching
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections made and left.
    pub changes: u64,
    /// Presence frames that watchers got.
    pub told: u64,
}

/// Half of them are there, and they come and go while it is on. Dropped, all disconnect.
pub struct Flapping {
    on: watch::Sender<bool>,
    changes: Arc<AtomicU64>,
    told: Arc<AtomicU64>,
    complaints: Arc<Complaints>,
    _tasks: JoinSet<()>,
}

impl Flapping {
    /// Makes the groups, and connects the watchers and every other one of those who flap.
    pub async fn start(endpoint: &Endpoint, shape: Shape) -> Result<Self> {
        let mut api = Api::connect(endpoint).await?;
        let mut watchers = Vec::new();
        let mut users = Vec::new();
        for group in 0..shape.groups {
            let (flapping, watching) = (shape.flapping_of(group), shape.watching_of(group));
            let members: Vec<u64> = (flapping.start..watching.end).collect();
            api.create_group(members[0], &members[1..]).await.context("can't make a group")?;
            watchers.extend(watching.map(|watcher| (watcher, flapping.clone())));
            users.extend(flapping);
        }
        let told = Arc::new(AtomicU64::new(0));
        let complaints = Arc::new(Complaints::default());
        let mut tasks = JoinSet::new();
        let mut opening = stream::iter(watchers)
            .map(|(watcher, whom)| async move {
                let mut connection = Connection::open(endpoint, watcher).await?;
                connection.sync(&[], |_| {}).await?;
                connection.send(watch_frame(whom)).await?;
                anyhow::Ok((watcher, connection))
            })
            .buffer_unordered(OPENING);
        while let Some((watcher, connection)) = opening.try_next().await? {
            let (told, complaints) = (Arc::clone(&told), Arc::clone(&complaints));
            tasks.spawn(async move {
                if let Err(error) = count(connection, &told).await {
                    complaints.add(format!("watcher {watcher}: {error:#}"));
                }
            });
        }
        let half = users.iter().copied().step_by(2);
        let there: Vec<(u64, Connection)> = stream::iter(half)
            .map(|user| async move { anyhow::Ok((user, come(endpoint, user).await?)) })
            .buffer_unordered(OPENING)
            .try_collect()
            .await?;
        let (on, is_on) = watch::channel(false);
        let changes = Arc::new(AtomicU64::new(0));
        let mut flock = Flock {
            endpoint: endpoint.clone(),
            users,
            there: Vec::new(),
            stays: JoinSet::new(),
            changes: Arc::clone(&changes),
            complaints: Arc::clone(&complaints),
        };
        flock.there.resize_with(flock.users.len(), || None);
        for (user, connection) in there {
            let place = flock.users.iter().position(|known| *known == user).context("an unknown user")?;
            flock.stay(place, async { Ok(connection) });
        }
        tasks.spawn(flock.run(shape.changes_per_second(), is_on));
        Ok(Self { on, changes, told, complaints, _tasks: tasks })
    }

    /// From now on they come and go, or stay as they are.
    pub fn set(&self, on: bool) {
        self.on.send_replace(on);
    }

    /// What has happened so far; fails if something has gone wrong.
    pub fn counts(&self) -> Result<Counts> {
        self.complaints.check()?;
        Ok(Counts { changes: self.changes.load(Ordering::Relaxed), told: self.told.load(Ordering::Relaxed) })
    }
}

/// Those who flap, in the order of their turns.
struct Flock {
    endpoint: Endpoint,
    users: Vec<u64>,
    /// Of each who is there: dropped, they leave.
    there: Vec<Option<oneshot::Sender<()>>>,
    stays: JoinSet<()>,
    changes: Arc<AtomicU64>,
    complaints: Arc<Complaints>,
}

impl Flock {
    /// One after the other comes or goes, at an even rate that doesn't wait for the server.
    async fn run(mut self, per_second: f64, mut on: watch::Receiver<bool>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut due, mut next) = (0.0, 0);
        loop {
            if !*on.borrow_and_update() {
                if on.changed().await.is_err() {
                    return;
                }
                looks.reset();
                continue;
            }
            looks.tick().await;
            due += per_second * LOOK.as_secs_f64();
            while due >= 1.0 {
                due -= 1.0;
                self.turn(next);
                next = (next + 1) % self.users.len();
            }
            while self.stays.try_join_next().is_some() {}
        }
    }

    fn turn(&mut self, place: usize) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        if self.there[place].take().is_none() {
            let (endpoint, user) = (self.endpoint.clone(), self.users[place]);
            self.stay(place, async move { come(&endpoint, user).await });
        }
    }

    fn stay(&mut self, place: usize, coming: impl Future<Output = Result<Connection>> + Send + 'static) {
        let (here, gone) = oneshot::channel();
        self.there[place] = Some(here);
        let (user, complaints) = (self.users[place], Arc::clone(&self.complaints));
        self.stays.spawn(async move {
            if let Err(error) = stay(coming, gone).await {
                complaints.add(format!("user {user}: {error:#}"));
            }
        });
    }
}

async fn come(endpoint: &Endpoint, user: u64) -> Result<Connection> {
    let mut connection = Connection::open(endpoint, user).await?;
    connection.sync(&[], |_| {}).await?;
    Ok(connection)
}

/// Reads, so that pings are answered, until it is time to go.
async fn stay(coming: impl Future<Output = Result<Connection>>, mut gone: oneshot::Receiver<()>) -> Result<()> {
    let mut connection = coming.await?;
    loop {
        tokio::select! {
            text = connection.next_text() => drop(text?),
            _ = &mut gone => break,
        }
    }
    connection.close().await;
    Ok(())
}

async fn count(mut connection: Connection, told: &AtomicU64) -> Result<()> {
    loop {
        let text = connection.next_text().await?;
        let frame = scan(&text).with_context(|| format!("not a frame: {text}"))?;
        match frame.kind {
            "presence" => drop(told.fetch_add(1, Ordering::Relaxed)),
            "error" => bail!("server said: {} {}", frame.code, frame.message),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_side_by_side() {
        let half_period = Duration::from_secs(10);
        let shape = Shape { groups: 2, flapping: 5, watching: 2, first_user: 100, half_period };
        assert_eq!((shape.flapping_of(0), shape.watching_of(0)), (100..105, 105..107));
        assert_eq!((shape.flapping_of(1), shape.watching_of(1)), (107..112, 112..114));
        assert!((shape.changes_per_second() - 1.0).abs() < 1e-9);
    }
}
