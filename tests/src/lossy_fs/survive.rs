//! What a power cut leaves: draws, from the seed, which unsynced changes made it to the disk, and writes the result out.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::disk::{DataOp, Disk, FileNode, Ino, Kind, Node, ROOT};
use super::pages::{PAGE, Pages};

/// What was left of what was not synced.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// Files on the disk after the cut.
    pub files: u64,
    /// Unsynced writes and truncations that survived, a torn one included.
    pub data_kept: u64,
    /// Unsynced writes and truncations that did not, or only in part.
    pub data_lost: u64,
    /// Unsynced creations, renames and removals that survived.
    pub names_kept: u64,
    /// Unsynced creations, renames and removals that did not.
    pub names_lost: u64,
    /// Their names, for who asks why something is missing.
    pub lost_names: Vec<String>,
}

impl Disk {
    /// Draws the survivors into the durable state. Call once, after the cut.
    pub(super) fn settle(&mut self) -> Leftovers {
        let mut left = Leftovers::default();
        let mut inos: Vec<Ino> = self.nodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            if let Some(Node { kind: Kind::File(file), .. }) = self.nodes.get_mut(&ino) {
                settle_file(file, &mut self.rng, &mut left);
            }
        }
        let pending = std::mem::take(&mut self.meta);
        let kept = self.rng.random_range(0..=pending.len());
        for op in &pending[..kept] {
            self.commit(op);
        }
        for edit in pending[kept..].iter().flat_map(|op| &op.0) {
            let sign = if edit.to.is_some() { '+' } else { '-' };
            left.lost_names.push(format!("{sign}{}", edit.name.to_string_lossy()));
        }
        left.names_kept = kept as u64;
        left.names_lost = (pending.len() - kept) as u64;
        left
    }

    /// Writes the durable state into the empty or missing folder `into`.
    pub(super) fn write_out(&self, into: &Path, left: &mut Leftovers) -> io::Result<()> {
        self.write_node(ROOT, into, left)
    }

    fn write_node(&self, ino: Ino, at: &Path, left: &mut Leftovers) -> io::Result<()> {
        let Some(node) = self.nodes.get(&ino) else {
            return Ok(());
        };
        match &node.kind {
            Kind::File(file) => {
                file.durable.store(at)?;
                left.files += 1;
            }
            Kind::Dir(dir) => {
                fs::create_dir_all(at)?;
                for (name, child) in &dir.durable {
                    self.write_node(*child, &at.join(name), left)?;
                }
            }
        }
        fs::set_permissions(at, fs::Permissions::from_mode(u32::from(node.mode)))
    }

    /// Takes the folder `from` over as durable state.
    pub(super) fn load(&mut self, from: &Path, at: Ino) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let mode = u16::try_from(meta.permissions().mode() & 0o7777).unwrap_or(0o644);
            let mut node = if meta.is_dir() { Node::dir(mode) } else { Node::file(mode) };
            if let Kind::File(file) = &mut node.kind {
                file.durable = Pages::load(&entry.path())?;
                file.live = file.durable.clone();
            }
            let ino = self.adopt(node);
            if let Some(Node { kind: Kind::Dir(dir), .. }) = self.nodes.get_mut(&at) {
                dir.live.insert(entry.file_name(), ino);
                dir.durable.insert(entry.file_name(), ino);
            }
            if meta.is_dir() {
                self.load(&entry.path(), ino)?;
            }
        }
        Ok(())
    }
}

fn settle_file(file: &mut FileNode, rng: &mut StdRng, left: &mut Leftovers) {
    let pending = std::mem::take(&mut file.pending);
    if pending.is_empty() {
        return;
    }
    if rng.random_ratio(1, 4) {
        settle_scattered(file, &pending, rng, left);
        return;
    }
    let kept = rng.random_range(0..=pending.len());
    for op in &pending[..kept] {
        op.apply(&mut file.durable);
    }
    if let Some(DataOp::Write { offset, data }) = pending.get(kept)
        && rng.random_bool(0.5)
    {
        let torn = rng.random_range(0..=data.len());
        file.durable.write(*offset, &data[..torn]);
    }
    left.data_kept += kept as u64;
    left.data_lost += (pending.len() - kept) as u64;
}

/// Write-back in any order: each page of each write survives or not; a size may grow past data that never came.
fn settle_scattered(file: &mut FileNode, pending: &[DataOp], rng: &mut StdRng, left: &mut Leftovers) {
    for op in pending {
        let DataOp::Write { offset, data } = op else {
            op.apply(&mut file.durable);
            left.data_kept += 1;
            continue;
        };
        let mut at = *offset;
        let mut rest = &data[..];
        let mut whole = true;
        while !rest.is_empty() {
            let room = usize::try_from(PAGE - at % PAGE).unwrap_or(rest.len());
            let (now, later) = rest.split_at(rest.len().min(room));
            if rng.random_bool(0.5) {
                file.durable.write(at, now);
            } else {
                whole = false;
            }
            at += now.len() as u64;
            rest = later;
        }
        left.data_kept += u64::from(whole);
        left.data_lost += u64::from(!whole);
    }
}
