//! What every scenario needs: the server's program, a folder on a real disk, and the limits of this process.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::statfs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::Options;
use crate::progress::Progress;
use crate::server::Server;

/// Files that a process needs besides its connections.
const FILES_APART: u64 = 300;

/// The surroundings of a run.
pub struct Lab {
    confab: PathBuf,
    work: PathBuf,
    /// Whether to be short.
    pub quick: bool,
    /// Unanswered messages per connection at most.
    pub in_flight_max: u32,
    /// Concurrent records of the append baseline.
    pub append_tasks: u32,
    /// Tells where the run is.
    pub progress: Progress,
}

impl Lab {
    /// Checks the program and the folder.
    pub fn new(options: &Options) -> Result<Self> {
        let work = options.work.clone().map_or_else(default_work, Ok)?;
        std::fs::create_dir_all(&work).with_context(|| format!("can't make {}", work.display()))?;
        must_be_a_disk(&work)?;
        raise_file_limit()?;
        Ok(Self {
            confab: options.confab.clone(),
            work,
            quick: options.quick,
            in_flight_max: options.in_flight.max(1),
            append_tasks: options.append_tasks.max(1),
            progress: Progress::new(),
        })
    }

    /// A fresh server with a fresh data folder.
    pub async fn confab(&self) -> Result<Server> {
        Server::confab(&self.confab, &self.work).await
    }

    /// The folder on a real disk.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// One number for a full run, another for a quick one.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Lets this process open as many files as it may; servers started later inherit it.
pub fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).context("can't raise the limit of open files")?;
    }
    Ok(())
}

/// Connections that one process can hold.
pub fn connections_max() -> u32 {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    u32::try_from(files.saturating_sub(FILES_APART)).unwrap_or(u32::MAX)
}

/// `bench-data` in the target folder that this program lies in.
fn default_work() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where is this program?")?;
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let target = target.context("this program lies in no target folder: say --work DIR")?;
    Ok(target.join("bench-data"))
}

/// On tmpfs an fdatasync costs nothing, and the durable figures would mean nothing.
fn must_be_a_disk(folder: &Path) -> Result<()> {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let kind = statfs(folder).with_context(|| format!("can't look at {}", folder.display()))?.f_type;
    if [TMPFS, RAMFS].contains(&u64::try_from(kind).unwrap_or(0)) {
        bail!("{} is in memory, not on a disk: say --work DIR", folder.display());
    }
    Ok(())
}
