//! What a person can do: bring a cluster up, look at it, restart some of it, end it.

mod words;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::launch;
use super::plan::{self, Plan};
use super::sample::{Sampler, role};
use super::screen::{self, Canvas, Steps, say};
use super::state::{Lock, Phase, Place, State};
use super::stores::{Node, Store};
use super::table;
use crate::harness::wait_for;

const STORES: [Store; 2] = [Store::Cassandra, Store::Redis];

/// Between two looks that are shown in place.
const REFRESH: Duration = Duration::from_secs(1);
/// Between two lines where there is no terminal.
const REFRESH_LINES: Duration = Duration::from_secs(5);
/// What a single look at CPU times looks back on.
const GLANCE: Duration = Duration::from_millis(500);
/// How long processes have for ending by themselves: when all end, and when one does while the others take over.
const END_ALL: Duration = Duration::from_secs(15);
const END_ONE: Duration = Duration::from_secs(40);

/// How long a process that was started again is left alone before the next one of its role goes, as `minReadySeconds` of Kubernetes:
/// those who call it look for it each 2 s at most.
const SETTLES: Duration = Duration::from_secs(3);
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

/// The table, once or in place until a signal comes.
///
/// # Errors
/// If there is no cluster, or, when asked once, not all of it is ready.
pub async fn status(place: &Place, live: bool) -> anyhow::Result<()> {
    if live {
        return watch(place, &mut Signals::listen()?, words::LOOKING).await.map(|_| ());
    }
    let state = place.load()?.context(words::NONE)?;
    let mut sampler = Sampler::new(place, &state).await?;
    sampler.look(&state).await;
    sleep(GLANCE).await;
    let rows = sampler.look(&state).await;
    for line in table::lines(&rows, usize::MAX, screen::has_colours()) {
        say(&line);
    }
    say(&format!("\n{}", table::summary(&rows, screen::has_colours())));
    ensure!(rows.iter().all(table::Row::is_ready), "not all of it is ready");
    Ok(())
}

/// Ends the named ones if they run, and starts them again, one after the other. A role's name means all of that role.
///
/// # Errors
/// If there is no cluster, none of a name, or one doesn't get ready.
pub async fn restart(place: &Place, names: &[String]) -> anyhow::Result<()> {
    let _lock = place.lock()?;
    let mut state = place.load()?.context(words::NONE)?;
    let nodes: Vec<Node> = STORES.iter().flat_map(|store| store.nodes()).collect();
    let all = state.members.iter().map(|member| (member.launch.name.clone(), role(member).to_owned()));
    let all: Vec<(String, String)> =
        all.chain(nodes.iter().map(|node| (node.name(), node.store.name().to_owned()))).collect();
    let steps = Steps::default();
    let (names, mut last) = (chosen(names, &all)?, None);
    for name in names {
        let role = all.iter().find(|(one, _)| *one == name).map(|(_, role)| role);
        if role.is_some() && role == last {
            sleep(SETTLES).await;
        }
        last = role;
        if let Some(node) = nodes.iter().find(|node| node.name() == name) {
            steps.step(&format!("{name} is started again"), node.restart(place)).await?;
        } else if let Some(at) = state.members.iter().position(|member| member.launch.name == name) {
            steps.step(&format!("{name} is started again"), restart_member(place, &mut state, at)).await?;
        }
    }
    Ok(())
}

async fn restart_member(place: &Place, state: &mut State, at: usize) -> anyhow::Result<()> {
    let launch = state.members[at].launch.clone();
    if let Some(id) = state.members[at].id {
        launch::end(&[id], END_ONE, std::future::pending()).await?;
    }
    let id = launch::start(place, &launch)?;
    state.members[at].id = Some(id);
    place.save(state)?;
    launch::wait_ready(place, &launch, id).await
}

/// The names that are meant, each once, in the order given. `all`: names, and what each of them is one of.
fn chosen(names: &[String], all: &[(String, String)]) -> anyhow::Result<Vec<String>> {
    let mut chosen: Vec<String> = Vec::new();
    for name in names {
        let meant: Vec<&String> =
            all.iter().filter(|(one, role)| one == name || role == name).map(|(one, _)| one).collect();
        if meant.is_empty() {
            let names: Vec<&str> = all.iter().map(|(one, _)| one.as_str()).collect();
            bail!("there is no {name:?}; there are {}, and all of a role by its name, such as edge", names.join(", "));
        }
        for name in meant {
            if !chosen.contains(name) {
                chosen.push(name.clone());
            }
        }
    }
    Ok(chosen)
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

/// How a look at the cluster ended.
enum Watched {
    /// Somebody has ended it.
    Gone,
    /// A signal has come.
    Left,
}

async fn watch(place: &Place, signals: &mut Signals, hint: &str) -> anyhow::Result<Watched> {
    let terminal = screen::is_terminal();
    let mut ticks = interval(if terminal { REFRESH } else { REFRESH_LINES });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = place.load()?.context(words::NONE)?;
    let (mut sampler, mut canvas, mut first) = (Sampler::new(place, &state).await?, Canvas::default(), true);
    loop {
        tokio::select! {
            () = signals.next() => return Ok(Watched::Left),
            _ = ticks.tick() => {}
        }
        let Some(state) = place.load()? else { return Ok(Watched::Gone) };
        let rows = tokio::select! {
            () = signals.next() => return Ok(Watched::Left),
            rows = sampler.look(&state) => rows,
        };
        let summary = table::summary(&rows, screen::has_colours());
        if terminal {
            let (width, colours) = (screen::size().0, screen::has_colours());
            let foot = [String::new(), summary, words::cut(hint, width)];
            canvas.draw(&table::lines(&rows, width, colours), &foot);
        } else {
            if first {
                table::lines(&rows, usize::MAX, false).iter().for_each(|line| say(line));
            }
            say(&format!("{} {summary}", words::clock()));
        }
        first = false;
    }
}

/// A path as one types it here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_means_one_and_a_role_all_of_it() {
        let all = [("edge-0", "edge"), ("edge-1", "edge"), ("nginx", "nginx"), ("redis-0", "redis")];
        let all = all.map(|(name, role)| (name.to_owned(), role.to_owned()));
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            super::chosen(&names, &all)
        };
        assert_eq!(chosen(&["redis-0", "edge"]).unwrap(), ["redis-0", "edge-0", "edge-1"]);
        assert_eq!(chosen(&["edge-1", "edge", "nginx"]).unwrap(), ["edge-1", "edge-0", "nginx"]);
        let words = chosen(&["edge-0", "edge-2"]).unwrap_err().to_string();
        assert!(words.starts_with("there is no \"edge-2\"; there are edge-0, edge-1, nginx, redis-0"), "{words}");
    }
}
