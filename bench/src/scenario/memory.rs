//! Private memory per idle connection.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, interval, timeout};

use crate::client::Endpoint;
use crate::fit::Line;
use crate::lab::{Lab, connections_max};
use crate::report::{Figure, Report};
use crate::server::Server;

/// The users of one holder lie this far apart.
const USERS_PER_HOLDER: u64 = 1_000_000;
/// How long a holder may take to grow.
const GROWING: Duration = Duration::from_secs(300);
/// The most that a connection may cost, in bytes.
const SLOPE_MAX: f64 = 6.0 * 1024.0;

/// Runs it at these numbers of connections, ascending.
pub async fn run(lab: &Lab, connections: Option<&[u32]>) -> Result<Report> {
    let stages = connections.map_or_else(|| lab.pick(vec![2000, 8000, 16_000], vec![200, 400, 800]), <[u32]>::to_vec);
    let server = lab.confab().await?;
    let empty = settled(lab, &server).await?;
    let mut holders = Vec::new();
    let mut points = Vec::new();
    let mut lines = vec![format!("0: {} KiB, {} threads", empty.bytes / 1024, server.threads()?)];
    for stage in stages {
        lab.progress.phase(format!("memory: {stage} idle connections"));
        grow(&server, &mut holders, stage).await?;
        lab.progress.phase(format!("memory: {stage} idle connections, settling"));
        let memory = settled(lab, &server).await?;
        for holder in &mut holders {
            holder.order("check").await?;
        }
        let line = format!(
            "{stage}: {} KiB, {} threads{}",
            memory.bytes / 1024,
            server.threads()?,
            if memory.steady { "" } else { " (still moving)" }
        );
        lab.progress.note(format!("  {line}"));
        lines.push(line);
        points.push((f64::from(stage), memory.bytes as f64));
    }
    drop(holders);
    server.stop().await?;
    report(&points, &lines)
}

fn report(points: &[(f64, f64)], lines: &[String]) -> Result<Report> {
    let line = Line::through(points).context("memory needs two numbers of connections")?;
    let mut report = Report::default();
    report.figures.push(
        Figure::new("private memory per idle connection", format!("{:.2} KiB", line.slope / 1024.0))
            .must("≤ 6 KiB", line.slope <= SLOPE_MAX),
    );
    let projected = line.at(100_000.0) / (1024.0 * 1024.0);
    report.figures.push(Figure::new("projected to 100,000 connections", format!("{projected:.0} MiB")));
    report.notes.push(format!(
        "Memory: private bytes (`smaps_rollup`) of the server, plaintext connections in pairs with a direct chat each: \
         one of the two sent one message, the other received and confirmed it, then both idle. By connections: {}.",
        lines.join("; ")
    ));
    Ok(report)
}

/// Brings the holders to `total` connections together; another holder is started when the last one is full.
async fn grow(server: &Server, holders: &mut Vec<Holder>, total: u32) -> Result<()> {
    // Pairs stay together.
    let each = connections_max() & !1;
    let mut left = total;
    let mut place = 0;
    while left > 0 {
        if holders.len() == place {
            holders.push(Holder::start(server, u64::try_from(place)?)?);
        }
        let share = left.min(each);
        let grown = holders[place].order(&format!("grow {share}")).await;
        server.explain(grown, || format!("growing to {total} connections")).await?;
        left -= share;
        place += 1;
    }
    Ok(())
}

struct Settled {
    bytes: u64,
    steady: bool,
}

/// Waits until private memory stays within 0.5 % (at least 128 KiB) for 10 s, for two minutes at most.
async fn settled(lab: &Lab, server: &Server) -> Result<Settled> {
    let (window, bound) = lab.pick((10, 120), (3, 20));
    let end = Instant::now() + Duration::from_secs(bound);
    let mut ticks = interval(Duration::from_secs(1));
    let mut samples = VecDeque::new();
    loop {
        ticks.tick().await;
        let bytes = server.private_bytes()?;
        samples.push_back(bytes);
        if samples.len() > window {
            samples.pop_front();
        }
        let spread = samples.iter().max().unwrap_or(&0) - samples.iter().min().unwrap_or(&0);
        let steady = samples.len() == window && spread <= (bytes / 200).max(128 * 1024);
        if steady || Instant::now() > end {
            return Ok(Settled { bytes, steady });
        }
    }
}

/// A child process of this program that holds connections: [`crate::holder`].
struct Holder {
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Holder {
    fn start(server: &Server, place: u64) -> Result<Self> {
        let Endpoint { addr, .. } = server.endpoint();
        let first_user = 1000 + place * USERS_PER_HOLDER;
        let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
        command.args(["hold", "--addr", &addr.to_string(), "--first-user", &first_user.to_string(), "--data"]);
        command.arg(server.data()?).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("can't start a holder of connections")?;
        let stdin = child.stdin.take().context("a holder without stdin")?;
        let stdout = child.stdout.take().context("a holder without stdout")?;
        Ok(Self { stdin, answers: BufReader::new(stdout).lines(), _child: child })
    }

    async fn order(&mut self, order: &str) -> Result<()> {
        self.stdin.write_all(format!("{order}\n").as_bytes()).await.context("a holder has died")?;
        let answer = timeout(GROWING, self.answers.next_line()).await;
        match answer.with_context(|| format!("{order}: not within {GROWING:?}"))?? {
            Some(answer) if answer == "ok" => Ok(()),
            Some(answer) => bail!("{order}: {answer}"),
            None => bail!("{order}: the holder has died"),
        }
    }
}
