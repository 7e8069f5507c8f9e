//! A store that comes into being whole or not at all.
//!
//! fjall syncs what it writes, but not the entry of a new keyspace's folder in its parent: after a power cut the folder could
//! be missing, and the journal's entries for it would be dropped. And a cut within its creation leaves half a store, which it
//! can't open. So a new store is made under another name, synced to its last folder, and then renamed.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::OpenError;
use super::tables::Tables;

/// Makes the store in `folder`, unless it is there. What an earlier attempt left half done is thrown away: nothing was ever
/// acked from it.
pub(super) fn create_whole(folder: &Path) -> Result<(), OpenError> {
    if folder.join("version").exists() || folder.join("keyspaces").exists() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut unfinished = folder.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    match fs::remove_dir_all(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::create_dir_all(parent)?;
    drop(Tables::open(unfinished)?);
    sync_tree(unfinished)?;
    if folder.exists() {
        // Only an empty one is left here: `rename` refuses any other.
        fs::remove_dir(folder)?;
    }
    fs::rename(unfinished, folder)?;
    Ok(sync_folder(parent)?)
}

/// Makes a folder's entries durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Syncs every file and folder, the deepest first.
fn sync_tree(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::{Durability, Embedded};

    #[test]
    fn half_a_store_is_made_anew_and_a_whole_one_is_left_alone() {
        let data = tempfile::tempdir().expect("a folder");
        let store = data.path().join("messages");
        let half = data.path().join("messages.new");
        fs::create_dir(&half).expect("made");
        fs::write(half.join("version"), b"F").expect("written");
        create_whole(&store).expect("made anew");
        assert!(store.join("version").exists() && !half.exists());
        let marker = store.join("marker");
        fs::write(&marker, b"x").expect("written");
        create_whole(&store).expect("left alone");
        assert!(marker.exists());
        drop(Embedded::open(&store, Durability::Synced).expect("it opens"));
    }
}
