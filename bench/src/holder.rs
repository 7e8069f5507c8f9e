//! A child process that holds idle connections, since one process may not have enough open files for all of them.
//!
//! Orders come as lines on stdin, each answered by a line on stdout: `grow N` (connections in all; the new ones each
//! send or receive one message) and `check` (are all still there?) by `ok` or `failed: …`. It ends with its stdin.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};
use tokio::task::JoinSet;

use crate::client::{Connection, Endpoint};
use crate::clock::now_ns;
use crate::frame::{MessageMaker, Stamp, delivered};
use crate::http::direct_chats;
use crate::lab::raise_file_limit;
use crate::recorder::Complaints;
use crate::scan::scan;
use crate::token::Signer;

/// Pairs that connect and talk at a time.
const OPENING: usize = 64;

/// Follows the orders on stdin.
pub async fn serve(addr: SocketAddr, data: &Path, first_user: u64) -> Result<()> {
    raise_file_limit()?;
    let endpoint = Endpoint { addr, signer: Some(Arc::new(Signer::read(data)?)) };
    let mut idle = Idle { endpoint, next_user: first_user, held: 0, complaints: Arc::default(), tasks: JoinSet::new() };
    let mut orders = BufReader::new(stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        let answer = match idle.follow(&order).await {
            Ok(()) => "ok\n".to_owned(),
            Err(error) => format!("failed: {error:#}\n"),
        };
        let mut out = stdout();
        out.write_all(answer.as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

struct Idle {
    endpoint: Endpoint,
    next_user: u64,
    held: u32,
    complaints: Arc<Complaints>,
    tasks: JoinSet<()>,
}

impl Idle {
    async fn follow(&mut self, order: &str) -> Result<()> {
        match order.split_once(' ') {
            Some(("grow", count)) => self.grow(count.parse()?).await?,
            None if order == "check" => {}
            _ => bail!("no such order: {order}"),
        }
        self.complaints.check()
    }

    async fn grow(&mut self, to: u32) -> Result<()> {
        let pairs = to.saturating_sub(self.held).div_ceil(2);
        let first = self.next_user;
        let users: Vec<(u64, u64)> =
            (0..u64::from(pairs)).map(|pair| (first + 2 * pair, first + 2 * pair + 1)).collect();
        self.next_user += 2 * u64::from(pairs);
        let chats = direct_chats(&self.endpoint, &users).await.context("can't make the direct chats")?;
        let endpoint = &self.endpoint;
        let mut talking = stream::iter(users.into_iter().zip(chats))
            .map(|(users, chat_id)| talk(endpoint, users, chat_id))
            .buffer_unordered(OPENING);
        while let Some(connections) = talking.try_next().await? {
            for connection in connections {
                self.tasks.spawn(idle(connection, self.complaints.clone()));
                self.held += 1;
            }
        }
        Ok(())
    }
}

/// Connects two users; the first sends one message, the second takes and confirms it.
async fn talk(endpoint: &Endpoint, (sender, recipient): (u64, u64), chat_id: u64) -> Result<[Connection; 2]> {
    let mut from = Connection::open(endpoint, sender).await?;
    from.sync(&[], |_| {}).await?;
    let mut to = Connection::open(endpoint, recipient).await?;
    to.sync(&[], |_| {}).await?;
    let stamp = Stamp { at_ns: now_ns(), index: 0 };
    from.send(MessageMaker::new(chat_id, 128).make(stamp)).await?;
    let text = to.wait_for("message", |_| {}).await.context("the recipient")?;
    let seq = scan(&text).and_then(|frame| frame.seq).context("a message without a seq")?;
    to.send(delivered(chat_id, seq)).await?;
    from.wait_for("ack", |_| {}).await.context("the sender")?;
    Ok([from, to])
}

/// Reads on, so that pings are answered.
async fn idle(mut connection: Connection, complaints: Arc<Complaints>) {
    loop {
        if let Err(error) = connection.next_text().await {
            complaints.add(format!("an idle connection: {error:#}"));
            return;
        }
    }
}
