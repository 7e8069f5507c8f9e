//! A file system that forgets what was not synced: the power-loss test's disk.
//!
//! # The model
//! A FUSE mount (needs `/dev/fuse`, and root or `fusermount3`) whose files live in memory, each twice: as programs see
//! it, and as a power cut would leave it. It is meant to be at least as forgetful as ext4, xfs or btrfs:
//!
//! - A **file's data and size** become durable by fsync or fdatasync of that file (or a write under `O_SYNC`/`O_DSYNC`),
//!   by nothing else: no timer, no `close`, no sync of another file.
//! - A **name** (creation, rename, removal, `mkdir`) becomes durable by an fsync of its directory, by nothing else.
//!   Real ext4 also makes a new file's name durable with the file's own fsync; a store must not count on that.
//!   A rename between directories is atomic; a sync of either commits it, with the earlier changes it depends on.
//! - At the **cut** every operation fails with EIO, the one that triggers it included. Of the unsynced changes survive,
//!   drawn from the seed: of the name changes of the whole disk a prefix (a journal keeps their order); per file, with
//!   chance 3/4, a prefix of its writes and truncations, the last one possibly torn; else each 4 KiB page of each
//!   write by itself (write-back in any order), where a file's size can be ahead of its data.
//!
//! Permission bits aren't modelled (never lost); times, links, extended attributes and `fallocate` don't exist; flock
//! works, by the kernel.

mod disk;
mod mount;
mod pages;
mod survive;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuser::{BackgroundSession, Config, MountOption};
use tokio::sync::watch;

pub use disk::OpCounts;
pub use survive::Leftovers;

use disk::{Disk, ROOT};
use mount::{Mounted, lock};

/// A mounted lossy disk. Dropping it unmounts.
pub struct LossyFs {
    disk: Arc<Mutex<Disk>>,
    cut: watch::Sender<bool>,
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
}

impl LossyFs {
    /// Mounts at `mountpoint` (made if missing), with the content of `from`, all durable, or empty.
    ///
    /// # Errors
    /// If `from` can't be read, or FUSE doesn't work here.
    pub fn mount(mountpoint: &Path, from: Option<&Path>, seed: u64) -> io::Result<Self> {
        std::fs::create_dir_all(mountpoint)?;
        let mut disk = Disk::new(seed);
        if let Some(from) = from {
            disk.load(from, ROOT)?;
        }
        let disk = Arc::new(Mutex::new(disk));
        let cut = watch::Sender::new(false);
        let mounted = Mounted { disk: Arc::clone(&disk), cut: cut.clone() };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("confab-lossy".to_owned()), MountOption::NoAtime];
        let session = fuser::spawn_mount(mounted, mountpoint, &config).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot mount FUSE at {}: {error}", mountpoint.display()))
        })?;
        Ok(Self { disk, cut, mountpoint: mountpoint.to_owned(), session: Some(session) })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Cuts the power at the `ops`-th change or sync from now (1 = the next one).
    pub fn arm(&self, ops: u64) {
        lock(&self.disk).arm(ops);
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        lock(&self.disk).cut();
        self.cut.send_replace(true);
    }

    /// Becomes true when the power is cut.
    #[must_use]
    pub fn watch_cut(&self) -> watch::Receiver<bool> {
        self.cut.subscribe()
    }

    #[must_use]
    pub fn counts(&self) -> OpCounts {
        lock(&self.disk).counts
    }

    /// Cuts the power if that hasn't happened, unmounts, and writes what is left into the folder `into`.
    /// End the processes that use the mount first.
    ///
    /// # Errors
    /// If `into` can't be written.
    pub fn materialise(mut self, into: &Path) -> io::Result<Leftovers> {
        self.cut();
        self.unmount();
        let mut disk = lock(&self.disk);
        let mut left = disk.settle();
        disk.write_out(into, &mut left)?;
        Ok(left)
    }

    fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            // A lazy unmount: the serving thread ends when the last user of the mount has closed its files.
            drop(session);
        }
    }
}

impl Drop for LossyFs {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[cfg(test)]
mod tests;
