//! Confab's load generator: it speaks the public protocol, sends on a schedule that does not wait for the server, and
//! measures from the intended time. Linux only (`/proc`).
//!
//! A map: [`schedule`], [`search`], [`scan`], [`frame`] and [`fit`] are pure; [`client`], [`http`], [`sender`] and
//! [`receiver`] are one connection; [`pairs`], [`crowd`], [`flapping`] and, for a mesh, [`mix`] are loads; [`server`] and [`probe`] are the process under
//! test; [`baseline`] is what the bare machine does; [`scenario`] puts them together, and [`report`] is what comes out.

pub mod baseline;
pub mod board;
pub mod cli;
pub mod client;
pub mod clock;
pub mod crowd;
pub mod fit;
pub mod flapping;
pub mod frame;
pub mod holder;
pub mod http;
pub mod lab;
pub mod mix;
pub mod pairs;
pub mod probe;
pub mod progress;
pub mod receiver;
pub mod recorder;
pub mod report;
pub mod scan;
pub mod scenario;
pub mod schedule;
pub mod search;
pub mod sender;
pub mod server;
pub mod token;
pub mod wait;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, BufReader, stdin};

use crate::cli::{Cli, Command};
use crate::lab::Lab;
use crate::report::Report;

/// Does what the command line says; the hidden peers have nothing to report.
pub async fn run(cli: &Cli) -> Result<Option<Report>> {
    match &cli.command {
        Command::BareEcho => baseline::echo::serve(end_of_stdin()).await.map(|()| None),
        Command::BareWrite { connections } => {
            baseline::write_loop::serve(*connections, BufReader::new(stdin())).await.map(|()| None)
        }
        Command::Hold { addr, data, first_user } => holder::serve(*addr, data, *first_user).await.map(|()| None),
        command => {
            let lab = Lab::new(&cli.options)?;
            let report = measure(&lab, command).await;
            lab.progress.done();
            report.map(Some)
        }
    }
}

async fn measure(lab: &Lab, command: &Command) -> Result<Report> {
    let all = matches!(command, Command::All);
    let mut report = Report::default();
    if let Command::OneToOne { rate } = command {
        report.extend(scenario::one_to_one::run(lab, *rate).await.context("one-to-one")?);
    } else if all {
        report.extend(scenario::one_to_one::run(lab, None).await.context("one-to-one")?);
    }
    if all || matches!(command, Command::Group) {
        report.extend(scenario::group::run(lab).await.context("group")?);
    }
    if all || matches!(command, Command::Reconnect) {
        report.extend(scenario::reconnect::run(lab).await.context("reconnect")?);
    }
    if all || matches!(command, Command::Presence) {
        report.extend(scenario::presence::run(lab).await.context("presence")?);
    }
    if let Command::Memory { connections } = command {
        report.extend(scenario::memory::run(lab, connections.as_deref()).await.context("memory")?);
    } else if all {
        report.extend(scenario::memory::run(lab, None).await.context("memory")?);
    }
    if all || matches!(command, Command::SlowClient) {
        report.extend(scenario::slow_client::run(lab).await.context("slow-client")?);
    }
    Ok(report)
}

async fn end_of_stdin() {
    let mut rest = Vec::new();
    let _ = stdin().read_to_end(&mut rest).await;
}
