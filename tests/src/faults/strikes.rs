//! What happens to the mesh, and how it is made whole for the next row.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use confab_test_servers::{Cassandra, Redis};
use tokio::time::sleep;

use super::cut::{Cut, End};
use super::table::Strike;
use super::wiring::{self, Wired, Wiring};
use crate::foreign;
use crate::harness::{Mesh, Process, Signal};

/// How long a process may take to end when it is asked to: more than its own bounds together.
const EXIT: Duration = Duration::from_secs(75);
/// Between two processes of a rollout, as minReadySeconds of a Kubernetes Deployment: one drain is felt at a time, and it is one
/// that has a bound; a message-svc has its part of the chats again 8 to 10 s after it has come.
const SETTLED: Duration = Duration::from_secs(12);
/// How long new instances keep their chats.
const TOGETHER: Duration = Duration::from_secs(10);

/// What has to be there before: no part of what happens.
pub(super) fn prepare(strike: Strike) -> anyhow::Result<()> {
    match strike {
        Strike::Cut { .. } => foreign::nft(),
        _ => Ok(()),
    }
}

/// Returns when it is over: a process that was killed stays away.
pub(super) async fn strike(strike: Strike, wired: &mut Wired, cassandra: &Cassandra) -> anyhow::Result<()> {
    let Wired { mesh, proxy, redis, store } = wired;
    let begun = Instant::now();
    match strike {
        Strike::Nothing => {}
        Strike::Kill(name) => mesh.process(name).kill9()?,
        Strike::Freeze(name, time) => {
            mesh.process(name).signal(Signal::Stop)?;
            sleep(time).await;
            mesh.process(name).signal(Signal::Cont)?;
        }
        Strike::RollingRestart => roll(mesh, begun).await?,
        Strike::RollingUpgrade => {
            store.migrate()?;
            mesh.processes.values_mut().for_each(|process| process.replace_program(None));
            roll(mesh, begun).await?;
        }
        Strike::Slow { by, time, .. } => {
            let proxy = proxy.as_ref().context("there is no proxy in this mesh")?;
            proxy.slow(by).await?;
            sleep(time).await;
            proxy.heal().await?;
        }
        Strike::ScaleOut => scale_out(mesh, begun).await?,
        Strike::KillStore(node) => cassandra.node("kill", node)?,
        Strike::KillCache => drop(redis.as_ref().context("there is no Redis in this mesh")?.kill_primary()?),
        Strike::Cut { caller, called, both, time } => {
            let cut = Cut::make(end(mesh, caller)?, end(mesh, called)?, both)?;
            sleep(time).await;
            drop(cut);
        }
    }
    Ok(())
}

/// For the next row.
pub(super) async fn mend(strike: Strike, wired: &mut Wired, cassandra: &Cassandra) -> anyhow::Result<()> {
    let mesh = &mut wired.mesh;
    match strike {
        Strike::Kill(name) => {
            mesh.process(name).respawn()?;
            mesh.process(name).wait_ready().await
        }
        Strike::KillStore(node) => cassandra.node("start", node),
        Strike::KillCache => wired.redis.as_ref().map_or(Ok(()), Redis::up),
        _ => Ok(()),
    }
}

/// One after the other. Edges come last: who calls may have calls that who is called doesn't know before.
async fn roll(mesh: &mut Mesh, begun: Instant) -> anyhow::Result<()> {
    let (edges, services): (Vec<_>, Vec<_>) =
        mesh.processes.values_mut().partition(|process| process.name().starts_with("edge-"));
    for process in services.into_iter().chain(edges) {
        restart(process, begun).await?;
    }
    Ok(())
}

/// It is asked to end, and started again. Tells when, since `begun`: what a row's slowest message met can be found out by it.
async fn restart(process: &mut Process, begun: Instant) -> anyhow::Result<()> {
    let now = || begun.elapsed().as_secs_f64();
    let asked = now();
    process.signal(Signal::Term)?;
    process.wait_exit(EXIT).await?;
    let ended = now();
    process.respawn()?;
    process.wait_ready().await?;
    let ready = now();
    sleep(SETTLED).await;
    println!("  {}: asked to end at {asked:.1} s, ended at {ended:.1} s, ready again at {ready:.1} s", process.name());
    Ok(())
}

/// From two message-svc to four and back.
async fn scale_out(mesh: &mut Mesh, begun: Instant) -> anyhow::Result<()> {
    let more = [2, 3];
    for at in more {
        let mut spec = mesh.spec("message-svc", at);
        wiring::wire(mesh, Wiring::Gossip, &mut spec);
        mesh.spawn(spec)?;
    }
    let names = more.map(|at| format!("message-svc-{at}"));
    for name in &names {
        mesh.process(name).wait_ready().await?;
    }
    mesh.until_shared(4).await?;
    println!("  four own chats at {:.1} s", begun.elapsed().as_secs_f64());
    sleep(TOGETHER).await;
    for name in &names {
        println!("  {name}: asked to end at {:.1} s", begun.elapsed().as_secs_f64());
        mesh.process(name).signal(Signal::Term)?;
        mesh.process(name).wait_exit(EXIT).await?;
        mesh.processes.remove(name);
        sleep(SETTLED).await;
    }
    Ok(())
}

fn end(mesh: &mut Mesh, name: &str) -> anyhow::Result<End> {
    let (role, at) = name.rsplit_once('-').with_context(|| format!("{name} has no number"))?;
    let address = mesh.grpc(role, at.parse()?);
    let group = mesh.process(name).spec().group;
    let group = group.with_context(|| format!("{name} has no group id of its own: only root can give it one"))?;
    Ok(End { group, address })
}
