//! What a person can do: bring a cluster up, look at it, restart some of it, end it.

mod look;
mod restart;
mod words;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::launch;
use super::plan::{self, Plan};
use super::sample::role;
use super::screen::{self, Steps, say};
use super::state::{Lock, Phase, Place, State};
use super::stores::Store;
use crate::harness::wait_for;
use look::{Watched, watch};

pub use look::status;
pub use restart::restart;

const STORES: [Store; 2] = [Store::Cassandra, Store::Redis];

/// How long processes have for ending by themselves: an edge's `drain_seconds`, and what comes after.
const END_ALL: Duration = Duration::from_secs(40);

/// How long another command may take before this one gives up.
const OTHERS: Duration = Duration::from_secs(120);

/// Whoever wants this program to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Starts everything; shows it until a signal comes, and ends it then. `detach`: leaves it running.
///
/// # Errors
/// If something doesn't start, or a signal comes before all has: then nothing of it is left.
pub async fn up(place: &Place, detach: bool) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let lock = place.lock()?;
    if let Some(state) = place.load()?.filter(State::is_up) {
        drop(lock);
        say("The cluster is up already.");
        say(&words::greeting(place, &state));
        return status(place, screen::is_terminal() && !detach).await;
    }
    if place.folder().exists() {
        say("Something is left of a cluster that did not end in order: removing it.");
        clean(place, &mut signals).await?;
    }
    let started = Instant::now();
    let result = tokio::select! {
        result = start(place) => result,
        () = signals.next() => Err(anyhow::anyhow!("a signal came before the cluster was up")),
    };
    let state = match result {
        Ok(state) => state,
        Err(error) => {
            say("Not up: what was started is ended.");
            clean(place, &mut signals).await.with_context(|| format!("{error:#}\nAnd it can't be ended"))?;
            return Err(error);
        }
    };
    drop(lock);
    say(&format!("Up after {:.0} s.", started.elapsed().as_secs_f64()));
    say(&words::greeting(place, &state));
    if detach {
        say(words::DETACHED);
        return Ok(());
    }
    match watch(place, &mut signals, words::ATTACHED).await? {
        Watched::Gone => {
            say("The cluster was ended by another command.");
            Ok(())
        }
        Watched::Left => {
            let _lock = lock_in_turn(place).await?;
            end(place, &mut signals).await
        }
    }
}

/// Ends everything, and removes the folder.
///
/// # Errors
/// If something can't be ended.
pub async fn down(place: &Place) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let _lock = place.lock()?;
    if !place.folder().exists() {
        say(words::NONE);
        return Ok(());
    }
    end(place, &mut signals).await
}

/// Waits for a command that is starting something.
async fn lock_in_turn(place: &Place) -> anyhow::Result<Lock> {
    let first = place.lock();
    if first.is_ok() {
        return first;
    }
    say("Waiting for another command, which is starting or ending something …");
    wait_for("the other command", OTHERS, || std::future::ready(place.lock().ok())).await
}

async fn end(place: &Place, signals: &mut Signals) -> anyhow::Result<()> {
    say("Ending the cluster (another Ctrl-C: at once) …");
    let started = Instant::now();
    let killed = clean(place, signals).await?;
    let killed = if killed == 0 { String::new() } else { format!("; {killed} had to be killed") };
    say(&format!("Ended after {:.1} s{killed}. Nothing is left of it.", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Ends everything that is written down, and removes the folder; how many processes had to be killed. A signal hurries it.
async fn clean(place: &Place, signals: &mut Signals) -> anyhow::Result<usize> {
    let state = place.load()?;
    let ids: Vec<_> = state.iter().flat_map(|state| &state.members).filter_map(|member| member.id).collect();
    let killed = launch::end(&ids, END_ALL, signals.next()).await?;
    for wiped in join_all(STORES.map(|store| store.wipe(place))).await {
        wiped?;
    }
    place.remove()?;
    Ok(killed)
}

async fn start(place: &Place) -> anyhow::Result<State> {
    let steps = Steps::default();
    place.create()?;
    let plan = steps.step("Certificates, keys and settings", async { Plan::make(place) }).await?;
    let mut state = plan.state();
    place.save(&state)?;
    steps.step("The ports are free", async { launch::check_ports(&plan::ports(&state)) }).await?;
    // One after the other: the first start on a machine installs them.
    steps.step("Redis: 3 masters, each with a replica", Store::Redis.up(place, |words| steps.note(words))).await?;
    steps.step("Cassandra: 3 nodes", Store::Cassandra.up(place, |words| steps.note(words))).await?;
    steps.step("The tables (confab migrate)", plan.migrate()).await?;
    let mut from = 0;
    while let Some(first) = state.members.get(from) {
        let role = role(first).to_owned();
        let count = state.members[from..].iter().take_while(|member| self::role(member) == role).count();
        let of = if count == 1 { role } else { format!("{count} of {role}") };
        steps.step(&of, start_members(place, &mut state, from, from + count)).await?;
        from += count;
    }
    plan.clients(place)?;
    state.chat = steps.step("A chat of users 1 and 2, through nginx", plan.first_chat()).await?;
    state.phase = Phase::Up;
    place.save(&state)?;
    Ok(state)
}

/// At once, for they don't need each other.
async fn start_members(place: &Place, state: &mut State, from: usize, to: usize) -> anyhow::Result<()> {
    for at in from..to {
        state.members[at].id = Some(launch::start(place, &state.members[at].launch)?);
        // Before anything else: what is not written down is not ended.
        place.save(state)?;
    }
    let started = state.members[from..to].iter().filter_map(|member| Some((&member.launch, member.id?)));
    for ready in join_all(started.map(|(launch, id)| launch::wait_ready(place, launch, id))).await {
        ready?;
    }
    Ok(())
}

/// A path as one types it here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
