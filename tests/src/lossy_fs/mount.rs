//! The FUSE side: translates requests to [`Disk`] and back. One thread serves them, in the kernel's order.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tokio::sync::watch;

use super::disk::{Disk, Ino, Kind, Node};

/// Only this file system changes its files, so the kernel may keep names and attributes.
const KEEP: Duration = Duration::from_secs(3600);

pub(super) struct Mounted {
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) cut: watch::Sender<bool>,
}

impl Mounted {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// Runs a change, and tells who waits when it was the one that the cut was armed for.
    fn change<T>(&self, run: impl FnOnce(&mut Disk) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut disk = self.disk();
        let result = run(&mut disk);
        if disk.is_cut() {
            self.cut.send_replace(true);
        }
        result
    }

    fn entry(&self, ino: Result<Ino, Errno>, reply: ReplyEntry) {
        match ino.and_then(|ino| attr(&self.disk(), ino)) {
            Ok(attr) => reply.entry(&KEEP, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }
}

pub(super) fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn attr(disk: &Disk, ino: Ino) -> Result<FileAttr, Errno> {
    disk.alive()?;
    let node = disk.node(ino)?;
    let (kind, size, pages) = match &node.kind {
        Kind::File(file) => (FileType::RegularFile, file.live.size(), file.live.page_count()),
        Kind::Dir(_) => (FileType::Directory, 0, 0),
    };
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: pages * 8,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: node.mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn bits(mode: u32, umask: u32) -> u16 {
    u16::try_from(mode & !umask & 0o7777).unwrap_or(0o644)
}

impl Filesystem for Mounted {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.disk().lookup(parent.0, name);
        self.entry(found, reply);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match attr(&self.disk(), ino.0) {
            Ok(attr) => reply.attr(&KEEP, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = self.change(|disk| {
            if let Some(size) = size {
                disk.set_size(ino.0, size)?;
            }
            if let (Some(mode), Some(node)) = (mode, disk.nodes.get_mut(&ino.0)) {
                node.mode = bits(mode, 0);
            }
            attr(disk, ino.0)
        });
        match result {
            Ok(attr) => reply.attr(&KEEP, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = self.change(|disk| disk.create(parent.0, name, Node::file(bits(mode, umask))));
        self.entry(made, reply);
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.change(|disk| disk.create(parent.0, name, Node::dir(bits(mode, umask))));
        self.entry(made, reply);
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.change(|disk| {
            let ino = disk.create(parent.0, name, Node::file(bits(mode, umask)))?;
            attr(disk, ino)
        });
        match made {
            Ok(attr) => reply.created(&KEEP, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Direct: each write arrives here when the program makes it, as in a page cache that nobody writes back.
        match attr(&self.disk(), ino.0) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().read(ino.0, offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.change(|disk| {
            disk.write(ino.0, offset, data)?;
            if flags.0 & (libc::O_SYNC | libc::O_DSYNC) != 0 {
                disk.sync_file(ino.0)?;
            }
            Ok(())
        });
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let alive = self.disk().alive();
        empty(alive, reply);
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(self.change(|disk| disk.sync_file(ino.0)), reply);
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(self.change(|disk| disk.sync_dir(ino.0)), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(|disk| disk.unlink(parent.0, name)), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(|disk| disk.rmdir(parent.0, name)), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            reply.error(Errno::EINVAL);
            return;
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        empty(self.change(|disk| disk.rename((parent.0, name), (newparent.0, newname), replace)), reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let disk = self.disk();
        let dir = match disk.alive().and_then(|()| disk.dir(ino.0)) {
            Ok(dir) => dir,
            Err(error) => return reply.error(error),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (name, child)) in (offset + 1..).zip(dir.live.iter().skip(skip)) {
            let kind = if disk.dir(*child).is_ok() { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*child), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 28; // 1 TiB, all free
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
