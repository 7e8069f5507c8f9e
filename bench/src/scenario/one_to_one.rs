//! Durable one-to-one messages: the rate that holds, and the latency at 70 % of it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::baseline::append::{self, Appended};
use crate::frame::{MessageMaker, Stamp};
use crate::lab::Lab;
use crate::pairs::{CONTENT_BYTES, HELD_P99_MS, PAIRS, Pairs, Step};
use crate::report::{Figure, Report};
use crate::search::RateSearch;
use crate::server::Server;

/// Rates tried for long, each nine tenths of the one before.
const SUSTAIN_TRIES: u32 = 12;

/// The append baselines of one moment.
#[derive(Clone, Copy, Debug)]
struct Appends {
    each: Appended,
    grouped: Appended,
}

/// What one-to-one came to.
struct Outcome {
    best: Option<Step>,
    hold: Step,
    appends: Vec<Appends>,
    append_tasks: u32,
    steps: Vec<String>,
    echo_best: Option<Step>,
    echo_hold: Step,
}

/// Runs it; `rate` in messages/s takes the place of the search.
pub async fn run(lab: &Lab, rate: Option<u32>) -> Result<Report> {
    let server = lab.confab().await?;
    let mut appends = vec![append(lab).await?];
    lab.progress.phase(format!("one-to-one: connecting {PAIRS} pairs"));
    let pairs = Pairs::confab(server.endpoint(), lab.in_flight_max).await?;
    pairs.step(&server, 500, 2).await.context("warm-up")?;
    let mut steps = Vec::new();
    let (best, hold_rate) = match rate {
        Some(rate) => (None, rate),
        None => {
            let precision = lab.pick(1.06, 1.3);
            let best = find_rate(lab, &pairs, &server, RateSearch::new(1000, precision, lab.pick(2, 1)), &mut steps);
            let best = best.await?.context("not even 10 messages/s held")?;
            let best = sustain(lab, &pairs, &server, best, &mut steps).await?;
            let hold_rate = best.rate * 7 / 10;
            (Some(best), hold_rate)
        }
    };
    appends.push(append(lab).await?);
    let seconds = lab.pick(60, 5);
    lab.progress.phase(format!("one-to-one: {hold_rate} messages/s for {seconds} s"));
    let hold = pairs.step(&server, hold_rate, seconds).await.context("the long step")?;
    lab.progress.note(format!("  {}", hold.describe()));
    drop(pairs);
    server.stop().await?;
    appends.push(append(lab).await?);
    let (echo_best, echo_hold) = echo(lab, hold_rate, rate.is_none()).await.context("the echo baseline")?;
    let append_tasks = lab.append_tasks;
    Ok(report(&Outcome { best, hold, appends, append_tasks, steps, echo_best, echo_hold }))
}

async fn append(lab: &Lab) -> Result<Appends> {
    let seconds = lab.pick(5, 1);
    lab.progress.phase(format!("append + fdatasync for {seconds} s, twice"));
    let bytes = MessageMaker::new(1, CONTENT_BYTES).make(Stamp { at_ns: 0, index: 0 }).len();
    let (work, tasks, time) = (lab.work(), lab.append_tasks, Duration::from_secs(seconds));
    let each = append::each(work, bytes, tasks, time).await?;
    let grouped = append::grouped(work, bytes, tasks, time).await?;
    lab.progress.note(format!(
        "  append: {:.0} records/s; {:.0} with one writer for all, {:.0} per fdatasync",
        each.per_second, grouped.per_second, grouped.group
    ));
    Ok(Appends { each, grouped })
}

/// Searches the highest rate that holds; gives the step that showed it.
async fn find_rate(
    lab: &Lab,
    pairs: &Pairs,
    server: &Server,
    mut search: RateSearch,
    steps: &mut Vec<String>,
) -> Result<Option<Step>> {
    let seconds = lab.pick(5, 2);
    let mut best: Option<Step> = None;
    while let Some(rate) = search.rate() {
        lab.progress.phase(format!("searching: {rate} messages/s for {seconds} s"));
        let (step, held) = attempt(lab, pairs, server, rate, seconds, steps).await?;
        if held && best.as_ref().is_none_or(|best| best.rate < rate) {
            best = Some(step);
        }
        search.record(held);
    }
    Ok(best)
}

/// One step at a rate, noted in `steps`; and whether it held.
async fn attempt(
    lab: &Lab,
    pairs: &Pairs,
    server: &Server,
    rate: u32,
    seconds: u32,
    steps: &mut Vec<String>,
) -> Result<(Step, bool)> {
    let step = pairs.step(server, rate, seconds).await.with_context(|| format!("at {rate} messages/s"))?;
    let held = step.held();
    let line = format!("{} for {seconds} s: {}", if held { "held" } else { "fell behind" }, step.describe());
    lab.progress.note(format!("  {line}"));
    steps.push(line);
    Ok((step, held))
}

/// From a rate that held for a short step down to one that holds for long: a short one ends before the store has had to
/// write its tables out.
async fn sustain(lab: &Lab, pairs: &Pairs, server: &Server, short: Step, steps: &mut Vec<String>) -> Result<Step> {
    let seconds = lab.pick(30, 2);
    let mut rate = short.rate;
    for _ in 0..SUSTAIN_TRIES {
        lab.progress.phase(format!("sustaining: {rate} messages/s for {seconds} s"));
        let (step, held) = attempt(lab, pairs, server, rate, seconds, steps).await?;
        if held {
            return Ok(step);
        }
        rate = rate * 9 / 10;
    }
    anyhow::bail!("nothing down to {rate} messages/s held for {seconds} s")
}

async fn echo(lab: &Lab, hold_rate: u32, search: bool) -> Result<(Option<Step>, Step)> {
    lab.progress.phase("bare echo: connecting");
    let server = Server::peer(&["bare-echo"]).await?;
    let pairs = Pairs::echo(server.endpoint(), lab.in_flight_max).await?;
    pairs.step(&server, 500, 2).await.context("warm-up")?;
    let hold = pairs.step(&server, hold_rate, lab.pick(10, 2)).await?;
    let mut steps = Vec::new();
    let best = if search {
        let precision = lab.pick(1.13, 1.5);
        find_rate(lab, &pairs, &server, RateSearch::new(8000, precision, 1), &mut steps).await?
    } else {
        None
    };
    drop(pairs);
    server.stop().await?;
    Ok((best, hold))
}

fn report(outcome: &Outcome) -> Report {
    let mut report = Report::default();
    let hold = &outcome.hold;
    let each = median(outcome.appends.iter().map(|appends| appends.each));
    let grouped = median(outcome.appends.iter().map(|appends| appends.grouped));
    if let Some(best) = &outcome.best {
        let ratio = f64::from(best.rate) / each.per_second;
        report.figures.push(
            Figure::new("durable one-to-one messages, sustained", format!("{} /s", best.rate))
                .against(format!("append + fdatasync {:.0} /s", each.per_second), ratio)
                .must("≥ 0.25 × append", ratio >= 0.25)
                .aim("≥ 10,000 /s", best.rate >= 10_000),
        );
        report.figures.push(
            Figure::new("the same, beside one writer that syncs for all", format!("{} /s", best.rate)).against(
                format!("grouped append {:.0} /s", grouped.per_second),
                f64::from(best.rate) / grouped.per_second,
            ),
        );
        if let Some(echo) = &outcome.echo_best {
            let ratio = f64::from(best.rate) / f64::from(echo.rate);
            let figure = Figure::new("the same, beside an echo", format!("{} /s", best.rate));
            report.figures.push(figure.against(format!("bare echo {} /s", echo.rate), ratio));
        }
        report.figures.push(Figure::new(
            "server CPU per message at the sustained rate",
            format!("{:.1} µs", best.cpu_per_message()),
        ));
    }
    let cpu = hold.cpu_per_message();
    let echo_cpu = outcome.echo_hold.cpu_per_message();
    report.figures.push(
        Figure::new(format!("server CPU per message at {} /s", hold.rate), format!("{cpu:.1} µs"))
            .against(format!("bare echo {echo_cpu:.1} µs"), cpu / echo_cpu.max(0.01)),
    );
    let worst = hold.p99_ms();
    report.figures.push(
        Figure::new(format!("ack at {} /s", hold.rate), hold.tally.ack.to_string())
            .against(format!("bare echo p99 {:.1} ms", outcome.echo_hold.tally.ack.ms(0.99)), {
                hold.tally.ack.ms(0.99) / outcome.echo_hold.tally.ack.ms(0.99).max(0.001)
            })
            .must("p99 ≤ 100 ms", worst <= 100.0 && hold.tally.refused == 0),
    );
    let delivery = Figure::new(format!("delivery at {} /s", hold.rate), hold.tally.delivery.to_string());
    report.figures.push(delivery.must("p99 ≤ 100 ms", worst <= 100.0));
    report.notes = notes(outcome, each, grouped);
    report
}

fn notes(outcome: &Outcome, each: Appended, grouped: Appended) -> Vec<String> {
    let hold = &outcome.hold;
    let (server, own) = hold.cores();
    let mut notes = vec![
        format!(
            "One-to-one: {PAIRS} pairs, contents of {CONTENT_BYTES} bytes, full mode, each recipient says `delivered`; \
             open loop, latencies from the intended time (the generator's timer adds up to 1 ms). A rate is sustained when it holds for 30 s; it holds when \
             97 % are acked by the end of a step and p99 of ack and delivery is at most {HELD_P99_MS} ms.",
        ),
        format!(
            "The long step: {} messages acked and delivered, none lost, {:.0} on their way on average, lateness of the \
             writes p99 {:.1} ms; {server:.2} cores for the server, {own:.2} for the generator.",
            hold.tally.acked,
            hold.in_flight(),
            hold.tally.lateness.ms(0.99),
        ),
        format!(
            "Append + fdatasync: {} threads, each appends and syncs by itself, {:.1} µs of CPU a record; the medians of {} \
             measurements. Grouped: as many tasks hand their records to one writer, {:.0} records per fdatasync, {:.1} µs.",
            outcome.append_tasks,
            each.cpu_micros,
            outcome.appends.len(),
            grouped.group,
            grouped.cpu_micros,
        ),
    ];
    notes.extend(outcome.steps.iter().map(|step| format!("search, {step}")));
    notes
}

fn median(appends: impl Iterator<Item = Appended>) -> Appended {
    let mut sorted: Vec<Appended> = appends.collect();
    sorted.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    sorted[sorted.len() / 2]
}
