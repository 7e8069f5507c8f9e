//! One connection of a roamer, from `sync` to its end.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use rand::Rng as _;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Ws;

use super::{Arrival, Gap, Roamer};
use crate::checker::{Acked, Delivered, Message, digest};
use crate::harness::client::{self, Client};

type Socket = WebSocketStream<TcpStream>;

/// No byte from a server for so long, and it is given up; milliseconds, drawn anew for each connection (docs/protocol.md).
const SILENCE_MS: Range<u64> = 35_000..50_000;

/// How long one that is asked to leave waits for its last acks.
const LAST_ACKS: Duration = Duration::from_secs(1);

/// Before it comes again after an error that doesn't say when.
const AGAIN: Duration = Duration::from_millis(300);
/// Whatever the error says: a load that waits for long is none.
const AGAIN_MAX: Duration = Duration::from_secs(2);

pub(super) enum Ended {
    /// By itself, at random.
    Left,
    /// The connection broke, or was silent.
    Broken,
    /// The server asked for it.
    SentAway,
    /// With an error that may pass.
    Refused { code: String, after: Duration },
    /// Everyone's messages are here.
    SeenAll,
}

/// What a roamer reads of a frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    chat_id: Option<u64>,
    seq: Option<u64>,
    sender_id: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    /// Of a `history`.
    #[serde(borrow, default)]
    events: Vec<Frame<'a>>,
    message_id: Option<&'a str>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    client_id: Option<Cow<'a, str>>,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    retryable: bool,
    code: Option<&'a str>,
    retry_after_ms: Option<u64>,
    /// Of a `reconnect`.
    after_ms: Option<u64>,
}

/// Runs a connection until it ends, is dropped, or has seen all.
pub(super) async fn run(roamer: &mut Roamer<'_>, client: Client) -> anyhow::Result<Ended> {
    let mut socket = client.into_socket();
    let mut done = roamer.field.done.subscribe();
    let drop_after = roamer.rng.random_range(roamer.drop_after.clone());
    let mut frames = 0;
    let silence = Duration::from_millis(roamer.rng.random_range(SILENCE_MS));
    let mut heard = Instant::now();
    // Asked to leave, and when.
    let mut leaving: Option<Instant> = None;
    if open(roamer, &mut socket).await.is_err() {
        return Ok(Ended::Broken);
    }
    loop {
        let all_done = *done.borrow_and_update();
        if all_done && roamer.behind().is_empty() && roamer.gaps.is_empty() {
            return settle(roamer, &mut socket).await;
        }
        if frames >= drop_after && !all_done {
            return Ok(hang_up(roamer, socket).await);
        }
        let (now, last) = (Instant::now(), leaving.map(|at| at + LAST_ACKS));
        let is_leaving = leaving.is_some_and(|at| at <= now);
        if is_leaving && (roamer.pending.is_empty() || last.is_some_and(|last| last <= now)) {
            return Ok(Ended::SentAway);
        }
        let incoming = tokio::select! {
            incoming = socket.next() => incoming,
            _changed = done.changed() => continue,
            () = sleep_until(roamer.next_at), if roamer.has_room() && !is_leaving => {
                if !send_more(roamer, &mut socket).await {
                    return Ok(Ended::Broken);
                }
                continue;
            }
            () = sleep_until(if is_leaving { last } else { leaving }.unwrap_or(now)), if leaving.is_some() => continue,
            () = sleep_until(heard + silence) => return Ok(Ended::Broken),
        };
        heard = Instant::now();
        let text = match incoming {
            Some(Ok(Ws::Text(text))) => text,
            Some(Ok(Ws::Ping(_) | Ws::Pong(_))) => continue,
            _ if leaving.is_some() => return Ok(Ended::SentAway),
            _ => return Ok(Ended::Broken),
        };
        frames += 1;
        let gaps = roamer.gaps.len();
        let fetched = match take(roamer, &text)? {
            Taken::Nothing => false,
            Taken::Fetched => true,
            Taken::Away(after) => {
                leaving = leaving.or(Some(heard + after));
                continue;
            }
            Taken::Refused { code, after } => return Ok(Ended::Refused { code, after }),
        };
        // One request at a time: the next one when this one is answered, or when there was none.
        let asked = !(fetched || gaps == 0) || fetch_more(roamer, &mut socket).await;
        if !asked || !is_leaving && !send_more(roamer, &mut socket).await {
            return Ok(Ended::Broken);
        }
    }
}

/// Syncs, sends again what wasn't acked, in its order, and fills the window.
async fn open(roamer: &mut Roamer<'_>, socket: &mut Socket) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let chats: serde_json::Map<_, _> =
        roamer.positions.iter().map(|(chat, at)| (chat.to_string(), json!(at))).collect();
    socket.feed(Ws::text(json!({"type": "sync", "chats": chats}).to_string())).await?;
    for pending in &roamer.pending {
        let frame = client::message(pending.chat, &pending.content, &pending.client_id);
        socket.feed(Ws::text(frame.to_string())).await?;
    }
    if let Some(request) = roamer.next_fetch() {
        socket.feed(Ws::text(request)).await?;
    }
    while let Some(frame) = roamer.next_send() {
        socket.feed(Ws::text(frame)).await?;
    }
    socket.flush().await
}

async fn fetch_more(roamer: &Roamer<'_>, socket: &mut Socket) -> bool {
    match roamer.next_fetch() {
        Some(request) => socket.send(Ws::text(request)).await.is_ok(),
        None => true,
    }
}

async fn send_more(roamer: &mut Roamer<'_>, socket: &mut Socket) -> bool {
    while let Some(frame) = roamer.next_send() {
        // Noted as pending: if this fails, the next connection sends it again.
        if socket.send(Ws::text(frame)).await.is_err() {
            return false;
        }
    }
    roamer.note_finished();
    true
}

/// Goes away: half of the time without a word.
async fn hang_up(roamer: &mut Roamer<'_>, mut socket: Socket) -> Ended {
    if roamer.rng.random_bool(0.5) {
        // The server may be gone already.
        let _gone = socket.close(None).await;
    }
    Ended::Left
}

/// What a frame asks for.
enum Taken {
    Nothing,
    /// It was the answer to a fetch.
    Fetched,
    /// To connect anew, after so long.
    Away(Duration),
    /// The same, for what was sent is refused for now.
    Refused {
        code: String,
        after: Duration,
    },
}

/// Records a frame.
fn take(roamer: &mut Roamer<'_>, text: &str) -> anyhow::Result<Taken> {
    let frame: Frame<'_> = serde_json::from_str(text).with_context(|| format!("a frame: {text}"))?;
    match frame.kind {
        "ack" => take_ack(roamer, &frame).with_context(|| format!("an ack: {text}"))?,
        "error" if frame.retryable => {
            let code = frame.code.unwrap_or("none").to_owned();
            let after = frame.retry_after_ms.map_or(AGAIN, Duration::from_millis).min(AGAIN_MAX);
            return Ok(Taken::Refused { code, after });
        }
        "synced" => roamer.synced = Some(Instant::now().into_std()),
        "error" => roamer.history.note(format!("{} got {text}", roamer.device)),
        "gap" => take_gap(roamer, &frame).with_context(|| format!("a gap: {text}"))?,
        "history" => {
            take_history(roamer, &frame).with_context(|| format!("a history: {text}"))?;
            return Ok(Taken::Fetched);
        }
        "reconnect" => return Ok(Taken::Away(Duration::from_millis(frame.after_ms.unwrap_or(0)))),
        "message" | "chat" | "edited" | "deleted" | "reacted" => {
            take_event(roamer, &frame).with_context(|| format!("an event: {text}"))?;
        }
        _ => {}
    }
    Ok(Taken::Nothing)
}

/// What comes next in this chat comes after it; the rest is fetched.
fn take_gap(roamer: &mut Roamer<'_>, frame: &Frame<'_>) -> anyhow::Result<()> {
    let chat = frame.chat_id.context("no chat_id")?;
    let (from, to) = (frame.from.context("no from")?, frame.to.context("no to")?);
    roamer.history.gap(chat, &roamer.device, from, to);
    roamer.gaps.push_back(Gap { chat, from, before: to + 1 });
    let at = roamer.positions.entry(chat).or_default();
    *at = to.max(*at);
    Ok(())
}

/// Takes the newest part of the first gap that is still open.
fn take_history(roamer: &mut Roamer<'_>, frame: &Frame<'_>) -> anyhow::Result<()> {
    let gap = roamer.gaps.front_mut().context("nobody asked")?;
    let lowest = frame.events.first().context("no events")?;
    gap.before = lowest.seq.context("no seq")?;
    let (chat, is_closed) = (gap.chat, gap.before <= gap.from);
    for event in &frame.events {
        let event = delivered(roamer.connection, event)?;
        roamer.history.fetched(chat, &roamer.device, event);
    }
    if is_closed {
        roamer.gaps.pop_front();
    }
    Ok(())
}

fn take_ack(roamer: &mut Roamer<'_>, frame: &Frame<'_>) -> anyhow::Result<()> {
    let (chat, seq) = (frame.chat_id.context("no chat_id")?, frame.seq.context("no seq")?);
    let client_id = frame.client_id.as_deref().context("no client_id")?.to_owned();
    match roamer.pending.iter().position(|pending| pending.client_id == client_id) {
        Some(at) => {
            let acked = roamer.pending.remove(at);
            let now = Instant::now().into_std();
            acked.iter().for_each(|pending| roamer.timeline.acked(pending.at, seq, now));
        }
        None => roamer.history.note(format!("{}: an ack of {client_id}, which is not un-acked", roamer.device)),
    }
    roamer.field.note_ack(chat, seq);
    roamer.history.acked(Acked {
        device: roamer.device.clone(),
        chat,
        client_id,
        seq,
        message_id: frame.message_id.context("no message_id")?.to_owned(),
        duplicate: frame.duplicate,
    });
    Ok(())
}

fn take_event(roamer: &mut Roamer<'_>, frame: &Frame<'_>) -> anyhow::Result<()> {
    let chat = frame.chat_id.context("no chat_id")?;
    let event = delivered(roamer.connection, frame)?;
    let at = roamer.positions.entry(chat).or_default();
    *at = event.seq.max(*at);
    if event.message.is_some() {
        let (seq, edge, synced) = (event.seq, roamer.edge(), roamer.synced);
        roamer.timeline.arrivals.push(Arrival { chat, seq, at: Instant::now().into_std(), edge, synced });
    }
    roamer.history.delivered(chat, &roamer.device, event);
    Ok(())
}

fn delivered(connection: u32, frame: &Frame<'_>) -> anyhow::Result<Delivered> {
    let message = match frame.kind {
        "message" => Some(Message {
            message_id: frame.message_id.context("no message_id")?.to_owned(),
            sender: frame.sender_id.context("no sender_id")?,
            digest: digest(frame.content.as_deref().context("no content")?),
            client_id: frame.client_id.as_deref().map(str::to_owned),
        }),
        _ => None,
    };
    Ok(Delivered { connection, seq: frame.seq.context("no seq")?, message })
}

/// All is here: a last `ping` shows whether anything comes behind it that must not.
async fn settle(roamer: &mut Roamer<'_>, socket: &mut Socket) -> anyhow::Result<Ended> {
    if socket.send(Ws::text(json!({"type": "ping"}).to_string())).await.is_err() {
        return Ok(Ended::Broken);
    }
    loop {
        let next = timeout(Duration::from_millis(SILENCE_MS.end), socket.next()).await.unwrap_or(None);
        match next {
            Some(Ok(Ws::Text(text))) if text.contains("\"type\":\"pong\"") => return Ok(Ended::SeenAll),
            Some(Ok(Ws::Text(text))) => {
                take(roamer, &text)?;
            }
            Some(Ok(Ws::Ping(_) | Ws::Pong(_))) => {}
            _ => return Ok(Ended::Broken),
        }
    }
}
