//! `cluster check`: tries the verbs as a person does, with clients in between, and writes down what it saw.

mod load;

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tokio::process::Command;

use super::kernel::{self, Id, Sockets};
use super::nginx::FRONT;
use super::plan;
use super::screen::Steps;
use super::state::{Place, State};
use super::stores::{Node, Store};
use crate::foreign;
use crate::harness::client::{Client, Mode};
use crate::harness::token::Minter;
use crate::harness::{seed, wait_for};
use load::{Judged, Load};

/// How long an interrupted start may go on before it is interrupted: it has to get to the processes.
const START: Duration = Duration::from_secs(180);
/// Messages from each of two clients to the other.
const MESSAGES: usize = 200;
/// Who is killed.
const VICTIMS: [&str; 6] = ["edge-0", "message-svc-0", "fanout-svc-0", "presence-svc-0", "cassandra-1", "redis-0"];
/// When messages have to flow again: an owner's lease has to end first.
const AFTER_OWNER: Duration = Duration::from_secs(12);
const AFTER_OTHERS: Duration = Duration::from_secs(5);
/// Where the result goes, in docs/cluster.md.
const MARKS: [&str; 2] = ["<!-- check: begin -->\n", "<!-- check: end -->"];

/// What was tried, and what came of it.
#[derive(Default)]
struct Results {
    rows: Vec<(String, String)>,
}

impl Results {
    fn add(&mut self, what: &str, saw: impl Into<String>) {
        self.rows.push((what.to_owned(), saw.into()));
    }

    fn table(&self, seed: u64) -> String {
        let mut table = format!("CONFAB_SEED={seed}\n\n| what was done | what was seen |\n|---|---|\n");
        for (what, saw) in &self.rows {
            // Into a string this does not fail.
            let _ = writeln!(table, "| {what} | {saw} |");
        }
        table
    }
}

/// Runs everything, and writes the result into `page`.
///
/// # Errors
/// What does not hold. Then the cluster may still be up, to be looked at.
pub async fn check(place: &Place, page: &Path) -> anyhow::Result<()> {
    ensure!(place.load()?.is_none(), "a cluster is up: end it first, the check needs one of its own");
    let (seed, mut results, steps) = (seed(), Results::default(), Steps::default());
    println!("CONFAB_SEED={seed}");
    steps.step("A port that somebody has", taken_port(place, &mut results)).await?;
    steps.step("A start that is interrupted", interrupted(place, &mut results)).await?;
    let started = Instant::now();
    steps.step("up --detach", succeeds(&["up", "--detach"])).await?;
    results.add("`up --detach`", format!("up after {:.0} s", started.elapsed().as_secs_f64()));
    steps.step("up again, status", up_again(&mut results)).await?;
    documented(place, page)?;
    let minter = Minter::of_data_dir(&place.clients())?;
    steps.step("Two clients over two edges", two_edges(place, &minter, &mut results)).await?;
    steps.step("Python's websockets", python(place, &minter, &mut results)).await?;
    let mut judged = Judged::default();
    for (name, first) in VICTIMS.into_iter().zip((1_000..).step_by(1_000)) {
        let strike = kill_and_restart(place, name, (&minter, seed, first), &mut results);
        let of_it = steps.step(&format!("kill -9 of {name}, and restart"), strike).await?;
        judged = Judged { acked: judged.acked + of_it.acked, reconnects: judged.reconnects + of_it.reconnects };
    }
    let Judged { acked, reconnects } = judged;
    results.add(
        "24 clients in 4 groups meanwhile, through nginx",
        format!("{acked} messages acked, none lost, doubled or out of order; {reconnects} connections made anew"),
    );
    steps.step("down", down(place, &mut results)).await?;
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    std::fs::write(page, with_result(&text, &results.table(seed))?)?;
    Ok(())
}

/// The page with another result between its marks.
fn with_result(page: &str, result: &str) -> anyhow::Result<String> {
    let (before, rest) = page.split_once(MARKS[0]).context("the page has no place for the result")?;
    let (_, after) = rest.split_once(MARKS[1]).context("the place for the result has no end")?;
    Ok(format!("{before}{}{result}{}{after}", MARKS[0], MARKS[1]))
}

/// This program, as a person calls it.
fn this(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

async fn run(arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let Output { status, stdout, stderr } = this(arguments)?.output().await?;
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    Ok((status.success(), text))
}

async fn succeeds(arguments: &[&str]) -> anyhow::Result<String> {
    let (succeeded, text) = run(arguments).await?;
    ensure!(succeeded, "{arguments:?} failed: {text}");
    Ok(text)
}

async fn fails(arguments: &[&str]) -> anyhow::Result<String> {
    let (succeeded, text) = run(arguments).await?;
    ensure!(!succeeded, "{arguments:?} should have failed: {text}");
    Ok(text)
}

async fn taken_port(place: &Place, results: &mut Results) -> anyhow::Result<()> {
    let listener = TcpListener::bind(FRONT)?;
    let text = fails(&["up", "--detach"]).await?;
    let words = format!("{FRONT}, for nginx: ");
    ensure!(text.contains(&words) && text.contains(&format!("pid {} has it", std::process::id())), "{text}");
    drop(listener);
    nothing_left(place, &[], &[]).await?;
    results.add("`up` while somebody has its port", "refused, with the port and who has it; nothing left");
    Ok(())
}

/// Ctrl-C, when the servers and some of the roles run.
async fn interrupted(place: &Place, results: &mut Results) -> anyhow::Result<()> {
    let mut starting = this(&["up", "--detach"])?.spawn()?;
    let id = starting.id().and_then(Id::of).context("it has ended")?;
    let under_way = || std::future::ready(place.load().ok().flatten().filter(|state| state.members[0].id.is_some()));
    let state = wait_for("the first role's start", START, under_way).await?;
    let (ids, ports) = (ids(place, &state), plan::ports(&state));
    id.signal(Signal::INT);
    let status = starting.wait().await?;
    ensure!(!status.success(), "a start that was interrupted should fail");
    nothing_left(place, &ids, &ports).await?;
    results.add("Ctrl-C in the middle of `up`", format!("{} processes ended; nothing left", ids.len()));
    Ok(())
}

async fn up_again(results: &mut Results) -> anyhow::Result<()> {
    let text = succeeds(&["up"]).await?;
    ensure!(text.contains("is up already"), "{text}");
    let text = succeeds(&["status"]).await?;
    let ready = text.lines().last().unwrap_or_default().to_owned();
    ensure!(ready.starts_with("all "), "{text}");
    results.add("`up` again, and `status`", format!("it is up already; {ready}"));
    Ok(())
}

/// The page names every port.
fn documented(place: &Place, page: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let state = place.load()?.context("no cluster")?;
    let is_there = |port: u16| text.split(|c: char| !c.is_ascii_digit()).any(|number| number == port.to_string());
    let missing: Vec<String> = plan::ports(&state)
        .into_iter()
        .filter(|(addr, _)| !is_there(addr.port()))
        .map(|(addr, name)| format!("{addr} of {name}"))
        .collect();
    ensure!(missing.is_empty(), "{} does not name {}", page.display(), missing.join(", "));
    Ok(())
}

/// Each has its own edge, for nginx goes by the fewest connections.
async fn two_edges(place: &Place, minter: &Minter, results: &mut Results) -> anyhow::Result<()> {
    let state = place.load()?.context("no cluster")?;
    let chat = state.chat;
    let edges: Vec<SocketAddr> = members(&state, "edge").map(|member| member.launch.addr).collect();
    let mut one = Client::connect(FRONT, &minter.token(1, None), Mode::Json).await?;
    let mut two = Client::connect(FRONT, &minter.token(2, None), Mode::Json).await?;
    let sockets = Sockets::now();
    let accepted: Vec<usize> = edges.iter().map(|edge| sockets.accepted(*edge)).collect();
    ensure!(accepted == [1, 1], "connections of the edges: {accepted:?}");
    one.sync(&[(chat, 0)]).await?;
    two.sync(&[(chat, 0)]).await?;
    let started = Instant::now();
    for at in 0..MESSAGES {
        one.say(chat, &format!("one {at}")).await?;
        two.say(chat, &format!("two {at}")).await?;
    }
    let took = started.elapsed();
    for client in [&mut one, &mut two] {
        let mut texts = Vec::new();
        for _ in 0..2 * MESSAGES {
            texts.push(client.expect_message(chat).await?["content"].as_str().unwrap_or_default().to_owned());
        }
        let sent: Vec<String> = (0..MESSAGES).flat_map(|at| [format!("one {at}"), format!("two {at}")]).collect();
        ensure!(texts == sent, "{texts:?}");
        let more = client.until_pong().await?;
        ensure!(more.iter().all(|frame| frame["type"] != "message"), "{more:?}");
    }
    one.close().await?;
    two.close().await?;
    let each = took.as_secs_f64() * 1_000.0 / (2 * MESSAGES) as f64;
    results.add(
        "two clients through nginx, one on each edge",
        format!("{} messages, each once and in order at both; {each:.1} ms from send to ack", 2 * MESSAGES),
    );
    Ok(())
}

/// A seed client that others wrote.
async fn python(place: &Place, minter: &Minter, results: &mut Results) -> anyhow::Result<()> {
    let chat = place.load()?.context("no cluster")?.chat;
    let foreign = tokio::task::spawn_blocking(foreign::install).await??;
    let mut one = Client::connect(FRONT, &minter.token(1, None), Mode::Json).await?;
    one.sync(&[(chat, 0)]).await?;
    one.until_pong().await?;
    let url = format!("ws://{FRONT}/ws?token={}", minter.token(2, None));
    let mut script = foreign.python("client.py");
    script.args([&url, &chat.to_string(), "from Python", "to Python"]);
    let answered = async {
        let what = "the message from Python";
        one.expect_where(what, |frame| frame["type"] == "message" && frame["content"] == "from Python").await?;
        one.say(chat, "to Python").await
    };
    let (output, answered) = tokio::join!(Command::from(script).output(), answered);
    answered?;
    let output = output?;
    ensure!(output.status.success(), "client.py: {}", String::from_utf8_lossy(&output.stderr));
    one.close().await?;
    results.add("Python's `websockets` through nginx", "talks");
    Ok(())
}

/// By its number in the table, as a person does, while clients chat.
async fn kill_and_restart(
    place: &Place,
    name: &str,
    (minter, seed, first): (&Minter, u64, u64),
    results: &mut Results,
) -> anyhow::Result<Judged> {
    let load = Load::begin(minter, seed, first).await?;
    let (_, table) = run(&["status"]).await?;
    let row = table.lines().find(|line| line.starts_with(&format!("{name} "))).context("no row of it")?;
    let pid: u32 = row.split_ascii_whitespace().nth(2).context("no pid")?.parse()?;
    let id = Id::of(pid).context("nobody has the pid")?;
    let (heads, struck) = (load.heads(), Instant::now());
    ensure!(id.signal(Signal::KILL), "{name} is not there");
    wait_for("its end", Duration::from_secs(5), || std::future::ready((!id.is_running()).then_some(()))).await?;
    let bound = if name.starts_with("message-svc") { AFTER_OWNER } else { AFTER_OTHERS };
    let (stalled, text) = tokio::join!(load.passes(&heads, struck, bound), fails(&["status"]));
    let (stalled, text) = (stalled?, text?);
    let row = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_default();
    ensure!(row.contains(&pid.to_string()) && row.trim_end().ends_with("gone"), "{text}");
    let started = Instant::now();
    succeeds(&["restart", name]).await?;
    let restarted = started.elapsed().as_secs_f64();
    let ready = || async { run(&["status"]).await.ok().filter(|(all, _)| *all) };
    wait_for("all to be ready again", Duration::from_secs(30), ready).await?;
    let state = place.load()?.context("no cluster")?;
    ensure!(!ids(place, &state).contains(&id), "{name} is the same as before");
    results.add(
        &format!("`kill -9` of {name}, `restart {name}`"),
        format!(
            "`status` says gone; every chat had an ack {:.1} s later; ready again {restarted:.1} s after `restart`",
            stalled.as_secs_f64()
        ),
    );
    load.end().await
}

async fn down(place: &Place, results: &mut Results) -> anyhow::Result<()> {
    let state = place.load()?.context("no cluster")?;
    let (ids, ports) = (ids(place, &state), plan::ports(&state));
    let started = Instant::now();
    succeeds(&["down"]).await?;
    let took = started.elapsed().as_secs_f64();
    nothing_left(place, &ids, &ports).await?;
    succeeds(&["down"]).await?;
    results.add(
        "`down`",
        format!("{took:.1} s; of {} processes and {} ports none is left, and no file", ids.len(), ports.len()),
    );
    Ok(())
}

fn members<'a>(state: &'a State, role: &'a str) -> impl Iterator<Item = &'a super::state::Member> {
    state.members.iter().filter(move |member| super::sample::role(member) == role)
}

/// Whatever runs of it.
fn ids(place: &Place, state: &State) -> Vec<Id> {
    let members = state.members.iter().filter_map(|member| member.id);
    let nodes = [Store::Cassandra, Store::Redis].into_iter().flat_map(Store::nodes);
    members.chain(nodes.filter_map(|node: Node| node.last(place)?.1)).collect()
}

/// No process that there was, none that names the folder, no port, no file.
async fn nothing_left(place: &Place, ids: &[Id], ports: &[(SocketAddr, String)]) -> anyhow::Result<()> {
    let folder = place.folder();
    let named = folder.display().to_string();
    let mut left: Vec<String> = Vec::new();
    for id in ids.iter().filter(|id| id.is_running()) {
        left.push(format!("process {}", id.pid));
    }
    for id in kernel::processes() {
        if id.arguments().iter().any(|argument| argument.contains(&named)) {
            left.push(format!("process {}: {:?}", id.pid, id.arguments().first()));
        }
    }
    let sockets = Sockets::now();
    for (addr, name) in ports.iter().filter(|(addr, _)| sockets.has_listener(*addr)) {
        left.push(format!("{addr} of {name}"));
    }
    if folder.exists() {
        left.push(named);
    }
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_takes_the_place_of_the_last_one() {
        let page = format!("# Page\n{}old\n{}\nend\n", MARKS[0], MARKS[1]);
        let mut results = Results::default();
        results.add("`down`", "nothing left");
        let page = with_result(&page, &results.table(7)).unwrap();
        let expected = format!(
            "# Page\n{}CONFAB_SEED=7\n\n| what was done | what was seen |\n|---|---|\n| `down` | nothing left |\n{}\nend\n",
            MARKS[0], MARKS[1]
        );
        assert_eq!(page, expected);
        assert_eq!(with_result(&page, &results.table(7)).unwrap(), expected);
        with_result("# Page\n", "").unwrap_err();
    }
}
