//! A group of 1000: the time to its last member, and what a delivery costs beside a bare write loop.

use anyhow::{Context, Result};

use crate::crowd::{Crowd, CrowdStep, Shape};
use crate::lab::Lab;
use crate::report::{Figure, Report};
use crate::server::Server;

/// Messages/s that are offered, one after the other.
const RATES: [u32; 3] = [10, 20, 50];
/// The rate at which the members say `delivered`, too.
const CONFIRMED_RATE: u32 = 20;

/// Runs it; the bare write loop takes its turn after each rate.
pub async fn run(lab: &Lab) -> Result<Report> {
    let members = 1000;
    let seconds = lab.pick(15, 3);
    lab.progress.phase(format!("group: connecting {members} members"));
    let server = lab.confab().await?;
    let shape = Shape { first_user: 1000, members, readers: members, content_bytes: 128 };
    let crowd = Crowd::confab(server.endpoint(), shape, lab.in_flight_max).await?;
    crowd.step(&server, 10, 2).await.context("warm-up")?;
    let sample = crowd.sample().context("no delivery was seen")?;

    lab.progress.phase(format!("bare write loop: connecting {members} receivers"));
    let mut peer = Server::peer(&["bare-write", "--connections", &members.to_string()]).await?;
    let bare = Crowd::receivers(peer.endpoint(), members).await?;
    peer.tell(&sample).await?;
    bare.peer_step(&mut peer, 10, 2).await.context("warm-up of the bare write loop")?;

    let mut report = Report::default();
    for rate in RATES {
        lab.progress.phase(format!("group: {rate} messages/s for {seconds} s"));
        let step = crowd.step(&server, rate, seconds).await.with_context(|| format!("at {rate} messages/s"))?;
        lab.progress.note(format!("  {}", step.describe()));
        lab.progress.phase(format!("bare write loop: {rate} messages/s for {seconds} s"));
        let base = bare.peer_step(&mut peer, rate, seconds).await.context("the bare write loop")?;
        lab.progress.note(format!("  bare: {}", base.describe()));
        report.figures.extend(figures(&step, &base));
    }
    lab.progress.phase(format!("group: {CONFIRMED_RATE} messages/s, each confirmed by each member"));
    crowd.confirm(true);
    let step = crowd.step(&server, CONFIRMED_RATE, seconds).await.context("with members that confirm")?;
    lab.progress.note(format!("  confirmed: {}", step.describe()));
    report.figures.push(confirmed(&step));
    report.notes.push(format!(
        "Group: {members} members and connections, one sender, contents of 128 bytes, {seconds} s a rate; every member \
         got every message once and in order. The bare write loop writes the same frame ({} bytes) to as many \
         connections at the same rates. The members say `delivered` only where the table says so.",
        sample.len()
    ));
    drop((crowd, bare));
    peer.stop().await?;
    server.stop().await?;
    Ok(report)
}

fn figures(step: &CrowdStep, base: &CrowdStep) -> [Figure; 2] {
    let (cpu, base_cpu) = (step.cpu_per_delivery(), base.cpu_per_delivery());
    let ratio = cpu / base_cpu.max(0.01);
    let last = Figure::new(
        format!("group of 1000 at {} /s: last member", step.rate),
        format!("p50 {:.1}, p99 {:.1} ms", step.last.ms(0.5), step.last.ms(0.99)),
    )
    .against(
        format!("bare write loop p99 {:.1} ms", base.last.ms(0.99)),
        step.last.ms(0.99) / base.last.ms(0.99).max(0.001),
    );
    let cpu = Figure::new(format!("group of 1000 at {} /s: CPU per delivery", step.rate), format!("{cpu:.2} µs"))
        .against(format!("bare write loop {base_cpu:.2} µs"), ratio)
        .must("≤ 2 × bare", ratio <= 2.0)
        .aim("≤ 10 µs", cpu <= 10.0);
    [last, cpu]
}

fn confirmed(step: &CrowdStep) -> Figure {
    Figure::new(
        format!("group of 1000 at {} /s, all say `delivered`", step.rate),
        format!("{:.2} µs a delivery, last member p99 {:.1} ms", step.cpu_per_delivery(), step.last.ms(0.99)),
    )
}
