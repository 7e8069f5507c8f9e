//! The disk's state: what programs see (`live`) and what a power cut cannot take (`durable`). No FUSE here, no clock.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use fuser::Errno;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::pages::Pages;

pub(super) type Ino = u64;
pub(super) const ROOT: Ino = 1;

/// What happened to a file's data since its last sync, in order.
pub(super) enum DataOp {
    Write { offset: u64, data: Vec<u8> },
    SetSize(u64),
}

impl DataOp {
    pub(super) fn apply(&self, to: &mut Pages) {
        match self {
            Self::Write { offset, data } => to.write(*offset, data),
            Self::SetSize(size) => to.set_size(*size),
        }
    }
}

#[derive(Default)]
pub(super) struct FileNode {
    pub(super) live: Pages,
    pub(super) durable: Pages,
    pub(super) pending: Vec<DataOp>,
}

#[derive(Default)]
pub(super) struct DirNode {
    pub(super) live: BTreeMap<OsString, Ino>,
    pub(super) durable: BTreeMap<OsString, Ino>,
}

pub(super) enum Kind {
    File(FileNode),
    Dir(DirNode),
}

pub(super) struct Node {
    pub(super) kind: Kind,
    /// Permission bits. Not part of the model: never lost.
    pub(super) mode: u16,
}

impl Node {
    pub(super) fn dir(mode: u16) -> Self {
        Self { kind: Kind::Dir(DirNode::default()), mode }
    }

    pub(super) fn file(mode: u16) -> Self {
        Self { kind: Kind::File(FileNode::default()), mode }
    }
}

/// One change of one directory entry.
pub(super) struct Edit {
    pub(super) dir: Ino,
    pub(super) name: OsString,
    pub(super) to: Option<Ino>,
}

/// One atomic change of the name space: all of its edits survive, or none.
pub(super) struct MetaOp(pub(super) Vec<Edit>);

/// Counts of what the disk was asked to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpCounts {
    /// Changes and syncs; this is what `arm` counts.
    pub ops: u64,
    /// Of them, fsync and fdatasync of files.
    pub file_syncs: u64,
    /// Of them, fsync of directories.
    pub dir_syncs: u64,
}

pub(super) struct Disk {
    pub(super) nodes: HashMap<Ino, Node>,
    next: Ino,
    /// Name-space changes that no directory sync has made durable yet, oldest first.
    pub(super) meta: Vec<MetaOp>,
    pub(super) counts: OpCounts,
    cut_at: Option<u64>,
    dead: bool,
    pub(super) rng: StdRng,
}

impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::dir(0o755))]),
            next: ROOT + 1,
            meta: Vec::new(),
            counts: OpCounts::default(),
            cut_at: None,
            dead: false,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn arm(&mut self, ops: u64) {
        self.cut_at = Some(self.counts.ops + ops.max(1));
    }

    pub(super) fn cut(&mut self) {
        self.dead = true;
    }

    pub(super) fn is_cut(&self) -> bool {
        self.dead
    }

    pub(super) fn alive(&self) -> Result<(), Errno> {
        if self.dead { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Counts a change or a sync. The one that the cut was armed for fails: a change was noted as unsynced before, a
    /// sync did nothing yet.
    fn tick(&mut self) -> Result<(), Errno> {
        self.counts.ops += 1;
        if self.cut_at.is_some_and(|at| self.counts.ops >= at) {
            self.dead = true;
        }
        self.alive()
    }

    pub(super) fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::ENOENT)
    }

    pub(super) fn dir(&self, ino: Ino) -> Result<&DirNode, Errno> {
        match &self.node(ino)?.kind {
            Kind::Dir(dir) => Ok(dir),
            Kind::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn file(&self, ino: Ino) -> Result<&FileNode, Errno> {
        match &self.node(ino)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Dir(_) => Err(Errno::EISDIR),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> Result<&mut FileNode, Errno> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.kind) {
            Some(Kind::File(file)) => Ok(file),
            Some(Kind::Dir(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    pub(super) fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Ino, Errno> {
        self.alive()?;
        self.dir(dir)?.live.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn create(&mut self, dir: Ino, name: &OsStr, node: Node) -> Result<Ino, Errno> {
        self.alive()?;
        if self.dir(dir)?.live.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let ino = self.adopt(node);
        self.change(vec![Edit { dir, name: name.to_owned(), to: Some(ino) }])?;
        Ok(ino)
    }

    /// Gives a node its number; nothing names it yet.
    pub(super) fn adopt(&mut self, node: Node) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        ino
    }

    pub(super) fn unlink(&mut self, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        self.file(self.lookup(dir, name)?)?;
        self.change(vec![Edit { dir, name: name.to_owned(), to: None }])
    }

    pub(super) fn rmdir(&mut self, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        if !self.dir(self.lookup(dir, name)?)?.live.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.change(vec![Edit { dir, name: name.to_owned(), to: None }])
    }

    pub(super) fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), replace: bool) -> Result<(), Errno> {
        let ino = self.lookup(from.0, from.1)?;
        if let Ok(old) = self.lookup(to.0, to.1) {
            if !replace {
                return Err(Errno::EEXIST);
            }
            if self.dir(old).is_ok_and(|dir| !dir.live.is_empty()) {
                return Err(Errno::ENOTEMPTY);
            }
        }
        self.change(vec![
            Edit { dir: from.0, name: from.1.to_owned(), to: None },
            Edit { dir: to.0, name: to.1.to_owned(), to: Some(ino) },
        ])
    }

    fn change(&mut self, edits: Vec<Edit>) -> Result<(), Errno> {
        for edit in &edits {
            if let Some(Node { kind: Kind::Dir(dir), .. }) = self.nodes.get_mut(&edit.dir) {
                set(&mut dir.live, edit);
            }
        }
        self.meta.push(MetaOp(edits));
        self.tick()
    }

    pub(super) fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.change_data(ino, DataOp::Write { offset, data: data.to_vec() })
    }

    pub(super) fn set_size(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        self.change_data(ino, DataOp::SetSize(size))
    }

    fn change_data(&mut self, ino: Ino, op: DataOp) -> Result<(), Errno> {
        self.alive()?;
        let file = self.file_mut(ino)?;
        op.apply(&mut file.live);
        file.pending.push(op);
        self.tick()
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        self.alive()?;
        Ok(self.file(ino)?.live.read(offset, len))
    }

    /// fsync or fdatasync of a file: its data and size, not its name.
    pub(super) fn sync_file(&mut self, ino: Ino) -> Result<(), Errno> {
        self.alive()?;
        self.counts.file_syncs += 1;
        self.tick()?;
        let file = self.file_mut(ino)?;
        for op in file.pending.drain(..) {
            op.apply(&mut file.durable);
        }
        Ok(())
    }

    /// fsync of a directory: its entries, and what the journal must have written before them.
    pub(super) fn sync_dir(&mut self, ino: Ino) -> Result<(), Errno> {
        self.alive()?;
        self.dir(ino)?;
        self.counts.dir_syncs += 1;
        self.tick()?;
        let mut touched = vec![ino];
        let mut commit = vec![false; self.meta.len()];
        for (slot, op) in commit.iter_mut().zip(&self.meta).rev() {
            if op.0.iter().any(|edit| touched.contains(&edit.dir)) {
                *slot = true;
                touched.extend(op.0.iter().map(|edit| edit.dir));
            }
        }
        let pending = std::mem::take(&mut self.meta);
        for (op, commit) in pending.into_iter().zip(commit) {
            if commit {
                self.commit(&op);
            } else {
                self.meta.push(op);
            }
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, op: &MetaOp) {
        for edit in &op.0 {
            if let Some(Node { kind: Kind::Dir(dir), .. }) = self.nodes.get_mut(&edit.dir) {
                set(&mut dir.durable, edit);
            }
        }
    }
}

fn set(entries: &mut BTreeMap<OsString, Ino>, edit: &Edit) {
    match edit.to {
        Some(ino) => entries.insert(edit.name.clone(), ino),
        None => entries.remove(&edit.name),
    };
}
