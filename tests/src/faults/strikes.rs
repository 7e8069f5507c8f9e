//! What happens to the mesh, and how it is made whole for the next row.

use std::time::Duration;

use anyhow::Context as _;
use confab_test_servers::Cassandra;
use tokio::time::sleep;

use super::cut::{Cut, End};
use super::table::Strike;
use crate::harness::{Mesh, Signal};

/// How long a process may take to end when it is asked to: more than its own bounds together.
const EXIT: Duration = Duration::from_secs(40);

/// Returns when it is over: a process that was killed stays away.
pub(super) async fn strike(strike: Strike, mesh: &mut Mesh, cassandra: &Cassandra) -> anyhow::Result<()> {
    match strike {
        Strike::Nothing => {}
        Strike::Kill(name) => mesh.process(name).kill9()?,
        Strike::Freeze(name, time) => {
            mesh.process(name).signal(Signal::Stop)?;
            sleep(time).await;
            mesh.process(name).signal(Signal::Cont)?;
        }
        Strike::RollingRestart => {
            let names: Vec<String> = mesh.processes.keys().cloned().collect();
            for name in names {
                restart(mesh, &name).await?;
            }
        }
        Strike::KillStore(node) => cassandra.node("kill", node)?,
        Strike::Cut { caller, called, both, time } => {
            let cut = Cut::make(end(mesh, caller)?, end(mesh, called)?, both)?;
            sleep(time).await;
            drop(cut);
        }
    }
    Ok(())
}

/// For the next row.
pub(super) async fn mend(strike: Strike, mesh: &mut Mesh, cassandra: &Cassandra) -> anyhow::Result<()> {
    match strike {
        Strike::Kill(name) => {
            mesh.process(name).respawn()?;
            mesh.process(name).wait_ready().await
        }
        Strike::KillStore(node) => cassandra.node("start", node),
        _ => Ok(()),
    }
}

/// It is asked to end, and started again.
async fn restart(mesh: &mut Mesh, name: &str) -> anyhow::Result<()> {
    let process = mesh.process(name);
    process.signal(Signal::Term)?;
    process.wait_exit(EXIT).await?;
    process.respawn()?;
    process.wait_ready().await
}

fn end(mesh: &mut Mesh, name: &str) -> anyhow::Result<End> {
    let (role, at) = name.rsplit_once('-').with_context(|| format!("{name} has no number"))?;
    let address = mesh.grpc(role, at.parse()?);
    let group = mesh.process(name).spec().group;
    let group = group.with_context(|| format!("{name} has no group id of its own: only root can give it one"))?;
    Ok(End { group, address })
}
