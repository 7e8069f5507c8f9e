//! Thousands of clients that come back at once, each with messages that it missed.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::{Connection, Endpoint};
use crate::clock::{micros_between, now_ns};
use crate::frame::{MessageMaker, Stamp};
use crate::http::Api;
use crate::lab::Lab;
use crate::recorder::{Latencies, SeqGuard};
use crate::report::{Figure, Report};
use crate::scan::scan;
use crate::sender::see_event;
use crate::server::Server;

/// Messages that each client missed.
const MISSED: u32 = 10;
/// Bytes of each.
const CONTENT_BYTES: usize = 128;
/// Within how long all have caught up, after the window in which their clients spread their return: here it is 0, for all come at
/// once.
const CAUGHT_UP_S: f64 = 3.0;

/// A client and the position that it comes back with.
#[derive(Clone, Copy)]
struct Client {
    user: u64,
    chat_id: u64,
    position: Option<u64>,
}

/// All clients have connected and caught up.
struct Wave {
    caught_up: Latencies,
    all_ms: f64,
    cpu_micros: u64,
    retries: u32,
    connections: Vec<Connection>,
}

/// Runs it.
pub async fn run(lab: &Lab) -> Result<Report> {
    let (groups, members) = lab.pick((5_u64, 1000_u64), (2, 100));
    let server = lab.confab().await?;
    lab.progress.phase(format!("reconnect: {groups} groups of {members}"));
    let mut clients = groups_of(server.endpoint(), groups, members).await?;
    let first = wave(&server, &clients, 0).await.context("the first connection")?;
    // All at once, and without a goodbye.
    drop(first.connections);
    lab.progress.phase("reconnect: sending what they miss");
    for group in clients.chunks_mut(usize::try_from(members)?) {
        let before = send_missed(server.endpoint(), group[0]).await?;
        group.iter_mut().for_each(|client| client.position = Some(before));
    }
    lab.progress.phase(format!("reconnect: {} clients at once", clients.len()));
    let back = wave(&server, &clients, MISSED).await.context("the reconnection")?;
    let (count, seconds) = (clients.len(), back.all_ms / 1000.0);
    let per_client = back.cpu_micros as f64 / count as f64;
    lab.progress.note(format!("  {seconds:.2} s until all caught up, {per_client:.0} µs a client"));
    drop(back.connections);
    server.stop().await?;
    lab.progress.phase(format!("bare handshakes: {} clients at once", clients.len()));
    let bare = bare(lab, &clients).await.context("the bare handshakes")?;
    let mut report = Report::default();
    report.figures.push(
        Figure::new(
            format!("{count} clients reconnect, {MISSED} missed messages each: all caught up"),
            format!("{seconds:.2} s"),
        )
        .against(format!("bare handshakes {bare:.2} s"), seconds / bare.max(0.001))
        .must(format!("≤ {CAUGHT_UP_S} s"), seconds <= CAUGHT_UP_S),
    );
    report.figures.push(Figure::new("the same: server CPU per client", format!("{per_client:.0} µs")));
    report.notes.push(format!(
        "Reconnect: {groups} groups of {members}; each client has a device that the server knows, drops with all others and \
         without a goodbye, connects with all others and its position and is done when `synced` and all {MISSED} messages are there (half of them after {:.2} s). Busy \
         answers or refused connections: {}. Their very first connection, at once and with nothing missed: {:.2} s.",
        back.caught_up.ms(0.5) / 1000.0,
        back.retries,
        first.all_ms / 1000.0,
    ));
    Ok(report)
}

async fn groups_of(endpoint: &Endpoint, groups: u64, members: u64) -> Result<Vec<Client>> {
    let mut api = Api::connect(endpoint).await?;
    let mut clients = Vec::new();
    for group in 0..groups {
        let users: Vec<u64> = (1000 + group * members..).take(usize::try_from(members)?).collect();
        let chat_id = api.create_group(users[0], &users[1..]).await.context("can't make a group")?;
        clients.extend(users.into_iter().map(|user| Client { user, chat_id, position: None }));
    }
    Ok(clients)
}

/// Connects all at once; each then waits for `synced` and `missed` messages.
async fn wave(server: &Server, clients: &[Client], missed: u32) -> Result<Wave> {
    let (gate, mut coming) =
        gated(
            server.endpoint(),
            clients,
            move |endpoint, client| async move { catch_up(&endpoint, client, missed).await },
        );
    let cpu = server.cpu_micros()?;
    gate.wait().await;
    let start = now_ns();
    let mut wave =
        Wave { caught_up: Latencies::new(), all_ms: 0.0, cpu_micros: 0, retries: 0, connections: Vec::new() };
    while let Some(come) = coming.join_next().await {
        let come = server.explain(come.context("a client's task failed")?, || "a client".to_owned()).await;
        let (connection, at) = come?;
        wave.caught_up.add(micros_between(start, at));
        wave.retries += connection.retries();
        wave.connections.push(connection);
    }
    wave.all_ms = wave.caught_up.ms(1.0);
    wave.cpu_micros = server.cpu_micros()? - cpu;
    Ok(wave)
}

/// What comes of each client once the gate is open, and when.
type Coming = JoinSet<Result<(Connection, u64)>>;

/// All wait at the gate, with whoever opens it.
fn gated<F>(endpoint: &Endpoint, clients: &[Client], come: impl Fn(Endpoint, Client) -> F) -> (Arc<Barrier>, Coming)
where
    F: Future<Output = Result<Connection>> + Send + 'static,
{
    let gate = Arc::new(Barrier::new(clients.len() + 1));
    let mut coming = JoinSet::new();
    for client in clients.iter().copied() {
        let (coming_one, gate) = (come(endpoint.clone(), client), gate.clone());
        coming.spawn(async move {
            gate.wait().await;
            let connection = coming_one.await;
            connection.map(|connection| (connection, now_ns())).with_context(|| format!("user {}", client.user))
        });
    }
    (gate, coming)
}

async fn catch_up(endpoint: &Endpoint, client: Client, missed: u32) -> Result<Connection> {
    let mut connection = Connection::open(endpoint, client.user).await?;
    let mut guard = SeqGuard::new(client.chat_id, client.position);
    let mut events = 0;
    let mut wrong = Ok(());
    let positions: Vec<(u64, u64)> = client.position.map(|seq| (client.chat_id, seq)).into_iter().collect();
    let count = |frame: crate::scan::Frame<'_>| {
        events += u32::from(frame.kind == "message");
        if let Err(error) = see_event(&frame, Some(&mut guard)) {
            wrong = Err(error);
        }
    };
    connection.sync(&positions, count).await?;
    wrong?;
    while events < missed {
        let text = connection.wait_for("message", |_| {}).await?;
        see_event(&scan(&text).context("not a frame")?, Some(&mut guard))?;
        events += 1;
    }
    if events > missed {
        bail!("{events} messages came, {missed} were missed");
    }
    Ok(connection)
}

/// Seconds until as many have made a WebSocket connection to an echo server, which has nothing to tell them.
async fn bare(lab: &Lab, clients: &[Client]) -> Result<f64> {
    let peer = Server::peer(&["bare-echo"]).await?;
    let (gate, mut coming) =
        gated(
            peer.endpoint(),
            clients,
            |endpoint, client| async move { Connection::open(&endpoint, client.user).await },
        );
    gate.wait().await;
    let start = now_ns();
    let mut connections = Vec::new();
    while let Some(come) = coming.join_next().await {
        connections.push(come.context("a client's task failed")??.0);
    }
    let seconds = micros_between(start, now_ns()) as f64 / 1e6;
    lab.progress.note(format!("  {seconds:.2} s until all are connected to an echo server"));
    drop(connections);
    peer.stop().await?;
    Ok(seconds)
}

/// Sends the messages that the group misses; gives the seq before the first of them.
async fn send_missed(endpoint: &Endpoint, sender: Client) -> Result<u64> {
    let mut connection = Connection::open(endpoint, sender.user).await?;
    let maker = MessageMaker::new(sender.chat_id, CONTENT_BYTES);
    let mut first = None;
    for index in 0..MISSED {
        connection.send(maker.make(Stamp { at_ns: now_ns(), index: u64::from(index) })).await?;
        let ack = connection.wait_for("ack", |_| {}).await?;
        let seq = scan(&ack).and_then(|frame| frame.seq).context("an ack without a seq")?;
        if seq != *first.get_or_insert(seq) + u64::from(index) {
            bail!("acks with a hole: seq {seq} for message {index}");
        }
    }
    connection.close().await;
    first.map(|seq| seq.saturating_sub(1)).context("nothing was sent")
}
