//! Clients that never read: what they cost the server, and whether the others notice.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::interval;

use crate::client::Connection;
use crate::crowd::{Crowd, CrowdStep, Shape};
use crate::lab::Lab;
use crate::report::{Figure, Report};
use crate::server::Server;

/// The group's members.
const MEMBERS: u32 = 50;
/// Of those, members that never read.
const SLOW: u32 = 20;
/// Messages/s.
const RATE: u32 = 100;
/// Bytes of a message's content: enough to fill the kernel's buffers, some 3 MB a connection, within the run.
const CONTENT_BYTES: usize = 4096;
/// The slow clients' receive buffer, in bytes.
const RECEIVE_BYTES: u32 = 4096;

/// A step, and how the server's private memory grew in it.
struct Watched {
    step: CrowdStep,
    start: u64,
    peak: u64,
    end: u64,
}

/// Runs it: the same traffic without and with slow clients. They are quiet for less than the 45 s after which the
/// server may close a silent client.
pub async fn run(lab: &Lab) -> Result<Report> {
    let seconds = lab.pick(25, 5);
    lab.progress.phase("slow clients: connecting the others");
    let server = lab.confab().await?;
    let shape = Shape { first_user: 1000, members: MEMBERS, readers: MEMBERS - SLOW, content_bytes: CONTENT_BYTES };
    let crowd = Crowd::confab(server.endpoint(), shape, lab.in_flight_max).await?;
    crowd.confirm(true);
    crowd.step(&server, RATE, 2).await.context("warm-up")?;
    lab.progress.phase(format!("slow clients: {RATE} messages/s for {seconds} s without any"));
    let without = watched(&server, &crowd, seconds).await.context("without slow clients")?;
    lab.progress.note(format!("  without: {}", without.step.describe()));

    let mut slow = Vec::new();
    for user in shape.first_user + u64::from(MEMBERS - SLOW)..shape.first_user + u64::from(MEMBERS) {
        let mut connection = Connection::open_with(server.endpoint(), user, Some(RECEIVE_BYTES)).await?;
        connection.sync(&[], |_| {}).await.with_context(|| format!("user {user}"))?;
        slow.push(connection);
    }
    lab.progress.phase(format!("slow clients: {RATE} messages/s for {seconds} s with {SLOW}"));
    let with = watched(&server, &crowd, seconds).await.context("with slow clients")?;
    lab.progress.note(format!("  with: {}", with.step.describe()));
    drop((crowd, slow));
    server.stop().await?;
    Ok(report(&without, &with, seconds))
}

fn report(without: &Watched, with: &Watched, seconds: u32) -> Report {
    let grown = |watched: &Watched| watched.peak.saturating_sub(watched.start) as f64 / 1024.0;
    // Less than nothing is noise.
    let per_client = ((grown(with) - grown(without)) / f64::from(SLOW)).max(0.0);
    let (p99_with, p99_without) = (with.step.each.ms(0.99), without.step.each.ms(0.99));
    let mut report = Report::default();
    report.figures.push(Figure::new("server memory per client that never reads", format!("{per_client:.0} KiB")));
    report.figures.push(
        Figure::new(format!("delivery to the others beside {SLOW} slow clients"), format!("p99 {p99_with:.1} ms"))
            .against(format!("without them {p99_without:.1} ms"), p99_with / p99_without.max(0.001)),
    );
    let cpu = |watched: &Watched| watched.step.cpu_per_delivery();
    report.notes.push(format!(
        "Slow clients: a group of {MEMBERS}, {} read, {SLOW} stop reading after `synced`; {RATE} messages/s of \
         {CONTENT_BYTES} bytes for {seconds} s, so that each slow client leaves {} KiB unread. Memory per slow client: \
         the peak's growth with them ({:.0} KiB; at the end {:.0}) less that without ({:.0} KiB), by their number. \
         Server CPU per delivery to the others: {:.1} µs without, {:.1} with.",
        MEMBERS - SLOW,
        u64::from(RATE * seconds) * CONTENT_BYTES as u64 / 1024,
        grown(with),
        with.end.saturating_sub(with.start) as f64 / 1024.0,
        grown(without),
        cpu(without),
        cpu(with),
    ));
    report
}

async fn watched(server: &Server, crowd: &Crowd, seconds: u32) -> Result<Watched> {
    let start = server.private_bytes()?;
    let mut peak = start;
    let mut ticks = interval(Duration::from_millis(500));
    let mut running = std::pin::pin!(crowd.step(server, RATE, seconds));
    let step = loop {
        tokio::select! {
            step = &mut running => break step?,
            _ = ticks.tick() => peak = peak.max(server.private_bytes()?),
        }
    };
    let end = server.private_bytes()?;
    Ok(Watched { step, start, peak: peak.max(end), end })
}
