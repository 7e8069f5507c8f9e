//! `confab-bench`: see [`confab_bench`].
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this program does")]

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use confab_bench::cli::Cli;
use confab_bench::report::Report;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(cli.options.threads.max(1)).enable_all().build()?;
    let report = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        // Either way the run's future is dropped, and with it every process that it started.
        tokio::select! {
            report = confab_bench::run(cli) => report,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                anyhow::bail!("interrupted")
            }
            _ = terminated.recv() => anyhow::bail!("terminated"),
        }
    });
    runtime.shutdown_background();
    match report? {
        Some(report) => finish(cli, &report),
        None => Ok(true),
    }
}

fn finish(cli: &Cli, report: &Report) -> Result<bool> {
    let quick = cli.options.quick;
    let text = report.markdown(quick);
    println!("{text}");
    if let Some(out) = &cli.options.out {
        std::fs::write(out, &text).with_context(|| format!("can't write {}", out.display()))?;
    }
    let missed = report.missed();
    for must in &missed {
        eprintln!("missed: {must}");
    }
    Ok(missed.is_empty() || quick)
}
