//! What the mesh's stacks cost: CPU time of this process, client and server together, over HTTP/2 on loopback, for calls
//! through both stacks and for the same calls through bare tonic, in turns.
//!
//! `cargo bench -p confab-mesh`. Metrics are recorded, traces are not sampled; a policy, deadlines, the limit, the breaker
//! and, for one of the methods, retries are on. It fails if a ratio is above its bound.

#![expect(clippy::print_stdout, reason = "a benchmark says what it found")]

mod echo;
mod load;
mod telemetry;

use std::process::ExitCode;

use confab_mesh::Peer;

use crate::echo::Ends;

/// Of each kind of call, in turns; the first turn warms up and is not counted.
const TURNS: usize = 12;
/// The most that the stacks may cost, in hundredths of bare tonic.
const UNARY_MAX: u64 = 140;
const STREAMED_MAX: u64 = 125;

#[derive(Clone, Copy)]
enum Kind {
    /// One at a time per task, 64 tasks.
    Unary,
    /// The same, of a method that is named idempotent.
    Idempotent,
    /// Echoed on one stream.
    Streamed,
}

fn main() -> ExitCode {
    telemetry::install();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(async {
        let ends = Ends::start().await;
        let mut fine = true;
        println!("CPU time per call or message of 1 KiB, median of {} turns each:", TURNS - 1);
        for (kind, name, max) in [
            (Kind::Unary, "unary call", UNARY_MAX),
            (Kind::Idempotent, "idempotent unary call", UNARY_MAX),
            (Kind::Streamed, "streamed message", STREAMED_MAX),
        ] {
            fine &= compare(&ends, kind, name, max).await;
        }
        if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Whether the ratio is within its bound.
async fn compare(ends: &Ends, kind: Kind, name: &str, max: u64) -> bool {
    let (mut bare, mut meshed) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        for (peer, nanos) in [(&ends.bare, &mut bare), (&ends.meshed, &mut meshed)] {
            let took = turn_of(peer, kind).await;
            if turn > 0 {
                nanos.push(took);
            }
        }
    }
    let (bare, meshed) = (median(bare), median(meshed));
    let ratio = meshed * 100 / bare;
    let verdict = if ratio <= max { "within" } else { "ABOVE" };
    println!(
        "{name:<22} bare tonic {:>6} ns, with the stacks {:>6} ns: {}.{:02}x, {verdict} {}.{:02}x",
        bare,
        meshed,
        ratio / 100,
        ratio % 100,
        max / 100,
        max % 100
    );
    ratio <= max
}

async fn turn_of(peer: &Peer, kind: Kind) -> u64 {
    match kind {
        Kind::Unary => load::unary(peer, echo::SAY).await,
        Kind::Idempotent => load::unary(peer, echo::GET).await,
        Kind::Streamed => load::streamed(peer).await,
    }
}

fn median(mut nanos: Vec<u64>) -> u64 {
    nanos.sort_unstable();
    nanos[nanos.len() / 2]
}
